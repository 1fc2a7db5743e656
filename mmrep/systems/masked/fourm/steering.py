"""What 4M-21 is used for: retrieval by predicted embeddings, and pictures steered by metadata or a palette."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from mmrep.data import serialise
from mmrep.data.scenes import metadata
from mmrep.data.serialise import Serial
from mmrep.evals.retrieval import dot, ranks_of_scores, unit
from mmrep.model import Model
from mmrep.systems.masked.fourm.canvas import blank, fill, left_open
from mmrep.systems.masked.fourm.decode import TokenInfer, generate
from mmrep.systems.masked.fourm.evals import tokens_of
from mmrep.systems.masked.fourm.predict import likeliest
from mmrep.systems.masked.fourm.schedules import Guide, Target


@dataclass(frozen=True)
class PredictedRetrieval:
    """Any modality finds its scene: the tokens of a global embedding are predicted from it, made a vector, and compared by cosine.

    The gallery holds the true embeddings of the first `limit` records; `centred` on their mean, which all embeddings share.
    """

    given: tuple[str, ...]
    embedding: str = "teacher"
    limit: int = 300
    k: int = 10
    split: str = "test"

    def run(self, model: Model) -> dict[str, float]:
        ask, (ids, patches) = model.tokens(), tokens_of(model, self.split, self.limit)
        gallery = np.stack([np.asarray(model.split(self.split).record(i)[self.embedding]) for i in range(self.limit)])
        found = {}
        for name in self.given:
            tokens = likeliest(ask, ids, patches, (name,), self.embedding)
            vectors = np.asarray(ask.detokenise({self.embedding: tokens})[self.embedding]).reshape(len(gallery), -1)
            centre = gallery.mean(0)
            ranks = ranks_of_scores(dot(unit(vectors - centre), unit(gallery - centre)), np.arange(len(gallery)))
            found[f"{name}->{self.embedding} R@{self.k}"] = float(np.mean(ranks <= self.k))
            found[f"{name}->{self.embedding} chance_R@{self.k}"] = self.k / len(gallery)
        return found


@dataclass(frozen=True)
class Steering:
    """Pictures made from a caption and one asked measure: the correlation of what was asked with what the made picture measures.

    Each scene is asked for each of `asked` (bins), with the same noise: without the measure its pictures would be one and the same.
    left_open: a sentinel stands behind the measure, as where the authors give a part of a text: more might have been said.
    """

    serial: Serial
    measure: str = "brightness"
    asked: tuple[int, ...] = (8, 10, 12, 14)
    guidance: float = 2.0
    limit: int = 40
    steps: int = 8
    split: str = "test"
    left_open: bool = field(default=False, metadata={"since": 2})

    def run(self, model: Model) -> dict[str, float]:
        ask, (ids, _) = model.tokens(), tokens_of(model, self.split, self.limit)
        sentinel = next(s.vocab for s in ask.streams if s.name == "metadata")
        m = next(m for m in model.data.modalities if m.name == "metadata")
        code = serialise.MEASURES.index(self.measure)
        found: list[np.ndarray] = []
        for bin_ in self.asked:
            row = model.tokenize(f"v1={code} v0={bin_}", m.shape[0])
            row = left_open(row, sentinel) if self.left_open else row
            given = {"caption": ids["caption"], "metadata": np.tile(row, (self.limit, 1))}
            pixels = drawn(ask, given, ("metadata",), self.guidance, self.steps, 0)
            shown = np.repeat(np.repeat(pixels, 4, axis=1), 4, axis=2)
            found.append(metadata.of_picture((np.clip(shown, 0, 1) * 255).round().astype(np.uint8))[self.measure])
        asked = np.repeat([serialise.value_of(self.measure, b, self.serial) for b in self.asked], self.limit)
        made = np.concatenate(found)
        still = asked.std() == 0 or made.std() == 0
        correlation = 0.0 if still else float(np.corrcoef(asked, made)[0, 1])
        return {f"{self.measure} asked~made correlation": correlation}


@dataclass(frozen=True)
class PaletteSteering:
    """Pictures made from a caption and the palette of another scene: how far their main colour is from the one asked for.

    A palette names its commonest colour first; of a made picture the median pixel counts. The mean Euclidean distance, RGB in [0, 1].
    "without": the palette is left out.   least: palettes of fewer colours are not asked for (of one colour it is a mean).
    """

    serial: Serial
    least: int = 2
    guidance: float = 2.0
    limit: int = 200
    steps: int = 8
    split: str = "test"

    def run(self, model: Model) -> dict[str, float]:
        ask, opened = model.tokens(), model.split(self.split)
        colours = [serialise.parse_palette(str(opened.record(i)["palette"]), self.serial) for i in range(self.limit)]
        rich = [i for i, c in enumerate(colours) if len(c) >= self.least]
        asked = np.stack([colours[i][0] / 255 for i in rich])
        ids, _ = tokens_of(model, self.split, self.limit)
        given = {"caption": np.asarray(ids["caption"])[np.roll(rich, 1)], "palette": np.asarray(ids["palette"])[rich]}
        found = {}
        for label, names in (("", ("caption", "palette")), (" without", ("caption",))):
            pixels = drawn(ask, {k: given[k] for k in names}, names[1:], self.guidance, self.steps, 0)
            shown = np.median(pixels.reshape(len(rich), -1, 3), axis=1)
            found[f"palette asked~made distance{label}"] = float(np.linalg.norm(shown - asked, axis=1).mean())
        return found


def drawn(
    ask: TokenInfer, given: Mapping[str, Any], guides: tuple[str, ...], weight: float, steps: int, seed: int
) -> Float[np.ndarray, "B R C 3"]:
    """Colour made of the given streams by ROAR, in [0, 1]; those of `guides` count `weight` times."""
    canvas = fill(blank(ask.streams, tuple(given), len(given["caption"])), ask.streams, given)
    extra = (Guide(guides, weight),) if guides else ()
    target = Target("rgb", "roar", steps, temperature=0.7, guides=extra)
    rgb = generate(ask, canvas, None, (target,), jax.random.key(seed)).ids["rgb"]
    return np.asarray(ask.detokenise({"rgb": rgb})["rgb"])


@dataclass(frozen=True)
class WellFormed:
    """Metadata written freely from the picture: the share of malformed (id, value) pairs."""

    serial: Serial
    given: tuple[str, ...] = ("pixels",)
    limit: int = 100
    split: str = "test"

    def run(self, model: Model) -> dict[str, float]:
        ask, (ids, patches) = model.tokens(), tokens_of(model, self.split, self.limit)
        seen = {k: v for k, v in patches.items() if k in self.given}
        canvas = fill(
            blank(ask.streams, self.given, self.limit), ask.streams, {k: ids[k] for k in self.given}, patches=seen
        )
        target = Target("metadata", "autoregressive", temperature=1.0)
        rows = np.asarray(generate(ask, canvas, None, (target,), jax.random.key(0)).ids["metadata"])
        told = [serialise.count_malformed(model.tokenize.decode(row), self.serial) for row in rows]
        bad, every = (sum(x) for x in zip(*told))
        return {"metadata malformed": bad / max(every, 1), "metadata pairs": every / len(told)}
