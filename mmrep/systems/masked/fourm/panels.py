"""Pictures of an any-to-any model: every modality from every other, and generations under several guidance weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from mmrep.data import pipeline
from mmrep.model import Model
from mmrep.report.panels import Grid, Picture, Words
from mmrep.systems.masked.fourm.canvas import blank, fill
from mmrep.systems.masked.fourm.decode import generate
from mmrep.systems.masked.fourm.schedules import Guide, Target, chain

WEIGHTS = (0.0, 1.0, 3.0, 6.0)
# Ground first, then hues far apart: classes are told by colour alone.
CLASS_COLOURS = np.array(
    [
        (238, 236, 230), (214, 69, 65), (240, 173, 48), (98, 164, 88), (58, 121, 190), (132, 92, 172), (68, 179, 182),
        (226, 128, 174), (139, 98, 66), (90, 90, 90), (170, 190, 60), (30, 70, 120), (250, 210, 120),
    ],
    np.uint8,
)  # fmt: skip


def picture(x: Any) -> np.ndarray:
    """A map as uint8 pixels: [H, W, 3] numbers as colours, [H, W, 1] as grey, class ids [H, W] by a fixed palette."""
    x = np.asarray(x)
    if x.ndim == 2:
        return CLASS_COLOURS[x % len(CLASS_COLOURS)]
    shown = (np.clip(x, 0, 1) * 255).round().astype(np.uint8)
    return shown if shown.shape[-1] == 3 else shown[..., 0] if shown.shape[-1] == 1 else shown[..., :3]


def text(model: Model, ids: Any) -> str:
    """The words of a text's ids; sentinels and padding say nothing."""
    found = model.tokenize.decode([int(i) for i in np.asarray(ids)]) if hasattr(model.tokenize, "decode") else ""
    return found or "(nothing)"


def shown(model: Model, name: str, ids: Any) -> Any:
    """One example's ids of a stream, as a panel shows them."""
    maps = model.tokens().detokenise({name: np.asarray(ids)[None]})
    return Picture(picture(maps[name][0])) if name in maps else Words(text(model, ids))


def panels(model: Model, split: str = "test", examples: int = 2, seed: int = 0) -> list[Any]:
    """Grids for a report: a matrix of every stream from every other for held-out examples, truth beside; and chains by guidance."""
    ask, held = model.tokens(), {m.name for m in model.data.modalities}
    names = [s.name for s in ask.streams if not s.only_input and s.name in held]
    pixels = [s.name for s in ask.streams if s.patch and s.name in held]
    texts = {s.name for s in ask.streams if s.length}
    opened = model.split(split)
    rows = np.linspace(0, len(opened) - 1, examples).astype(int)
    entries = [opened.entry(int(i)) for i in rows]
    ids, patches = ask.tokenise(pipeline.collate(entries))

    def decide(given: Sequence[str], schedule: Sequence[Target]) -> dict[str, Any]:
        # All streams are on the canvas whatever is given: one shape, and one program for each target.
        empty = blank(ask.streams, [*pixels, *names], examples)
        canvas = fill(empty, ask.streams, {k: ids[k] for k in given}, patches=patches)
        return generate(ask, canvas, None, schedule, jax.random.key(seed)).ids

    def target(name: str, guides: tuple[Guide, ...] = ()) -> Target:
        if name in texts:
            return Target(name, "autoregressive", temperature=0.0, guides=guides)
        return Target(name, "roar", steps=8, temperature=0.7, guides=guides)

    truth = {n: [shown(model, n, ids[n][e]) for e in range(examples)] for n in names}
    truth |= {n: [Picture(picture(entry[n])) for entry in entries] for n in pixels}
    crossed = {(a, b): decide([a], [target(b)])[b] for a in [*pixels, *names] for b in names if a != b}
    found: list[Any] = []
    for e in range(examples):
        cells = [
            [truth[a][e], *(truth[b][e] if a == b else shown(model, b, crossed[a, b][e]) for b in names)]
            for a in [*pixels, *names]
        ]
        note = (
            "One row for each modality that goes in, the truth at its left; one column for each that is predicted from it alone. "
            "On the diagonal stands the truth."
        )
        found.append(
            Grid(
                f"Every modality from every other, {split} {rows[e]}", ["given", *names], [*pixels, *names], cells, note
            )
        )
    given = next((n for n in names if n in texts), names[0])
    order = [n for n in ("semseg", "rgb") if n in names and n != given] or [n for n in names if n != given][:2]
    for e in range(examples):
        cells = []
        for w in WEIGHTS:
            schedule = [target(n, (Guide((given,), w),) if w != 1 else ()) for n in order]
            made = decide([given], schedule)
            cells.append([shown(model, n, made[n][e]) for n in order])
        rows_ = [f"guidance {w:g}" for w in WEIGHTS]
        title = f"{' then '.join(order)} from {given}, {split} {rows[e]}"
        said = text(model, ids[given][e]) if given in texts else given
        found.append(
            Grid(
                title, order, [*rows_, "truth"], [*cells, [truth[n][e] for n in order]], f"Given: {said}. 0 ignores it."
            )
        )
    return found


@dataclass(frozen=True)
class Panels:
    """No metric, but `panels` for the report."""

    split: str = "test"
    examples: int = 2

    def run(self, model: Model) -> dict[str, float]:
        return {}

    def panels(self, model: Model) -> list[Any]:
        return panels(model, self.split, self.examples)


__all__ = ["Panels", "chain", "panels", "picture", "shown", "text"]
