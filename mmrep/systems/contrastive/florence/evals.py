"""Zero-shot classification of some of the classes among all of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmrep.evals import checks, retrieval, zero_shot
from mmrep.model import Model


@dataclass(frozen=True)
class ZeroShotOf:
    """Accuracy over the records whose class is in `among`, with the names of all `classes` as candidates ("accuracy", "chance"), and
    the accuracy of always answering the commonest of them ("commonest")."""

    classes: tuple[str, ...]
    among: tuple[int, ...]
    label: str = "label"
    split: str = "test"
    name: str = "zero-shot"

    def run(self, model: Model) -> dict[str, float]:
        labels = np.asarray(model.column(self.label, self.split))
        names = zero_shot.class_embeddings(model.call("text", text=list(self.classes))[:, None])
        rows = np.isin(labels, self.among)
        scores = retrieval.dot(model.embed_split("image", self.split)[rows], names)
        right = retrieval.ranks_of_scores(scores, labels[rows]) <= 1
        commonest = np.bincount(labels[rows]).max() / rows.sum()
        found = {"accuracy": right.mean(), "chance": 1 / len(self.classes), "commonest": commonest}
        return {f"{self.name} {k}": float(v) for k, v in found.items()}

    def check(self, names: Sequence[str], split: checks.Open) -> None:
        """Raises ConfigError for settings that do not fit the system's infer functions or the split's records."""
        checks.functions(names, **{"ZeroShotOf needs": "text"})
        checks.fields(split(self.split), [self.label])
