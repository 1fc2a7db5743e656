"""Aligning two embedding spaces after training, in float64 on the host: subspaces, scores, matching, and a table of rival methods."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Float, Shaped

from mmrep import solvers
from mmrep.errors import ConfigError, DataError

Rows = Float[Array | np.ndarray, "N P"]
Others = Float[Array | np.ndarray, "N Q"]
Ids = Shaped[np.ndarray, " N"]
PENALTIES = tuple(10.0**e for e in range(-4, 3))


class Alignment(NamedTuple):
    """x, y: maps of the two spaces into one, where rows are compared by cosine.   k: its dimensions.   held_out: matching accuracy by
    which k was chosen."""

    x: solvers.Affine
    y: solvers.Affine
    k: int
    held_out: float


def cosines(x: Rows, y: Float[Array | np.ndarray, "M P"]) -> Float[np.ndarray, "N M"]:
    """Cosine of every row of x with every row of y; 0 for a zero row."""
    a, b = (v / np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-12) for v in map(np.asarray, (x, y)))
    return a @ b.T


def local_cka(
    anchors_x: Rows, anchors_y: Others, x: Float[Array | np.ndarray, "A P"], y: Float[Array | np.ndarray, "B Q"]
) -> Float[np.ndarray, "A B"]:
    """Linear CKA of the anchors with the pair (x_a, y_b) appended, for all pairs (section 3.2).

    One appended row changes each centred product by a matrix of rank one, so that a pair costs O(P Q) and no kernel is built.
    """
    ax, ay, x, y = (np.asarray(v, np.float64) for v in (anchors_x, anchors_y, x, y))
    n, mx, my = len(ax), ax.mean(0), ay.mean(0)
    ax, ay, u, v, a = ax - mx, ay - my, x - mx, y - my, n / (n + 1)
    cross, own_x, own_y = ax.T @ ay, ax.T @ ax, ay.T @ ay
    uu, vv = (u**2).sum(1), (v**2).sum(1)

    def squared(c: np.ndarray, linear: np.ndarray, quadratic: np.ndarray) -> np.ndarray:
        return (c**2).sum() + 2 * a * linear + a**2 * quadratic

    between = squared(cross, u @ cross @ v.T, uu[:, None] * vv[None, :])
    within_x = squared(own_x, ((u @ own_x) * u).sum(1), uu**2)
    within_y = squared(own_y, ((v @ own_y) * v).sum(1), vv**2)
    return between / np.sqrt(np.maximum(within_x[:, None] * within_y[None, :], 1e-300))


def matching(scores: Float[np.ndarray, "N N"], ids: Ids | None = None) -> float:
    """Share of rows whose own column, or one of the same id, is theirs in the one-to-one matching of highest total score."""
    found = solvers.assignment(scores)
    truth = np.arange(len(scores)) if ids is None else np.asarray(ids)
    return float(np.mean(truth[found] == truth))


def top(scores: Float[np.ndarray, "N N"], k: int, ids: Ids | None = None) -> float:
    """Share of rows with their own column, or one of the same id, among the k of highest score."""
    truth = np.arange(len(scores)) if ids is None else np.asarray(ids)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return float(np.mean((truth[best] == truth[:, None]).any(1)))


def align(x: Rows, y: Others, k: int, eps: float = 1e-3) -> Alignment:
    """CCA of the anchors to k dimensions, then the least-squares map of y's subspace to x's (section 3.3)."""
    found = solvers.cca(x, y, k, eps)
    inner = solvers.affine(found.y(y), found.x(x))
    to_x = solvers.Affine(found.y.weight @ inner.weight, found.y.bias @ inner.weight + inner.bias)
    return Alignment(found.x, to_x, found.x.weight.shape[1], float("nan"))


def hold_out(n: int, share: float = 0.2, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(fitting rows, held-out rows) of n anchors. Raises DataError for fewer than 4."""
    if n < 4:
        raise DataError(f"there are {n} anchors: give 4 or more")
    order, kept = np.random.default_rng(seed).permutation(n), max(2, round(share * n))
    return order[kept:], order[:kept]


def align_by_hold_out(
    x: Rows, y: Others, ks: Sequence[int], eps: float = 1e-3, ids: Ids | None = None, seed: int = 0
) -> Alignment:
    """`align` with the k of `ks` that matches held-out anchors best (the smallest among equals), fitted on all anchors.

    A k beyond the smaller space is cut to it. Raises ConfigError where `ks` is empty or holds a number below 1.
    """
    if not ks or min(ks) < 1:
        raise ConfigError(f"ks is {tuple(ks)}: give numbers of dimensions, each 1 or more")
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    fit, kept = hold_out(len(x), seed=seed)
    named, best = None if ids is None else np.asarray(ids)[kept], (-1.0, 0)
    for k in sorted({min(k, x.shape[1], y.shape[1]) for k in ks}):
        a = align(x[fit], y[fit], k, eps)
        best = max(best, (matching(cosines(a.x(x[kept]), a.y(y[kept])), named), -k))
    return align(x, y, -best[1], eps)._replace(held_out=best[0])


def ridge(x: Rows, y: Others, penalties: Sequence[float] = PENALTIES, seed: int = 0) -> solvers.Affine:
    """The rival in the full spaces: the affine map of y to x whose penalty matches held-out anchors best."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    fit, kept = hold_out(len(x), seed=seed)
    accuracy = {p: matching(cosines(x[kept], solvers.affine(y[fit], x[fit], p)(y[kept]))) for p in penalties}
    return solvers.affine(y, x, max(penalties, key=lambda p: (accuracy[p], p)))


def pca(x: Rows, k: int) -> solvers.Affine:
    """The k principal axes of the rows, centred."""
    x = np.asarray(x, np.float64)
    axes = np.linalg.svd(x - x.mean(0), full_matrices=False)[2][:k].T
    return solvers.Affine(axes, -x.mean(0) @ axes)


def compare(
    anchors: tuple[Any, Any], queries: tuple[Any, Any], ks: Sequence[int], eps: float = 1e-3, seed: int = 0
) -> tuple[Alignment, dict[str, Float[np.ndarray, "N N"]]]:
    """(the alignment by CCA, {method: scores of all pairs of queries}): the rows of the paper's table 2 and their rivals.

    anchors, queries: paired rows (x, y). The queries are centred by the anchors' means.
    """
    (x, y), (u, v) = (tuple(np.asarray(s, np.float64) for s in pair) for pair in (anchors, queries))
    found = align_by_hold_out(x, y, ks, eps, seed=seed)
    subspace = solvers.cca(x, y, found.k, eps)
    plain, fair, px, py = solvers.affine(y, x), ridge(x, y, seed=seed), pca(x, found.k), pca(y, found.k)
    turn = solvers.affine(py(y), px(x))
    return found, {
        "affine": cosines(u - x.mean(0), plain(v) - x.mean(0)),
        "affine, ridge": cosines(u - x.mean(0), fair(v) - x.mean(0)),
        "local CKA": local_cka(x, y, u, v),
        "PCA + affine": cosines(px(u), turn(py(v))),
        "CCA + affine": cosines(found.x(u), found.y(v)),
        "CCA + local CKA": local_cka(subspace.x(x), subspace.y(y), subspace.x(u), subspace.y(v)),
    }


def table(scores: dict[str, Float[np.ndarray, "N N"]], ids: Ids | None = None) -> dict[str, dict[str, float]]:
    """{method: {"matching", "top-1", "top-5"}}, each a share of the queries in [0, 1]."""
    return {
        name: {"matching": matching(s, ids), "top-1": top(s, 1, ids), "top-5": top(s, 5, ids)}
        for name, s in scores.items()
    }
