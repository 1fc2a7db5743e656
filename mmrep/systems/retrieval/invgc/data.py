"""Synthetic embeddings whose galleries are crowded."""

import numpy as np
from jaxtyping import Array, Float

Pair = tuple[Float[Array | np.ndarray, "_ D"], Float[Array | np.ndarray, "_ D"]]
"""Queries and their gallery: row i of one belongs to row i of the other."""


def crowded(
    rng: np.random.Generator,
    directions: Float[np.ndarray, "2 D"],
    basis: Float[np.ndarray, "K D"],
    n: int,
    cone: float,
    nuisance: float,
    noise: float,
) -> Pair:
    """Pairs of queries norm(cone v + .6 z + noise n) and gallery rows norm(cone u + .6 z + nuisance P + noise n'), z, n, n' normal.

    directions: u and v, the axes of the two cones.   basis: the K directions of P, nuisance of the gallery alone.
    """
    u, v = directions
    z, n1, n2 = rng.standard_normal((3, n, basis.shape[1]))
    q = cone * v + 0.6 * z + noise * n1
    g = cone * u + 0.6 * z + nuisance * (rng.standard_normal((n, len(basis))) @ basis) + noise * n2
    q, g = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (q, g))
    return q.astype(np.float32), g.astype(np.float32)


def clustered(rng: np.random.Generator, centres: Float[np.ndarray, "K D"], n: int, detail: float, noise: float) -> Pair:
    """Pairs norm(c + detail z + noise n), norm(c + detail z + noise n'): c a centre drawn for the pair, z its own detail; z, n, n' normal
    with a variance of 1 / D. Neighbours of a row share its centre."""
    c = centres[rng.integers(0, len(centres), n)]
    z, n1, n2 = rng.standard_normal((3, *c.shape)) / np.sqrt(centres.shape[1])
    q, g = (
        x / np.linalg.norm(x, axis=1, keepdims=True) for x in (c + detail * z + noise * n1, c + detail * z + noise * n2)
    )
    return q.astype(np.float32), g.astype(np.float32)
