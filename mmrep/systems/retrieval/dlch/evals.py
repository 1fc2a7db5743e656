"""Retrieval from the stored codes, for queries of base and of new categories."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmrep.evals import checks
from mmrep.evals.precision import average_precision, ndcg, relevance
from mmrep.model import Model


@dataclass(frozen=True)
class Stored:
    """Queries of the split against all stored codes by Hamming distance, the mean of both modalities' queries, in [0, 1].

    "old mAP": queries without a new category; items that share a label are relevant.   "new mAP": queries with a new category; items that
    share a new one are relevant.   "NDCG@k": all queries, gains are the cosines of labels.   "chance old", "chance new": shares of relevant items.
    """

    new: tuple[int, ...]
    queries: tuple[str, ...] = ("image", "text")
    k: int = 50
    split: str = "test"

    def run(self, model: Model) -> dict[str, float]:
        codes, stored = np.asarray(model.extras["codes"]), np.asarray(model.extras["labels"])
        labels, new = np.asarray(model.column("labels", self.split)), list(self.new)
        carries = labels[:, new].any(1)
        same = relevance(labels[~carries], stored), relevance(labels[carries][:, new], stored[:, new])
        found: dict[str, list[float]] = {"old mAP": [], "new mAP": [], f"NDCG@{self.k}": []}
        for name in self.queries:
            scores = model.embed_split(name, self.split) @ codes.T
            for key, part, relevant in (("old mAP", ~carries, same[0]), ("new mAP", carries, same[1])):
                kept = relevant.any(1)
                found[key].append(float(average_precision(scores[part][kept], relevant[kept]).mean()))
            found[f"NDCG@{self.k}"].append(float(ndcg(scores, relevance(labels, stored, graded=True), self.k).mean()))
        chance = {f"chance {w}": float(s.mean()) for w, s in zip(("old", "new"), same)}
        return {k: float(np.mean(v)) for k, v in found.items()} | chance

    def check(self, names: Sequence[str], split: checks.Open) -> None:
        """Raises ConfigError for queries that the system lacks."""
        checks.functions(names, **{f"Stored.queries[{i}]": q for i, q in enumerate(self.queries)})
        checks.fields(split(self.split), ["labels"])
