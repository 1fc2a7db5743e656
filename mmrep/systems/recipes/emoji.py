"""Evaluators of what a system must beat: baselines without learnt features, reported beside the system's own numbers."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from mmrep.errors import ConfigError
from mmrep.evals import retrieval
from mmrep.evals.view import View
from mmrep.systems.recipes import emoji_baselines as baselines


@dataclass(frozen=True)
class Ridge:
    """Retrieval of a text by an image, in closed form: ridge regression from the picture's pixels to the text's letters.

    image, text: modalities, read in the evaluation view of every split: one picture and one text a record.
    split:       where it is measured; it learns from train, and its penalty is chosen on val.
    features:    "pixels": 16 x 16 colours.   "gradients": histograms of oriented gradients and colours.
    """

    image: str = "image"
    text: str = "text"
    split: str = "test"
    features: str = "pixels"
    ks: tuple[int, ...] = (1, 5, 10)
    name: str = ""

    def run(self, view: View) -> dict[str, float]:
        known: dict[str, Any] = {"pixels": baselines.pixels, "gradients": baselines.gradients}
        if self.features not in known:
            raise ConfigError(f"Ridge.features is {self.features!r}: choose pixels or gradients")
        fields = {m.name: m.source for m in view.data.modalities}
        train, val, test = (
            _pairs(view.split(s), fields[self.image], fields[self.text]) for s in ("train", "val", self.split)
        )
        scores = baselines.ridge_pixels_to_text(train, val, test, known[self.features]).scores
        # Ranked by the same rule as the system, ties included.
        ranks = retrieval.ranks_of_scores(scores, np.arange(len(scores)))
        label = self.name or f"ridge {self.features} {self.image}->{self.text}"
        return {f"{label} {k}": v for k, v in retrieval.retrieval_metrics(ranks, len(scores), self.ks).items()}


def _pairs(split: Any, image: str, text: str) -> tuple[list[Any], list[str]]:
    records = [split.record(i) for i in range(len(split))]
    return [np.asarray(r[image]) for r in records], [r[text] for r in records]
