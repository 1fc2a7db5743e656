"""Retrieval between all pairs of modalities, beside uniform weights and the experts alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from mmrep.evals import checks, retrieval
from mmrep.model import Model


@dataclass(frozen=True)
class AllPairs:
    """R@k of both directions of every pair of modalities, "<a>-<b>", their "mean" and that of the pairs with text ("text"); in [0, 1].

    "uniform ..." has equal weights of the same projected experts, "expert ..." the best single expert of a pair (the best on this split);
    "chance" is k / items.   right: the experts of each value of the record field `topic`; "weight on right" is a text's weight on them.
    """

    k: int = 10
    split: str = "test"
    topic: str = ""
    right: tuple[tuple[str, ...], ...] = ()

    def run(self, model: Model) -> dict[str, float]:
        system = model.experiment.system
        found: dict[str, float] = {}

        def recall(a: str, b: str) -> float:
            x, y = (retrieval.unit(model.embed_split(name, self.split)) for name in (a, b))
            s, own = retrieval.dot(x, y), np.arange(len(x))
            return float(np.mean([retrieval.ranks_of_scores(m, own) <= self.k for m in (s, s.T)]))

        texts, pairs = [], list(combinations(system.modalities, 2))
        for a, b in pairs:
            found[f"{a}-{b} R@{self.k}"] = recall(a, b)
            found[f"uniform {a}-{b} R@{self.k}"] = recall(f"{a}_uniform", f"{b}_uniform")
            both = [e.name for e in system.of(a) if b in e.modalities]
            if both:
                found[f"expert {a}-{b} R@{self.k}"] = max(recall(f"{a}_in_{e}", f"{b}_in_{e}") for e in both)
            if system.text in (a, b):
                texts.append((a, b))
        for name, chosen in (("mean", pairs), ("text", texts)):
            for kind in ("", "uniform ", "expert "):
                values = [found.get(f"{kind}{a}-{b} R@{self.k}") for a, b in chosen]
                if None not in values:
                    found[f"{kind}{name} R@{self.k}"] = float(np.mean(values))  # type: ignore[arg-type]
        if self.topic:
            names = [e.name for e in system.of(system.text)]
            weights = model.embed_split(f"{system.text}_weights", self.split)
            right = np.array([[n in of for n in names] for of in self.right])[
                np.asarray(model.column(self.topic, self.split))
            ]
            found["weight on right"] = float((weights * right).sum(1).mean())
        return found | {"chance": self.k / len(model.embed_split(system.text, self.split))}

    def check(self, names: Sequence[str], split: checks.Open) -> None:
        """Raises ConfigError for a system that binds no experts, or a topic that the records lack."""
        checks.functions(names, **{"AllPairs needs": "text_uniform"} if "text_uniform" not in names else {})
        checks.ks((self.k,))
        checks.fields(split(self.split), [self.topic])
