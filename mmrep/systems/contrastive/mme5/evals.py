"""Precision at 1 among the candidates of a record's own task, and among its own hard negatives."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmrep.errors import DataError
from mmrep.evals import checks
from mmrep.evals.retrieval import dot, ranks_of_scores
from mmrep.model import Model


@dataclass(frozen=True)
class Candidates:
    """ "precision@1": the share of queries whose target is the nearest among the targets of all records with the query's value of `group`;
    equal targets (`identity`) are all right, and ties count by their mean rank. "chance": of a random order.

    "hard precision@1": of queries with hard negatives, among the own target and these; "hard chance". group: "" for the whole split.
    """

    group: str = "cell"
    identity: str = "target_id"
    split: str = "test"
    query: str = "query"
    target: str = "target"
    negatives: str = "negatives"

    def run(self, model: Model) -> dict[str, float]:
        q, t = (model.embed_split(n, self.split) for n in (self.query, self.target))
        ids = np.asarray(model.column(self.identity, self.split))
        groups = np.asarray(model.column(self.group, self.split)) if self.group else np.zeros(len(q))
        found, chance = np.zeros(len(q)), np.zeros(len(q))
        for value in np.unique(groups):
            rows = np.flatnonzero(groups == value)
            right = ids[rows][:, None] == ids[rows][None]
            found[rows] = ranks_of_scores(dot(q[rows], t[rows]), right) == 1
            chance[rows] = right.mean(1)
        metrics = {"precision@1": float(found.mean()), "chance": float(chance.mean())}
        here: np.ndarray = np.any(np.stack(model.column("negative_has", self.split)), axis=-1)
        rows = np.flatnonzero(here.any(1))
        if not len(rows):
            return metrics
        hard = np.einsum("bd,bkd->bk", q[rows], model.embed_split(self.negatives, self.split)[rows])
        own = (q[rows] * t[rows]).sum(1)
        return metrics | {
            "hard precision@1": float((own[:, None] > hard).all(1, where=here[rows]).mean()),
            "hard chance": float((1 / (1 + here[rows].sum(1))).mean()),
        }

    def check(self, names: Sequence[str], split: checks.Open) -> None:
        """Raises ConfigError for a function that the system lacks or a field that the records lack, DataError for an empty split."""
        wanted = {"query": self.query, "target": self.target, "negatives": self.negatives}
        checks.functions(names, **{f"Candidates.{k}": v for k, v in wanted.items()})
        if not len(split(self.split)):
            raise DataError(f"split {self.split!r} is empty: Candidates needs records")
        checks.fields(split(self.split), [self.group, self.identity, "negative_has"])
