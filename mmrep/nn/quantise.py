"""Numbers as ids without a learned codebook: finite scalar quantisation (FSQ), and the mean or majority of patches."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mmrep.errors import ConfigError


def check_levels(levels: Sequence[int]) -> None:
    """Raises ConfigError unless there is at least one level count, each of 2 or more, and ids fit int32."""
    if not levels or min(levels) < 2 or float(np.prod(np.array(levels, float))) >= 2**31:
        raise ConfigError(f"levels is {tuple(levels)}: give one count a channel, each at least 2, product below 2^31")


def _basis(levels: Sequence[int]) -> np.ndarray:
    return np.concatenate([[1], np.cumprod(levels[:-1])]).astype(np.int32)


def fsq(z: Float[Array, "*n C"], levels: Sequence[int]) -> tuple[Float[Array, "*n C"], Int[Array, "*n"]]:
    """(codes in [-1, 1], ids): tanh of each channel, rounded to its levels with a straight-through gradient (Mentzer et al. 2024, FSQ).

    z = 0 is a level, so an even count has one level more below than above. Raises ConfigError for impossible levels.
    """
    check_levels(levels)
    half = (np.array(levels) - 1) * (1 - 1e-3) / 2
    offset = np.where(np.array(levels) % 2 == 0, 0.5, 0.0)
    shift = np.arctanh(offset / half)
    bound = jnp.tanh(z.astype(jnp.float32) + jnp.float32(shift)) * jnp.float32(half) - jnp.float32(offset)
    rounded = bound + jax.lax.stop_gradient(jnp.round(bound) - bound)
    width = np.array(levels) // 2
    digits = jnp.round(jax.lax.stop_gradient(bound)).astype(jnp.int32) + jnp.asarray(width, jnp.int32)
    return (rounded / jnp.float32(width)).astype(z.dtype), (digits * _basis(levels)).sum(-1)


def fsq_codes(ids: Int[Array, "*n"], levels: Sequence[int]) -> Float[Array, "*n C"]:
    """The codes in [-1, 1] of these ids."""
    check_levels(levels)
    width = np.array(levels) // 2
    digits = (ids[..., None] // _basis(levels)) % np.array(levels, np.int32)
    return (digits - width).astype(jnp.float32) / jnp.float32(width)


def _cells(x: Array, grid: tuple[int, int]) -> Array:
    """[B, H, W, ...] as [B, rows, columns, pixels of the patch, ...]. Raises ConfigError where the grid does not divide the map."""
    rows, columns = grid
    if x.shape[1] % rows or x.shape[2] % columns:
        raise ConfigError(f"grid {grid} does not divide a map of {x.shape[1]} x {x.shape[2]} into whole patches")
    h, w = x.shape[1] // rows, x.shape[2] // columns
    x = x.reshape(x.shape[0], rows, h, columns, w, *x.shape[3:])
    return jnp.moveaxis(x, 3, 2).reshape(x.shape[0], rows, columns, h * w, *x.shape[5:])


def patch_ids(
    x: Float[Array, "B H W C"], grid: tuple[int, int], levels: Sequence[int]
) -> Int[Array, "B {grid[0]} {grid[1]}"]:
    """The mean of each patch, rounded to so many equidistant levels in [0, 1] per channel."""
    check_levels(levels)
    if len(levels) != x.shape[3]:
        raise ConfigError(f"levels is {tuple(levels)}: the map has {x.shape[3]} channels, give one count for each")
    top = jnp.float32(np.array(levels) - 1)
    digits = jnp.round(jnp.clip(_cells(x, grid).mean(3), 0, 1) * top).astype(jnp.int32)
    return (digits * _basis(levels)).sum(-1)


def patch_values(ids: Int[Array, "B R C"], levels: Sequence[int]) -> Float[Array, "B R C K"]:
    """The means in [0, 1] of these ids."""
    check_levels(levels)
    digits = (ids[..., None] // _basis(levels)) % np.array(levels, np.int32)
    return digits.astype(jnp.float32) / jnp.float32(np.array(levels) - 1)


def patch_majority(x: Int[Array, "B H W"], grid: tuple[int, int], classes: int) -> Int[Array, "B {grid[0]} {grid[1]}"]:
    """The most frequent class of each patch, the lowest of equally frequent ones. A map of the grid's own size is returned unchanged.

    Ids outside [0, classes) are not counted; a patch of such ids alone is class 0. Counts come from runs of sorted pixels, since a count of
    every class would need `classes` numbers per pixel.
    """
    if x.shape[1:] == tuple(grid):
        return x
    cells = _cells(x, grid)
    voting = (cells >= 0) & (cells < classes)
    ranked = jnp.sort(jnp.where(voting, cells, classes), axis=-1)
    place = jnp.broadcast_to(jnp.arange(ranked.shape[-1]), ranked.shape)
    begins = jnp.diff(ranked, axis=-1, prepend=-1) != 0
    votes = jnp.where(ranked < classes, place - jax.lax.cummax(jnp.where(begins, place, 0), axis=3), -1)
    winner = jnp.take_along_axis(ranked, votes.argmax(-1)[..., None], axis=-1)[..., 0]
    return jnp.where(winner < classes, winner, 0).astype(jnp.int32)
