"""How far pairs are above their hardest negatives."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmrep.evals import checks, retrieval
from mmrep.model import Model


@dataclass(frozen=True)
class Margin:
    """The mean cosine of a pair less that of its hardest negative, over both directions ("gap"), and R@1, the share of gaps above 0.

    "chance R@1" is that of a random order."""

    split: str = "test"
    name: str = "pairs"

    def run(self, model: Model) -> dict[str, float]:
        x, y = (model.embed_split(name, self.split) for name in ("image", "text"))
        s = retrieval.dot(retrieval.unit(x), retrieval.unit(y))
        others = np.where(np.eye(len(s), dtype=bool), -np.inf, s)
        gaps = np.concatenate([np.diagonal(s) - others.max(axis) for axis in (1, 0)])
        found = {"gap": gaps.mean(), "R@1": (gaps > 0).mean(), "chance R@1": 1 / len(s)}
        return {f"{self.name} {k}": float(v) for k, v in found.items()}

    def check(self, names: Sequence[str], split: checks.Open) -> None:
        """Raises ConfigError where the system embeds no pictures or no texts."""
        checks.functions(names, **{"Margin needs": "image", "Margin needs also": "text"})
