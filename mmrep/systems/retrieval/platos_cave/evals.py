"""Matching and retrieval of held-out pairs, before and after the alignment (section 4)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmrep import solvers
from mmrep.evals import checks
from mmrep.evals.retrieval import chance_recall, unit
from mmrep.model import Model
from mmrep.systems.retrieval.platos_cave.model import compare, cosines, matching, table, top


@dataclass(frozen=True)
class Matching:
    """Of `queries` records of the split: "matching", the share that the one-to-one assignment of highest total cosine pairs correctly, and
    "top-1", "top-5" of the first side's queries, each with its "chance"; linear "CKA" of the frozen features and of the aligned embeddings.

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
        } | chances(ids, len(scores))  # fmt: skip
        return {f"{self.name or f'{self.first}->{self.second}'} {k}": v for k, v in found.items()}

    def check(self, names: Sequence[str], split: checks.Open) -> None:
        """Raises ConfigError for functions that the system lacks or a group that the records lack."""
        checks.functions(names, **{"Matching.first": self.first, "Matching.second": self.second})
        checks.fields(split(self.split), [self.group])


@dataclass(frozen=True)
class Methods:
    """The methods of `model.compare` on the frozen features, fitted to the training split's pairs: "<method> matching", "top-1" and "top-5" of
    the `queries` records of the split, and their chance. So the rivals of the alignment, an affine map with a tuned ridge among them, stand
    beside it.

    first, second: infer functions; the features are `<name>_features`.   ks, eps: see `Fit`.   anchors, queries: at most so many records.
    """

    first: str
    second: str
    ks: tuple[int, ...]
    eps: float = 1e-3
    anchors: int = 30_000
    queries: int = 500
    split: str = "test"
    name: str = "methods"

    def run(self, model: Model) -> dict[str, float]:
        def features(split: str, n: int) -> tuple[np.ndarray, np.ndarray]:
            first, second = (model.embed_split(f"{name}_features", split)[:n] for name in (self.first, self.second))
            return first, second

        queries = features(self.split, self.queries)
        found, scores = compare(features("train", self.anchors), queries, self.ks, self.eps)
        rows = {f"{method} {k}": v for method, row in table(scores).items() for k, v in row.items()}
        rows |= {"k": float(found.k), "queries": float(len(queries[0]))} | chances(None, len(queries[0]))
        return {f"{self.name} {k}": v for k, v in rows.items()}

    def check(self, names: Sequence[str], split: checks.Open) -> None:
        """Raises ConfigError for functions that the system lacks."""
        checks.functions(names, **{"Methods.first": self.first, "Methods.second": self.second})


def chances(ids: np.ndarray | None, n: int) -> dict[str, float]:
    """Matching and top-1, and top-5, of a random order of n records; records of the same id are one."""
    equal = np.ones(n, int) if ids is None else np.bincount(ids)[ids]
    return {
        "chance": float(equal.mean()) / n,
        "chance top-5": float(np.mean([chance_recall(n, 5, int(c)) for c in equal])),
    }
