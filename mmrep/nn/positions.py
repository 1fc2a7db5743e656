"""Positions of tokens: fixed sines and cosines, learned rows, distances as attention biases (ALiBi), or rotations of queries and keys."""

from dataclasses import dataclass
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int

from mmrep.errors import ConfigError


def _sincos(positions: np.ndarray, dim: int, base: float = 10_000.0) -> np.ndarray:
    angles = positions[:, None] / base ** (np.arange(dim // 2) / (dim // 2))
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def sincos_1d(n: int, dim: int) -> Float[Array, "{n} {dim}"]:
    """dim/2 sines, then dim/2 cosines, at frequencies 10000^(-2k/dim). Raises ConfigError unless `dim` is even."""
    if dim % 2:
        raise ConfigError(f"width is {dim}; sine-cosine positions need an even width.")
    return jnp.asarray(_sincos(np.arange(n), dim), jnp.float32)


def sincos_2d(
    h: int, w: int, dim: int, trained: tuple[int, int] | None = None, base: float = 10_000.0
) -> Float[Array, "{h*w} {dim}"]:
    """Positions of an h by w grid in reading order: the first half encodes the column, the second the row (as in MAE).

    trained: (rows, columns) of the training grid, into which the positions of another grid are interpolated.
    base: wavelengths are between 2 pi and 2 pi base; with the usual 10,000 most of them are constant over a small grid.
    Raises ConfigError unless 4 divides `dim`.
    """
    if dim % 4:
        raise ConfigError(f"width is {dim}; two-dimensional sine-cosine positions need a width that 4 divides.")
    rows, columns = np.divmod(np.arange(h * w), w)
    if trained is not None:
        # Pixel centres map to pixel centres, as in the resizing of a table.
        rows, columns = ((x + 0.5) * (old / new) - 0.5 for x, old, new in zip((rows, columns), trained, (h, w)))
    halves = _sincos(columns, dim // 2, base), _sincos(rows, dim // 2, base)
    return jnp.asarray(np.concatenate(halves, axis=1), jnp.float32)


def grid_positions(rows: int, columns: int, width: int, base: float = 10_000.0) -> Float[Array, "N D"]:
    """Fixed sines and cosines of a grid in reading order; the first half encodes the row."""
    column_first = sincos_2d(rows, columns, width, base=base)
    return jnp.concatenate([column_first[:, width // 2 :], column_first[:, : width // 2]], axis=1)


def grid_offsets(side: int) -> Int[np.ndarray, "N N"]:
    """A number for each offset between two cells of a square grid (BEiT's relative positions), from 0 to (2 side - 1)^2 - 1."""
    rows, columns = np.divmod(np.arange(side * side), side)
    down, right = (x[:, None] - x[None] + side - 1 for x in (rows, columns))
    return down * (2 * side - 1) + right


def with_cls(buckets: Int[np.ndarray, "N N"], count: int) -> Int[np.ndarray, "M M"]:
    """Three more numbers for pairs with [CLS]: as query, as key, with itself."""
    found = np.full((len(buckets) + 1,) * 2, count, np.int32)
    found[1:, 1:] = buckets
    found[1:, 0], found[0, 0] = count + 1, count + 2
    return found


def alibi_slopes(heads: int) -> Float[np.ndarray, " {heads}"]:
    """Each head's slope: 2^(-8k/heads), k = 1..heads, for a power of two; else those of the power below, then every second one of the
    power above (Press et al. 2022, ALiBi). Raises ConfigError for fewer than one head.
    """
    if heads < 1:
        raise ConfigError(f"heads is {heads}; it must be at least 1.")
    power = 2 ** (heads.bit_length() - 1)
    slopes = 2.0 ** (-8.0 * np.arange(1, power + 1) / power)
    between = 2.0 ** (-8.0 * np.arange(1, 2 * power + 1, 2) / (2 * power))
    return np.concatenate([slopes, between])[:heads].astype(np.float32)


def alibi_2d(
    queries: Int[Array | np.ndarray, "#B N"], keys: Int[Array | np.ndarray, "#B M"], columns: int, heads: int
) -> Float[Array, "_ {heads} N M"]:
    """Attention bias -slope * distance between the grid positions of queries and keys (Fuller et al. 2023, CROMA, section 3.1).

    queries, keys: indices in reading order on a grid with `columns` columns. With one sensor's indices twice this is 2D-ALiBi, with those
    of two co-registered sensors X-ALiBi. It has no parameters and is independent of the grid's size, so larger images need no change.
    """
    here, there = jnp.asarray(queries)[:, :, None], jnp.asarray(keys)[:, None, :]
    rows, across = here // columns - there // columns, here % columns - there % columns
    distance = jnp.sqrt((rows**2 + across**2).astype(jnp.float32))
    return -jnp.asarray(alibi_slopes(heads))[None, :, None, None] * distance[:, None]


@dataclass(frozen=True)
class ScaledRotary:
    """Rotary positions stretched to texts longer than `length`, those of the training.

    kind: "linear" divides all frequencies by `factor` (Chen et al. 2023, position interpolation). "llama3" (Llama 3.1) divides those that turn fewer
        than `low` times within `length`, leaves those that turn more than `high` times, and goes from one to the other in between.
    """

    base: float = 10_000.0
    factor: float = 1.0
    kind: Literal["linear", "llama3"] = "linear"
    low: float = 1.0
    high: float = 4.0
    length: int = 8192

    def __post_init__(self) -> None:
        if not (self.base > 0 and self.factor > 0 and 0 < self.low < self.high and self.length > 0):
            raise ConfigError(f"rotary is {self}: base, factor and length must be positive, and low below high.")
        if self.kind not in ("linear", "llama3"):
            raise ConfigError(f"rotary.kind is {self.kind!r}; choose linear or llama3.")


def rotary_frequencies(dim: int, base: float | ScaledRotary) -> Float[np.ndarray, " K2"]:
    """Radians a position of each of the dim / 2 pairs of channels."""
    if not isinstance(base, ScaledRotary):
        return base ** (-np.arange(0, dim, 2) / dim)
    plain = base.base ** (-np.arange(0, dim, 2) / dim)
    turns = base.length * plain / (2 * np.pi)
    share = np.clip((turns - base.low) / (base.high - base.low), 0, 1) if base.kind == "llama3" else 0.0
    return plain * (share + (1 - share) / base.factor)


def rotary(
    x: Float[Array, "B N H K"], positions: Int[Array, "#B N"] | None, base: float | ScaledRotary = 10_000.0
) -> Float[Array, "B N H K"]:
    """Queries or keys rotated by their positions (Su et al. 2021, RoFormer), so that q'k depends on the distance alone.

    Llama's half-split convention: channel i < K/2 is paired with channel i + K/2, and the pair at position p is rotated by the angle
    p base^(-2i/K). (The paper and GPT-J pair channels 2i and 2i + 1: the same function after a permutation of each head's channels, by
    which the rows of their query and key matrices are reordered when they are loaded.) `positions` None: 0, 1, ..., N - 1. In float32.
    """
    n, dim = x.shape[1], x.shape[-1]
    at = jnp.arange(n)[None] if positions is None else positions
    angles = at[..., None, None].astype(jnp.float32) * jnp.asarray(rotary_frequencies(dim, base), jnp.float32)
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)


class LearnedPositions(nn.Module):
    """Adds the first N of `length` learned rows to `x`. Raises ConfigError where N is greater than `length`."""

    length: int
    init_std: float = 0.02
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
        n, dim = x.shape[-2:]
        if n > self.length:
            raise ConfigError(f"A sequence of {n} tokens came in; raise the length, now {self.length}.")
        rows = self.param("embedding", nn.initializers.normal(self.init_std), (self.length, dim), jnp.float32)
        return (x + rows[:n]).astype(self.dtype)
