"""Where embeddings lie on the sphere: uniformity and alignment, as losses and as measures (Wang & Isola 2020, arXiv 2005.10242).

The functions are of the whole batch: under `jax.jit` with sharded rows the compiler gathers them.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mmrep.errors import ConfigError
from mmrep.losses.contrastive import similarity

Rows = Float[Array | np.ndarray, "B D"]


def uniformity(x: Rows, t: float = 2.0) -> Float[Array, ""]:
    """log of the mean over pairs i < j of exp(-t |x_i - x_j|^2); unit rows: in [-4 t, 0], lower is more uniform.

    Raises ConfigError for fewer than 2 rows.
    """
    return cross_uniformity(x, x, t)


def cross_uniformity(x: Rows, y: Rows, t: float = 2.0) -> Float[Array, ""]:
    """log of the mean over i != j of exp(-t |x_i - y_j|^2), the pairs i = i left out. Raises ConfigError for fewer than 2 rows."""
    n = x.shape[0]
    if n < 2:
        raise ConfigError(f"uniformity needs a batch of at least 2 rows, found {n}")
    x, y = jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)
    squares = (x**2).sum(-1)[:, None] + (y**2).sum(-1)[None, :]
    # Clipped: rounding must not give equal rows a negative distance.
    distances = jnp.maximum(squares - 2.0 * similarity(x, y), 0.0)
    others = ~jnp.eye(n, dtype=bool)
    return jax.nn.logsumexp(-t * distances, where=others) - math.log(n * (n - 1))


def alignment(x: Rows, y: Rows) -> Float[Array, " B"]:
    """|x_i - y_i|^2 of each pair; unit rows: in [0, 4]."""
    return ((jnp.asarray(x, jnp.float32) - jnp.asarray(y, jnp.float32)) ** 2).sum(-1)
