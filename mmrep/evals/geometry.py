"""Measures of how two sets of embeddings lie to each other: the gap between them, their spread, and how ranks vary over languages."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Array, Float

from mmrep.errors import ConfigError, DataError
from mmrep.evals import checks
from mmrep.evals.retrieval import unit
from mmrep.losses.geometry import alignment, uniformity
from mmrep.model import Model

Rows = Float[Array | np.ndarray, "N D"]


def centroid_distance(x: Rows, y: Float[Array | np.ndarray, "M D"]) -> float:
    """|mean x - mean y| of the rows at unit length, in [0, 2]: the gap of Liang et al. 2022 (arXiv 2203.02053)."""
    return float(np.linalg.norm(unit(x).mean(0) - unit(y).mean(0)))


def separability(x: Rows, y: Float[Array | np.ndarray, "M D"], penalty: float = 0.1, seed: int = 0) -> float:
    """Accuracy of a linear probe that separates unit rows of x from those of y on a held-out fifth of both; 0.5: no gap, 1: a full one.

    The probe is ridge regression with a fixed `penalty`; a value below 0.5 is noise. Raises DataError for fewer than 5 rows of a side.
    """
    from sklearn.linear_model import RidgeClassifier

    if min(len(x), len(y)) < 5:
        raise DataError(f"separability needs 5 rows of each side or more, found {len(x)} and {len(y)}")
    rng = np.random.default_rng(seed)
    parts = [unit(side)[rng.permutation(len(side))] for side in (x, y)]
    cuts = [len(p) // 5 for p in parts]
    test, train = ([p[c] for p, c in zip(parts, ends)] for ends in ([slice(c) for c in cuts], [slice(c, None) for c in cuts]))  # fmt: skip
    sides = [np.repeat([0, 1], [len(p) for p in pair]) for pair in (train, test)]
    rows = np.concatenate(train)
    model = RidgeClassifier(alpha=penalty * float(rows.var(0).sum())).fit(rows, sides[0])
    right = model.predict(np.concatenate(test)) == sides[1]
    return float(np.mean([right[sides[1] == k].mean() for k in (0, 1)]))


def spectrum(x: Rows) -> Float[np.ndarray, " R"]:
    """Shares of the variance of the centred rows along their principal axes, in falling order; they sum to 1."""
    values = np.linalg.svd(np.asarray(x, np.float64) - np.asarray(x, np.float64).mean(0), compute_uv=False) ** 2
    return values / max(values.sum(), 1e-300)


def rank_variance(ranks: Sequence[Float[np.ndarray, " Q"]]) -> float:
    """The mean over queries of the variance of their rank over languages (MRV, arXiv 2406.18254, section 3.4); 0: all languages agree.

    Raises ConfigError for fewer than 2 languages or unequal numbers of queries.
    """
    if len(ranks) < 2 or len({len(r) for r in ranks}) > 1:
        raise ConfigError("rank_variance needs the ranks of the same queries in 2 or more languages")
    return float(np.var(np.stack(ranks), axis=0).mean())


@dataclass(frozen=True)
class Gap:
    """The gap between two infer functions on paired rows of a split: "centroid distance" [0, 2], "separability" (0.5: none, 1: full),
    "pair cosine", "alignment" [0, 4], "uniformity" of either side (mean; lower is more uniform) and "dimensions", those that hold
    90 % of the variance (mean of both sides).
    """

    first: str
    second: str
    split: str = "test"
    name: str = ""

    def run(self, model: Model) -> dict[str, float]:
        x, y = (unit(model.embed_split(name, self.split)).astype(np.float32) for name in (self.first, self.second))
        found = {
            "centroid distance": centroid_distance(x, y),
            "separability": separability(x, y),
            "pair cosine": float((x * y).sum(-1).mean()),
            "alignment": float(alignment(x, y).mean()),
            "uniformity": float((uniformity(x) + uniformity(y)) / 2),
            "dimensions": float(np.mean([(spectrum(v).cumsum() < 0.9).sum() + 1 for v in (x, y)])),
        }
        return {f"{self.name or f'{self.first}|{self.second}'} {k}": v for k, v in found.items()}

    def check(self, names: Sequence[str], split: checks.Open) -> None:
        """Raises ConfigError for functions that the system lacks or a split of fewer than 5 records."""
        checks.functions(names, **{"Gap.first": self.first, "Gap.second": self.second})
        if (n := len(split(self.split))) < 5:
            raise ConfigError(f"Gap needs a split of 5 records or more, and {self.split!r} has {n}")
