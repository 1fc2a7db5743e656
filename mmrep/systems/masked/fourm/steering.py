"""4M-21's uses: retrieval by predicted global embeddings, and image generation steered by metadata or a palette."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from mmrep.data import serialise
from mmrep.data.scenes import metadata
from mmrep.data.serialise import Serialised
from mmrep.evals.retrieval import dot, ranks_of_scores, unit
from mmrep.model import Model
from mmrep.systems.masked.fourm.decode import TokenInfer, predict
from mmrep.systems.masked.fourm.evals import generated, tokens_of
from mmrep.systems.masked.fourm.schedules import Guidance, Target


@dataclass(frozen=True)
class PredictedRetrieval:
    """Retrieval from any modality: the tokens of a global embedding are predicted from it, detokenised, and compared by cosine.

    The gallery holds the true embeddings of the first `limit` records; both sides are centred on the gallery's mean.
    """

    given: tuple[str, ...]
    embedding: str = "teacher"
    limit: int = 300
    k: int = 10
    split: str = "test"

    def run(self, model: Model) -> dict[str, float]:
        infer, (ids, values) = model.tokens(), tokens_of(model, self.split, self.limit)
        gallery = np.stack([np.asarray(model.split(self.split).record(i)[self.embedding]) for i in range(self.limit)])
        scores = {}
        for name in self.given:
            tokens = predict(infer, ids, values, (name,), self.embedding)
            queries = np.asarray(infer.detokenize({self.embedding: tokens})[self.embedding]).reshape(len(gallery), -1)
            centre = gallery.mean(0)
            ranks = ranks_of_scores(dot(unit(queries - centre), unit(gallery - centre)), np.arange(len(gallery)))
            scores[f"{name}->{self.embedding} R@{self.k}"] = float(np.mean(ranks <= self.k))
            scores[f"{name}->{self.embedding} chance_R@{self.k}"] = self.k / len(gallery)
        return scores


@dataclass(frozen=True)
class Steering:
    """Images from a caption and one metadata value: correlation of the requested value with the value measured on the image.

    Each scene is generated once for each of `requested` (bins), with the same noise, so that only the metadata can change its images.
    left_open: appends a sentinel to the metadata, as the authors do for a partial text.
    """

    serial: Serialised
    measure: str = "brightness"
    requested: tuple[int, ...] = (8, 10, 12, 14)
    guidance: float = 2.0
    limit: int = 40
    decoding_steps: int = 8
    split: str = "test"
    left_open: bool = False

    def run(self, model: Model) -> dict[str, float]:
        infer, (ids, _) = model.tokens(), tokens_of(model, self.split, self.limit)
        length = next(m.shape[0] for m in model.data.modalities if m.name == "metadata")
        code = serialise.MEASURES.index(self.measure)
        measured: list[np.ndarray] = []
        for value in self.requested:
            row = model.tokenize(f"v1={code} v0={value}", length)
            row = infer.open_ended("metadata", row) if self.left_open else row
            given = {"caption": ids["caption"], "metadata": np.tile(row, (self.limit, 1))}
            images = generated_colour(infer, given, ("metadata",), self.guidance, self.decoding_steps)
            enlarged = np.repeat(np.repeat(images, 4, axis=1), 4, axis=2)
            enlarged = (np.clip(enlarged, 0, 1) * 255).round().astype(np.uint8)
            measured.append(metadata.of_picture(enlarged)[self.measure])
        values = [serialise.value_of(self.measure, b, self.serial) for b in self.requested]
        requested, found = np.repeat(values, self.limit), np.concatenate(measured)
        constant = requested.std() == 0 or found.std() == 0
        correlation = 0.0 if constant else float(np.corrcoef(requested, found)[0, 1])
        return {f"{self.measure} correlation": correlation}


@dataclass(frozen=True)
class PaletteSteering:
    """Images from a caption and another scene's palette: distance of their main colour from the palette's.

    The main colour is the palette's first, and the median over an image's pixels. Mean Euclidean distance, RGB in [0, 1].
    "without palette": the same from the caption alone.   min_colours: palettes with fewer colours are skipped (one colour is an average).
    """

    serial: Serialised
    min_colours: int = 2
    guidance: float = 2.0
    limit: int = 200
    decoding_steps: int = 8
    split: str = "test"

    def run(self, model: Model) -> dict[str, float]:
        infer, opened = model.tokens(), model.split(self.split)
        colours = [serialise.parse_palette(str(opened.record(i)["palette"]), self.serial) for i in range(self.limit)]
        rows = [i for i, c in enumerate(colours) if len(c) >= self.min_colours]
        requested = np.stack([colours[i][0] / 255 for i in rows])
        ids, _ = tokens_of(model, self.split, self.limit)
        given = {"caption": np.asarray(ids["caption"])[np.roll(rows, 1)], "palette": np.asarray(ids["palette"])[rows]}
        scores = {}
        for label, names in (("", ("caption", "palette")), (" without palette", ("caption",))):
            own = {k: given[k] for k in names}
            images = generated_colour(infer, own, names[1:], self.guidance, self.decoding_steps)
            main = np.median(images.reshape(len(rows), -1, 3), axis=1)
            scores[f"palette distance{label}"] = float(np.linalg.norm(main - requested, axis=1).mean())
        return scores


def generated_colour(
    infer: TokenInfer, given: Mapping[str, Any], cond_domains: tuple[str, ...], scale: float, steps: int
) -> Float[np.ndarray, "B R C 3"]:
    """Colour in [0, 1], generated from the given ids by ROAR, with guidance by `cond_domains`."""
    guidance = (Guidance(cond_domains, scale),) if cond_domains else ()
    target = Target("rgb", "roar", steps, temperature=0.7, guidance=guidance)
    rgb = generated(infer, given, {}, (target,))["rgb"]
    return np.asarray(infer.detokenize({"rgb": rgb})["rgb"])


@dataclass(frozen=True)
class WellFormed:
    """The share of malformed (id, value) pairs in metadata that is generated freely from `given`."""

    serial: Serialised
    given: tuple[str, ...] = ("pixels",)
    limit: int = 100
    split: str = "test"

    def run(self, model: Model) -> dict[str, float]:
        infer, (ids, values) = model.tokens(), tokens_of(model, self.split, self.limit)
        target = Target("metadata", "autoregressive", temperature=1.0)
        rows = np.asarray(generated(infer, {k: ids[k] for k in self.given}, values, (target,))["metadata"])
        counts = [serialise.count_malformed(model.tokenize.decode(row), self.serial) for row in rows]
        malformed, pairs = (sum(x) for x in zip(*counts))
        return {"metadata malformed": malformed / max(pairs, 1), "metadata pairs": pairs / len(counts)}
