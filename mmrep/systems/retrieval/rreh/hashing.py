"""Hash functions and codes of rows, from the solver's columns: centring, pairs and unpaired rows, ablations."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from mmrep.errors import DataError
from mmrep.systems.retrieval.rreh.model import Matrix, Weights, signs, solve


class Scaler(NamedTuple):
    """(x - mean) / scale: centred by the training rows, of unit mean square."""

    mean: Float[np.ndarray, " D"]
    scale: float

    def __call__(self, x: Any) -> Matrix:
        return ((np.asarray(x, np.float64) - self.mean) / self.scale).T


def scaler(x: Any) -> Scaler:
    x = np.asarray(x, np.float64)
    mean = x.mean(0)
    return Scaler(mean, float(np.sqrt(((x - mean) ** 2).mean())) or 1.0)


class Hashed(NamedTuple):
    """functions: (scaler, W) of both modalities.   codes: [N, bits], the learned codes of the training rows, which a database stores.
    trace: J after each iteration."""

    functions: tuple[tuple[Scaler, Matrix], ...]
    codes: Float[np.ndarray, "N C"]
    trace: list[float]


def hash_functions(
    x: Float[np.ndarray, "N D"], y: Float[np.ndarray, "N E"], present: Float[np.ndarray, "N 2"], *, bits: int,
    anchors: int, weights: Weights, iterations: int = 15, seed: int = 0, permuted: bool = False, pairs_only: bool = False,
) -> Hashed:  # fmt: skip
    """RREH of rows whose observed modalities `present` marks.

    permuted, pairs_only: ablations: foreign relations; rows without a pair are hashed by the functions of the pairs.
    Raises DataError for rows without any modality.
    """
    here = np.asarray(present) > 0.5
    if not here.any(1).all():
        raise DataError("a row of `present` marks no modality: leave the row out")
    scalers = [scaler(v[here[:, m]]) for m, v in enumerate((x, y))]
    both = np.asarray(here.all(1))
    columns, alone = [f(v) for f, v in zip(scalers, (x, y))], [here[:, m] & ~both for m in (0, 1)]
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(int(both.sum()))[:anchors]
    paired, unpaired = [c[:, both] for c in columns], [c[:, a & (not pairs_only)] for c, a in zip(columns, alone)]
    s, trace = solve(paired, unpaired, bits, chosen, weights, iterations, permute=rng if permuted else None)
    codes = np.zeros((len(both), bits))
    codes[both] = s.b_p.T
    for a, c, w, b in zip(alone, columns, s.w, s.b_u):
        codes[a] = (signs(w @ c[:, a]) if pairs_only else b).T
    return Hashed(tuple(zip(scalers, s.w)), codes, trace)
