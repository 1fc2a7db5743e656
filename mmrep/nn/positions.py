"""Position embeddings: fixed sines and cosines, or learnt."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from mmrep.errors import ConfigError


def _sincos(positions: np.ndarray, dim: int) -> np.ndarray:
    angles = positions[:, None] / 10_000.0 ** (np.arange(dim // 2) / (dim // 2))
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def sincos_1d(n: int, dim: int) -> Float[Array, "{n} {dim}"]:
    """dim/2 sines, then dim/2 cosines, at frequencies 10000^(-2k/dim). Raises ConfigError unless `dim` is even."""
    if dim % 2:
        raise ConfigError(f"width is {dim}; sine-cosine positions need an even width.")
    return jnp.asarray(_sincos(np.arange(n), dim), jnp.float32)


def sincos_2d(h: int, w: int, dim: int) -> Float[Array, "{h*w} {dim}"]:
    """Rows of an h by w grid in reading order: the first half tells the column, the second the row (as in MAE).

    Raises ConfigError unless 4 divides `dim`.
    """
    if dim % 4:
        raise ConfigError(f"width is {dim}; two-dimensional sine-cosine positions need a width that 4 divides.")
    rows, columns = np.divmod(np.arange(h * w), w)
    halves = _sincos(columns, dim // 2), _sincos(rows, dim // 2)
    return jnp.asarray(np.concatenate(halves, axis=1), jnp.float32)


class LearnedPositions(nn.Module):
    """Adds the first N of `length` learnt rows to `x`. Raises ConfigError where N is greater than `length`."""

    length: int
    init_std: float = 0.02
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
        n, dim = x.shape[-2:]
        if n > self.length:
            raise ConfigError(f"A sequence of {n} tokens came in; raise the length (max_len), now {self.length}.")
        rows = self.param("embedding", nn.initializers.normal(self.init_std), (self.length, dim), jnp.float32)
        return (x + rows[:n]).astype(self.dtype)
