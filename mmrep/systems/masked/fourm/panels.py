"""Pictures for the report of an any-to-any model: every modality from every other, and chained generation under several guidance scales."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from mmrep.data import pipeline
from mmrep.model import Model
from mmrep.report.panels import Grid, Picture, Words
from mmrep.systems.masked.fourm.decode import condition, generate, init_empty_target
from mmrep.systems.masked.fourm.schedules import Target, chained_schedule

SCALES = (0.0, 1.0, 3.0, 6.0)
# Background first, then hues far apart.
CLASS_COLOURS = np.array(
    [
        (238, 236, 230), (214, 69, 65), (240, 173, 48), (98, 164, 88), (58, 121, 190), (132, 92, 172), (68, 179, 182),
        (226, 128, 174), (139, 98, 66), (90, 90, 90), (170, 190, 60), (30, 70, 120), (250, 210, 120),
    ],
    np.uint8,
)  # fmt: skip


def picture(x: Any) -> np.ndarray:
    """An array as uint8 pixels: [H, W, 3] numbers as colours, [H, W, 1] as grey, class ids [H, W] by a fixed palette."""
    x = np.asarray(x)
    if x.ndim == 2:
        return CLASS_COLOURS[x % len(CLASS_COLOURS)]
    pixels = (np.clip(x, 0, 1) * 255).round().astype(np.uint8)
    return pixels if pixels.shape[-1] == 3 else pixels[..., 0] if pixels.shape[-1] == 1 else pixels[..., :3]


def text(model: Model, ids: Any) -> str:
    """The words of a sequence's ids, without sentinels and padding."""
    words = model.tokenize.decode([int(i) for i in np.asarray(ids)]) if hasattr(model.tokenize, "decode") else ""
    return words or "(nothing)"


def cell(model: Model, name: str, ids: Any) -> Picture | Words:
    """One example's ids of a modality as a cell of a grid."""
    arrays = model.tokens().detokenize({name: np.asarray(ids)[None]})
    return Picture(picture(arrays[name][0])) if name in arrays else Words(text(model, ids))


def panels(model: Model, split: str = "test", examples: int = 2, seed: int = 0) -> list[Grid]:
    """A grid of each modality from each other for held-out examples beside the truth, and a grid of chained generation by guidance scale."""
    infer, held = model.tokens(), {m.name for m in model.data.modalities}
    known = [m for m in infer.modalities if m.name in held]
    pixels = [m.name for m in known if m.patch_size]
    names = [m.name for m in known if not m.input_only]
    sequences = tuple(m.name for m in infer.modalities if m.is_sequence)
    opened = model.split(split)
    rows = np.linspace(0, len(opened) - 1, examples).astype(int)
    entries = [opened.entry(int(i)) for i in rows]
    ids, values = infer.tokenize(pipeline.collate(entries))

    def generated(given: str, schedule: Sequence[Target]) -> dict[str, Any]:
        # Each state has all modalities, whichever is given: one shape, and one program per target.
        empty = init_empty_target(infer.modalities, [*pixels, *names], examples)
        mod_dict = condition(empty, infer.modalities, {given: ids[given]}, values)
        made = generate(infer, mod_dict, schedule, jax.random.key(seed))
        return {name: state.ids for name, state in made.items()}

    def schedule(targets: Sequence[str], given: str = "", scale: float = 1.0) -> tuple[Target, ...]:
        found = chained_schedule(targets, (given,), scale, scheme="roar", temperature=0.7, sequences=sequences)
        # Texts take the most likely tokens.
        return tuple(replace(x, temperature=0.0) if x.domain in sequences else x for x in found)

    truth: dict[str, list] = {n: [cell(model, n, ids[n][e]) for e in range(examples)] for n in names}
    truth |= {n: [Picture(picture(entry[n])) for entry in entries] for n in pixels}
    crossed = {(a, b): generated(a, schedule([b]))[b] for a in [*pixels, *names] for b in names if a != b}
    grids: list[Grid] = []
    note = (
        "Each row is one modality, given alone; its truth is at the left. Each column is one modality, predicted from it. "
        "The diagonal is the truth."
    )
    for e in range(examples):
        cells = [
            [truth[a][e], *(truth[b][e] if a == b else cell(model, b, crossed[a, b][e]) for b in names)]
            for a in [*pixels, *names]
        ]
        title = f"Every modality from every other, {split} {rows[e]}"
        grids.append(Grid(title, ["given", *names], [*pixels, *names], cells, note))
    given = next((n for n in names if n in sequences), names[0])
    order = [n for n in ("semseg", "rgb") if n in names and n != given] or [n for n in names if n != given][:2]
    chained = {scale: generated(given, schedule(order, given, scale)) for scale in SCALES}
    for e in range(examples):
        cells = [[cell(model, n, chained[scale][n][e]) for n in order] for scale in SCALES]
        cells.append([truth[n][e] for n in order])
        title = f"{' then '.join(order)} from {given}, {split} {rows[e]}"
        condition_text = text(model, ids[given][e]) if given in sequences else given
        labels = [*(f"guidance {scale:g}" for scale in SCALES), "truth"]
        grids.append(Grid(title, order, labels, cells, f"Given: {condition_text}. A guidance scale of 0 ignores it."))
    return grids


@dataclass(frozen=True)
class Panels:
    """No metric; its `panels` are part of the report."""

    split: str = "test"
    examples: int = 2

    def run(self, model: Model) -> dict[str, float]:
        return {}

    def panels(self, model: Model) -> list[Grid]:
        return panels(model, self.split, self.examples)
