"""Search by mean reciprocal rank, as code search is measured."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmrep.evals import checks, retrieval
from mmrep.model import Fields, Model


@dataclass(frozen=True)
class Search:
    """Mean reciprocal rank in [0, 1] of each record's own target among those of the split, by dot product; ties have their mean rank.

    query, target: infer functions of one vector a row; may be the same, of different record fields.   Metrics: "<name> MRR" and its chance.
    """

    query: str
    target: str
    query_fields: Fields = ()
    target_fields: Fields = ()
    split: str = "test"
    name: str = ""

    def run(self, model: Model) -> dict[str, float]:
        queries = model.embed_split(self.query, self.split, self.query_fields)
        targets = model.embed_split(self.target, self.split, self.target_fields)
        ranks = retrieval.ranks(queries, targets, np.arange(len(queries)))
        name = self.name or f"{self.query}->{self.target}"
        chance = float(np.mean(1 / np.arange(1, len(targets) + 1)))
        return {f"{name} MRR": float(np.mean(1 / ranks)), f"{name} chance MRR": chance}

    def check(self, names: Sequence[str], split: checks.Open) -> None:
        """Raises ConfigError for functions that the system lacks, or fields that the records lack."""
        checks.functions(names, **{"Search.query": self.query, "Search.target": self.target})
        checks.fields(split(self.split), [f for _, f in (*self.query_fields, *self.target_fields)])
