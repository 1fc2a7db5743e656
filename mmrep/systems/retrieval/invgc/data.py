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
