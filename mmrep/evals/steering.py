"""What 4M-21 is used for: retrieval by predicted embeddings, and pictures steered by metadata or a palette."""

from dataclasses import dataclass

import jax
import numpy as np

from mmrep.data import serialise
from mmrep.data.scenes import metadata
from mmrep.data.serialise import Serial
from mmrep.evals.any_to_any import tokens_of
from mmrep.evals.retrieval import dot, ranks_of_scores, unit
from mmrep.evals.view import View
from mmrep.generation import Guide, Target, blank, fill, generate, likeliest


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

    def run(self, view: View) -> dict[str, float]:
        ask, (ids, patches) = view.tokens(), tokens_of(view, self.split, self.limit)
        gallery = np.stack([np.asarray(view.split(self.split).record(i)[self.embedding]) for i in range(self.limit)])
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

    Each scene is asked for each of `asked` (bins); with `plain`, the measure is left out, and only chance can correlate.
    """

    serial: Serial
    measure: str = "brightness"
    asked: tuple[int, ...] = (8, 10, 12, 14)
    guidance: float = 2.0
    limit: int = 40
    steps: int = 8
    split: str = "test"

    def run(self, view: View) -> dict[str, float]:
        ask, (ids, _) = view.tokens(), tokens_of(view, self.split, self.limit)
        m = next(m for m in view.data.modalities if m.name == "metadata")
        values: list[np.ndarray] = []
        made: list[np.ndarray] = []
        plain: list[np.ndarray] = []
        for bin_ in self.asked:
            code = serialise.MEASURES.index(self.measure)
            row = view.tokenize(f"v1={code} v0={bin_}", m.shape[0])
            given = {"caption": ids["caption"], "metadata": np.tile(row, (self.limit, 1))}
            for steered, into in ((True, made), (False, plain)):
                names = ("caption", "metadata") if steered else ("caption",)
                guides = (Guide(("metadata",), self.guidance),) if steered else ()
                canvas = fill(blank(ask.streams, names, self.limit), ask.streams, {k: given[k] for k in names})
                target = Target("rgb", "roar", self.steps, temperature=0.7, guides=guides)
                rgb = generate(ask, canvas, None, (target,), jax.random.key(bin_)).ids["rgb"]
                pixels = np.asarray(ask.detokenise({"rgb": rgb})["rgb"])
                shown = np.repeat(np.repeat(pixels, 4, axis=1), 4, axis=2)
                into.append(metadata.of_picture((np.clip(shown, 0, 1) * 255).round().astype(np.uint8))[self.measure])
            values.append(np.full(self.limit, serialise.value_of(self.measure, bin_, self.serial)))
        asked = np.concatenate(values)
        return {
            f"{self.measure} asked~made correlation": _correlation(asked, np.concatenate(made)),
            f"{self.measure} asked~made without": _correlation(asked, np.concatenate(plain)),
        }


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 0 and b.std() > 0 else 0.0


@dataclass(frozen=True)
class WellFormed:
    """Metadata written freely from the picture: the share of malformed (id, value) pairs."""

    serial: Serial
    given: tuple[str, ...] = ("pixels",)
    limit: int = 100
    split: str = "test"

    def run(self, view: View) -> dict[str, float]:
        ask, (ids, patches) = view.tokens(), tokens_of(view, self.split, self.limit)
        seen = {k: v for k, v in patches.items() if k in self.given}
        canvas = fill(
            blank(ask.streams, self.given, self.limit), ask.streams, {k: ids[k] for k in self.given}, patches=seen
        )
        target = Target("metadata", "autoregressive", temperature=1.0)
        rows = np.asarray(generate(ask, canvas, None, (target,), jax.random.key(0)).ids["metadata"])
        told = [serialise.count_malformed(view.tokenize.decode(row), self.serial) for row in rows]
        bad, every = (sum(x) for x in zip(*told))
        return {"metadata malformed": bad / max(every, 1), "metadata pairs": every / len(told)}
