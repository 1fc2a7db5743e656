"""Retrieval with several relevant targets, or graded relevance: mean average precision and NDCG."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from mmrep.errors import DataError
from mmrep.evals import checks, retrieval
from mmrep.model import Fields, Model


def relevance(
    queries: Shaped[np.ndarray, "Q ..."], targets: Shaped[np.ndarray, "T ..."], graded: bool = False
) -> Float[np.ndarray, "Q T"]:
    """1 where both have one value; of multi-hot labels [N, C] where they share a label, or with `graded` the cosine of the labels."""
    if queries.ndim == 1:
        return (queries[:, None] == targets[None]).astype(np.float64)
    if graded:
        return retrieval.unit(queries.astype(float)) @ retrieval.unit(targets.astype(float)).T
    return (queries.astype(np.float64) @ targets.T > 0).astype(np.float64)


def average_precision(scores: Float[np.ndarray, "Q T"], relevant: Shaped[np.ndarray, "Q T"]) -> Float[np.ndarray, " Q"]:
    """Average precision of each query, in [0, 1]; equal scores count as one place (sklearn). Each query needs a relevant target."""
    from sklearn.metrics import average_precision_score

    return np.array([average_precision_score(r > 0, s) for s, r in zip(scores, np.asarray(relevant))])


def ndcg(scores: Float[np.ndarray, "Q T"], gains: Float[np.ndarray, "Q T"], k: int = 0) -> Float[np.ndarray, " Q"]:
    """Normalised discounted cumulative gain of each query over the k best (0: all), in [0, 1]; ties are averaged (sklearn)."""
    from sklearn.metrics import ndcg_score

    return np.array([ndcg_score(g[None], s[None], k=k or None) for s, g in zip(scores, gains)])


@dataclass(frozen=True)
class Precision:
    """Mean average precision ("mAP") and "NDCG" of queries among all targets of the split by dot product, in [0, 1].

    query, target: infer names of one vector a row. Where both are one, a query's own record is no target.
    relevant: a record field: equal values (identity, class) are relevant; of multi-hot labels [C] those that share a label.
    graded:   NDCG's gain is the cosine of the labels, not 0 or 1.
    Codes in {-1, 1} are ranked by Hamming distance: their dot product. Queries without a relevant target are left out and counted
    ("left out"); "chance mAP" is the mean share of relevant targets, which a random order approaches with many targets.
    Raises DataError where no query has a relevant target.
    """

    query: str
    target: str
    relevant: str
    graded: bool = False
    split: str = "test"
    query_fields: Fields = ()
    target_fields: Fields = ()
    name: str = ""

    def run(self, model: Model) -> dict[str, float]:
        queries = model.embed_split(self.query, self.split, self.query_fields)
        targets = model.embed_split(self.target, self.split, self.target_fields)
        values = np.asarray(model.column(self.relevant, self.split))
        same = (self.query, self.query_fields) == (self.target, self.target_fields)
        found: dict[str, list[Any]] = {"mAP": [], "NDCG": [], "chance mAP": []}
        left_out = 0
        for scores, gains in self._rows(queries, targets, values, same):
            if not (gains > 0).any():
                left_out += 1
                continue
            found["mAP"] += average_precision(scores[None], gains[None]).tolist()
            found["NDCG"] += ndcg(scores[None], gains[None]).tolist()
            found["chance mAP"].append((gains > 0).mean())
        if not found["mAP"]:
            raise DataError(
                f"Precision.relevant is {self.relevant!r}: no record of {self.split!r} has a relevant other"
            )
        label = self.name or f"{self.query}->{self.target}"
        return {f"{label} {k}": float(np.mean(v)) for k, v in found.items()} | {f"{label} left out": float(left_out)}

    def check(self, names: Sequence[str], split: checks.Open) -> None:
        """Raises ConfigError for settings that do not fit the system's infer functions or the split's records."""
        checks.functions(names, **{"Precision.query": self.query, "Precision.target": self.target})
        fields = [f for _, f in (*self.query_fields, *self.target_fields)]
        checks.fields(split(self.split), [self.relevant, *fields])

    def _rows(
        self, queries: np.ndarray, targets: np.ndarray, values: np.ndarray, same: bool
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(scores, gains) of each query."""
        for start in range(0, len(queries), 1024):
            part = slice(start, start + 1024)
            scores, gains = retrieval.dot(queries[part], targets), relevance(values[part], values, self.graded)
            for i in range(len(scores)):
                kept = np.arange(len(targets)) != start + i if same else slice(None)
                yield scores[i, kept], gains[i, kept]
