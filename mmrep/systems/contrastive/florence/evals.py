"""Zero-shot classification of some of the classes among all of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmrep.evals import checks, retrieval, zero_shot
from mmrep.model import Model


@dataclass(frozen=True)
class ZeroShotOf:
    """Accuracy over the records whose class is in `among`, with the names of all `classes` as candidates ("accuracy", "chance")."""

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
        return {f"{self.name} accuracy": float(right.mean()), f"{self.name} chance": 1 / len(self.classes)}

    def check(self, names: Sequence[str], split: checks.Open) -> None:
        """Raises ConfigError for settings that do not fit the system's infer functions or the split's records."""
        checks.functions(names, **{"ZeroShotOf needs": "text"})
        checks.fields(split(self.split), [self.label])
