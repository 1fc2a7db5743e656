"""Matching and retrieval of held-out pairs, before and after the alignment (section 4)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmrep import solvers
from mmrep.evals import checks
from mmrep.evals.retrieval import unit
from mmrep.model import Model
from mmrep.systems.retrieval.platos_cave.model import cosines, matching, top


@dataclass(frozen=True)
class Matching:
    """Of `queries` records of the split: "matching", the share that the one-to-one assignment of highest total cosine pairs correctly, and
    "top-1", "top-5" of the first side's queries; linear "CKA" of the frozen features and of the aligned embeddings.

    first, second: infer functions; the features are `<name>_features`.   group: a record field whose equal values count as one record.
    """

    first: str
    second: str
    queries: int = 500
    group: str = ""
    split: str = "test"
    name: str = ""

    def run(self, model: Model) -> dict[str, float]:
        sides = [unit(model.embed_split(name, self.split))[: self.queries] for name in (self.first, self.second)]
        features = [model.embed_split(f"{n}_features", self.split)[: self.queries] for n in (self.first, self.second)]
        values = model.column(self.group, self.split)[: self.queries] if self.group else []
        ids = np.unique([str(v) for v in values], return_inverse=True)[1] if self.group else None
        scores = cosines(*sides)
        found = {
            "matching": matching(scores, ids), "top-1": top(scores, 1, ids), "top-5": top(scores, 5, ids),
            "CKA of features": solvers.linear_cka(*features), "CKA": solvers.linear_cka(*sides),
        }  # fmt: skip
        return {f"{self.name or f'{self.first}->{self.second}'} {k}": v for k, v in found.items()}

    def check(self, names: Sequence[str], split: checks.Open) -> None:
        """Raises ConfigError for functions that the system lacks or a group that the records lack."""
        checks.functions(names, **{"Matching.first": self.first, "Matching.second": self.second})
        checks.fields(split(self.split), [self.group])
