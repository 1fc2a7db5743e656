"""The objective of RREH and its closed forms, in float64 on the host. Columns are samples, as in the paper."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from mmrep import solvers
from mmrep.errors import ConfigError, DataError

Matrix = Float[np.ndarray, "_ _"]


@dataclass(frozen=True)
class Weights:
    """The weights of the objective.

    shared: lambda of both modalities' reconstruction.   relations: theta, of the anchors' relations; 0 switches them off.
    codes:  beta, of the rotation to the codes.   hash: mu, of the hash functions; their ridge is mu * omega, omega = ridge * columns.
    small:  xi, of the norms of U and V.   gamma: ridge of the relations, relative to the anchors' mean variance.
    """

    shared: float = 0.5
    relations: float = 100.0
    codes: float = 1.0
    hash: float = 0.01
    ridge: float = 1.0
    small: float = 1e-3
    gamma: float = 1.0


class Side(NamedTuple):
    """One modality: paired columns, unpaired columns, how the anchors reconstruct the unpaired ones, and the ridge solution X^T (X X^T +
    omega I)^-1 that turns codes into hash functions."""

    paired: Matrix
    unpaired: Matrix
    relations: Matrix
    hashing: Matrix

    @property
    def whole(self) -> Matrix:
        return np.concatenate([self.paired, self.unpaired], 1)


class Solution(NamedTuple):
    """u: dictionaries.   v_p, v_u: latents of the pairs and of each modality's unpaired columns.   r: rotation.   b_p, b_u: codes.
    w: hash functions.   anchors: indices into the pairs."""

    u: tuple[Matrix, ...]
    v_p: Matrix
    v_u: tuple[Matrix, ...]
    r: Matrix
    b_p: Matrix
    b_u: tuple[Matrix, ...]
    w: tuple[Matrix, ...]
    anchors: Int[np.ndarray, " K"]


def signs(x: Matrix) -> Matrix:
    """1 where x is at least 0, else -1."""
    return np.where(x >= 0, 1.0, -1.0)


def reconstruction(anchors: Matrix, x: Matrix, gamma: float) -> Matrix:
    """Z = argmin |x - A Z|^2 + gamma v |Z|^2, v the mean of the diagonal of A^T A: the relations to the anchors (step 2)."""
    gram = anchors.T @ anchors
    return np.linalg.solve(gram + gamma * np.trace(gram) / len(gram) * np.eye(len(gram)), anchors.T @ x)


def objective(s: Solution, sides: Sequence[Side], weights: Weights) -> float:
    """J: reconstruction of both modalities, relations, codes, hash functions, and small norms."""
    k = weights
    total = k.codes * square(s.b_p - s.r @ s.v_p) + k.small * square(s.v_p)
    for side, u, v, b, w in zip(sides, s.u, s.v_u, s.b_u, s.w):
        total += k.shared * (square(side.paired - u @ s.v_p) + square(side.unpaired - u @ v)) + k.small * square(u)
        total += k.relations * square(v - s.v_p[:, s.anchors] @ side.relations) + k.small * square(v)
        total += k.codes * square(b - s.r @ v)
        x = side.whole
        total += k.hash * (square(np.concatenate([s.b_p, b], 1) - w @ x) + k.ridge * x.shape[1] * square(w))
    return total


def square(x: Matrix) -> float:
    return float((x**2).sum())


def update_u(s: Solution, sides: Sequence[Side], k: Weights) -> Solution:
    found = []
    for side, v_u in zip(sides, s.v_u):
        v = np.concatenate([s.v_p, v_u], 1)
        found.append(np.linalg.solve(k.shared * v @ v.T + k.small * np.eye(len(v)), k.shared * v @ side.whole.T).T)
    return s._replace(u=tuple(found))


def update_v_u(s: Solution, sides: Sequence[Side], k: Weights) -> Solution:
    found = []
    for side, u, b in zip(sides, s.u, s.b_u):
        left = k.shared * u.T @ u + (k.relations + k.codes + k.small) * np.eye(u.shape[1])
        right = (
            k.shared * u.T @ side.unpaired + k.relations * s.v_p[:, s.anchors] @ side.relations + k.codes * s.r.T @ b
        )
        found.append(np.linalg.solve(left, right))
    return s._replace(v_u=tuple(found))


def update_v_p(s: Solution, sides: Sequence[Side], k: Weights) -> Solution:
    """Pairs that are no anchors by a linear system, anchors by a Sylvester equation."""
    left = sum(k.shared * u.T @ u for u in s.u) + (k.codes + k.small) * np.eye(len(s.v_p))
    right = sum(k.shared * u.T @ side.paired for side, u in zip(sides, s.u)) + k.codes * s.r.T @ s.b_p
    v = np.linalg.solve(left, right)
    right_a = right[:, s.anchors] + k.relations * sum(v_u @ side.relations.T for side, v_u in zip(sides, s.v_u))
    v[:, s.anchors] = solvers.sylvester(left, k.relations * sum(z.relations @ z.relations.T for z in sides), right_a)
    return s._replace(v_p=v)


def update_r(s: Solution, sides: Sequence[Side], k: Weights) -> Solution:
    b, v = np.concatenate([s.b_p, *s.b_u], 1), np.concatenate([s.v_p, *s.v_u], 1)
    return s._replace(r=solvers.procrustes(v.T, b.T).T)


def update_b(s: Solution, sides: Sequence[Side], k: Weights) -> Solution:
    b_u = (signs(k.codes * s.r @ v + k.hash * w @ side.unpaired) for side, v, w in zip(sides, s.v_u, s.w))
    b_p = signs(k.codes * s.r @ s.v_p + k.hash * sum(w @ side.paired for side, w in zip(sides, s.w)))
    return s._replace(b_p=b_p, b_u=tuple(b_u))


def update_w(s: Solution, sides: Sequence[Side], k: Weights) -> Solution:
    return s._replace(w=tuple(np.concatenate([s.b_p, b_u], 1) @ side.hashing for side, b_u in zip(sides, s.b_u)))


UPDATES = (update_u, update_v_u, update_v_p, update_r, update_b, update_w)


def start(
    paired: Sequence[Matrix], unpaired: Sequence[Matrix], bits: int, anchors: Int[np.ndarray, " K"], weights: Weights,
    permute: np.random.Generator | None = None,
) -> tuple[Solution, tuple[Side, ...]]:  # fmt: skip
    """The solution by PCA of the pairs, and both sides with their relations; `permute` shuffles these over the columns (an ablation).

    Raises DataError for fewer pairs than bits or anchors, or columns that are not finite.
    """
    n = paired[0].shape[1]
    if n < max(bits, 2) or len(anchors) > n or not len(anchors):
        raise DataError(f"there are {n} pairs for {bits} bits and {len(anchors)} anchors: pair more, or ask for fewer")
    if not all(np.isfinite(x).all() for x in (*paired, *unpaired)):
        raise DataError("features hold NaN or infinite values")
    sides = []
    for x, rest in zip(paired, unpaired):
        z = reconstruction(x[:, anchors], rest, weights.gamma)
        z = z[:, permute.permutation(z.shape[1])] if permute is not None else z
        whole = np.concatenate([x, rest], 1)
        gram = whole @ whole.T + weights.ridge * whole.shape[1] * np.eye(len(x))
        sides.append(Side(x, rest, z, np.linalg.solve(gram, whole).T))
    v = np.linalg.svd(np.concatenate(paired), full_matrices=False)[2][:bits] * np.sqrt(n)
    v_u = tuple(v[:, anchors] @ side.relations for side in sides)
    codes = signs(v), tuple(signs(x) for x in v_u)
    none = tuple(np.zeros((len(x), bits)) for x in paired)
    s = Solution(none, v, v_u, np.eye(bits), *codes, tuple(u.T for u in none), anchors)
    return s, tuple(sides)


def solve(
    paired: Sequence[Matrix], unpaired: Sequence[Matrix], bits: int, anchors: Int[np.ndarray, " K"],
    weights: Weights, iterations: int = 15, tolerance: float = 1e-4, permute: np.random.Generator | None = None,
) -> tuple[Solution, list[float]]:  # fmt: skip
    """(solution, J after each iteration) of the alternating closed forms, until J falls by less than `tolerance` of itself.

    paired, unpaired: centred features [D, N] of each modality; no unpaired column is fine. Each update lowers J or keeps it.
    """
    if iterations < 1:
        raise ConfigError(f"iterations is {iterations}: it must be at least 1")
    s, sides = start(paired, unpaired, bits, anchors, weights, permute)
    trace: list[float] = []
    for _ in range(iterations):
        for update in UPDATES:
            s = update(s, sides, weights)
        trace.append(objective(s, sides, weights))
        if len(trace) > 1 and trace[-2] - trace[-1] < tolerance * trace[-2]:
            break
    return s, trace
