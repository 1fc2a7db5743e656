"""Closed forms and exact solvers of linear algebra, in float64 on the host: what `Phase.run` and analyses compute without gradients."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float, Int

from mmrep.errors import DataError

Rows = Float[Array | np.ndarray, "N P"]
TINY = 1e-10


class Affine(NamedTuple):
    """x -> x weight + bias."""

    weight: Float[np.ndarray, "P Q"]
    bias: Float[np.ndarray, " Q"]

    def __call__(self, x: Float[Array | np.ndarray, "M P"]) -> Float[np.ndarray, "M Q"]:
        return np.asarray(x, np.float64) @ self.weight + self.bias


class Subspaces(NamedTuple):
    """x and y: maps into a common space of K dimensions.   correlations: of its axes on the rows that it was fitted on, falling."""

    x: Affine
    y: Affine
    correlations: Float[np.ndarray, " K"]


def cca(x: Rows, y: Float[Array | np.ndarray, "N Q"], k: int, eps: float = 1e-3) -> Subspaces:
    """Canonical correlation analysis: the k pairs of directions of highest correlation, each of unit variance (Hotelling 1936).

    eps: each covariance gets eps times its mean variance on the diagonal; 0 is plain CCA, which fits noise where rows are few.
    Directions without variance are left out, so that fewer than k dimensions may be returned. The means of the rows are subtracted.
    """
    x, y = _paired(x, y)
    mx, my = x.mean(0), y.mean(0)
    a, b = x - mx, y - my
    wx, wy = (_whitening(v.T @ v / len(v), eps) for v in (a, b))
    u, d, vt = np.linalg.svd(wx.T @ (a.T @ b / len(a)) @ wy, full_matrices=False)
    maps = wx @ u[:, :k], wy @ vt[:k].T
    return Subspaces(Affine(maps[0], -mx @ maps[0]), Affine(maps[1], -my @ maps[1]), d[:k])


def _whitening(covariance: Float[np.ndarray, "P P"], eps: float) -> Float[np.ndarray, "P R"]:
    """w with w^T c w = 1 for the regularised covariance c, in the directions that have variance."""
    values, vectors = np.linalg.eigh(
        covariance + eps * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    )
    kept = values > TINY * max(values[-1], 1e-300)
    return vectors[:, kept] / np.sqrt(values[kept])


def affine(x: Rows, y: Float[Array | np.ndarray, "N Q"], penalty: float = 0.0) -> Affine:
    """Ridge regression: the w and b that minimise |x w + b - y|^2 / N + penalty v |w|^2, v the mean variance of x's columns.

    penalty 0 is least squares, of least norm where rows are fewer than columns.
    """
    x, y = _paired(x, y)
    mx, my = x.mean(0), y.mean(0)
    a, b = x - mx, y - my
    if penalty > 0:
        gram = a.T @ a / len(a)
        weight = np.linalg.solve(gram + penalty * np.trace(gram) / len(gram) * np.eye(len(gram)), a.T @ b / len(a))
    else:
        weight = np.linalg.lstsq(a, b, rcond=None)[0]
    return Affine(weight, my - mx @ weight)


def procrustes(x: Rows, y: Rows) -> Float[np.ndarray, "P P"]:
    """The orthogonal matrix r that minimises |x r - y|."""
    from scipy.linalg import orthogonal_procrustes

    return orthogonal_procrustes(*_paired(x, y))[0]


def sylvester(
    a: Float[np.ndarray, "R R"], b: Float[np.ndarray, "K K"], c: Float[np.ndarray, "R K"]
) -> Float[np.ndarray, "R K"]:
    """The v with a v + v b = c for symmetric a and b, whose eigenvalues must not sum to 0."""
    (la, ua), (lb, ub) = np.linalg.eigh(a), np.linalg.eigh(b)
    return ua @ ((ua.T @ c @ ub) / (la[:, None] + lb[None, :])) @ ub.T


def linear_cka(x: Rows, y: Float[Array | np.ndarray, "N Q"]) -> float:
    """Linear centred kernel alignment, in [0, 1]: 1 for a rotation or a multiple (Kornblith et al. 2019, arXiv 1905.00414)."""
    x, y = _paired(x, y)
    x, y = x - x.mean(0), y - y.mean(0)
    cross, own = np.linalg.norm(x.T @ y) ** 2, np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)
    return float(cross) / max(float(own), 1e-300)


def assignment(scores: Float[Array | np.ndarray, "N M"]) -> Int[np.ndarray, " N"]:
    """The column of each row in the one-to-one matching of highest total score; -1 for rows left over where N > M."""
    from scipy.optimize import linear_sum_assignment

    scores = np.asarray(scores, np.float64)
    if not np.isfinite(scores).all():
        raise DataError("assignment: scores hold NaN or infinite values")
    rows, columns = linear_sum_assignment(scores, maximize=True)
    found = np.full(len(scores), -1, np.int64)
    found[rows] = columns
    return found


def _paired(x: Rows, y: Float[Array | np.ndarray, "N Q"]) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if len(x) != len(y) or len(x) < 2:
        raise DataError(f"the solver needs 2 or more paired rows, found {len(x)} and {len(y)}")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise DataError("the solver's rows hold NaN or infinite values")
    return x, y
