"""Whether a product without its picture or title keeps its neighbours."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from mmrep.evals import checks
from mmrep.evals.retrieval import dot
from mmrep.model import Fields, Model


@dataclass(frozen=True)
class Neighbours:
    """ "neighbours <query>": mean share of the k targets nearest to a whole product that are nearest to its masked form, too, in [0, 1].

    queries: infer functions of masked forms.   fields: of the targets, which `whole` embeds.   Chance is k over the number of targets.
    """

    queries: tuple[str, ...] = ("image", "text")
    whole: str = "fused"
    fields: Fields = ()
    split: str = "test"
    k: int = 10

    def run(self, model: Model) -> dict[str, float]:
        targets = model.embed_split(self.whole, self.split, self.fields)
        whole = dot(model.embed_split(self.whole, self.split), targets)
        return {
            f"neighbours {n}": overlap(whole, dot(model.embed_split(n, self.split), targets), self.k)
            for n in self.queries
        }

    def check(self, names: Sequence[str], split: checks.Open) -> None:
        """Raises ConfigError for a function that the system lacks or a field that the records lack."""
        checks.functions(names, **{"Neighbours.whole": self.whole})
        for query in self.queries:
            checks.functions(names, **{"Neighbours.queries": query})
        checks.fields(split(self.split), [field for _, field in self.fields])


def overlap(scores: Float[np.ndarray, "Q T"], others: Float[np.ndarray, "Q T"], k: int) -> float:
    """Mean over rows of the share of the k columns with the largest scores that have the largest other scores, too."""
    near = (np.argsort(-x, 1, "stable")[:, :k] for x in (scores, others))
    return float(np.mean([len({*a} & {*b}) / len(a) for a, b in zip(*near)]))
