"""Continuous vectors as discrete tokens: finite scalar levels, fixed codes of patches, and a cosine codebook learnt by moving averages."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from mmrep.errors import ConfigError

State = dict[str, Array]


def check_levels(levels: Sequence[int]) -> None:
    """Raises ConfigError unless there is at least one level count, each of 2 or more, and ids fit int32."""
    if not levels or min(levels) < 2 or float(np.prod(np.array(levels, float))) >= 2**31:
        raise ConfigError(f"levels is {tuple(levels)}: give one count a channel, each at least 2, product below 2^31")


def _basis(levels: Sequence[int]) -> np.ndarray:
    return np.concatenate([[1], np.cumprod(levels[:-1])]).astype(np.int32)


def fsq(z: Float[Array, "*n C"], levels: Sequence[int]) -> tuple[Float[Array, "*n C"], Int[Array, "*n"]]:
    """(codes in [-1, 1], ids): each channel squashed by tanh and rounded to its levels; gradients pass the rounding (Mentzer et al. 2024).

    z = 0 lies on a level, so an even count reaches one level further down than up. Raises ConfigError for impossible levels.
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
    """The codes in [-1, 1] that `fsq` gives these ids to."""
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
    """Tokens without training: the mean of each patch, rounded to so many even levels in [0, 1] a channel."""
    check_levels(levels)
    if len(levels) != x.shape[3]:
        raise ConfigError(f"levels is {tuple(levels)}: the map has {x.shape[3]} channels, give one count for each")
    top = jnp.float32(np.array(levels) - 1)
    digits = jnp.round(jnp.clip(_cells(x, grid).mean(3), 0, 1) * top).astype(jnp.int32)
    return (digits * _basis(levels)).sum(-1)


def patch_values(ids: Int[Array, "B R C"], levels: Sequence[int]) -> Float[Array, "B R C K"]:
    """The means in [0, 1] that `patch_ids` stands for."""
    check_levels(levels)
    digits = (ids[..., None] // _basis(levels)) % np.array(levels, np.int32)
    return digits.astype(jnp.float32) / jnp.float32(np.array(levels) - 1)


def patch_majority(x: Int[Array, "B H W"], grid: tuple[int, int], classes: int) -> Int[Array, "B {grid[0]} {grid[1]}"]:
    """The class that most pixels of each patch have, the lowest of equals. A map of the grid's own size comes back as it is.

    Ids outside [0, classes) have no vote; a patch of them alone is class 0. Votes are runs of sorted pixels: a count of every class
    would take `classes` numbers a pixel.
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


class Quantised(NamedTuple):
    """codes: the code of each latent, gradients going straight to the latent.   ids: which.   commitment: mean (z - code)^2."""

    codes: Float[Array, "*n D"]
    ids: Int[Array, "*n"]
    commitment: Float[Array, ""]


def unit(x: Float[Array, "*n D"]) -> Float[Array, "*n D"]:
    """x / |x| in float32; 0 stays 0."""
    x = x.astype(jnp.float32)
    # A gradient of |x| at 0 is NaN, and a where after it does not help: see the JAX FAQ.
    squares = (x * x).sum(-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(squares, 1e-24))


def codebook(rng: PRNGKeyArray, codes: int, width: int) -> State:
    """A codebook's state (it lives in a system's extras): unit codes [K, D], and usage [K], 0."""
    if codes < 2 or width < 1:
        raise ConfigError(f"a codebook of {codes} codes of width {width}: give at least 2 codes and width 1")
    return {"codes": unit(jax.random.normal(rng, (codes, width))), "usage": jnp.zeros(codes, jnp.float32)}


def quantise(state: State, z: Float[Array, "*n D"], normalise: bool = False) -> Quantised:
    """The code of greatest cosine with each latent (Mizrahi et al. 2023, 4M, appendix on tokenizers; ViT-VQGAN).

    Codes are matched by direction and returned as they are. normalise: the commitment loss and the straight-through path see unit
    latents; otherwise they see z itself.
    """
    ids = (unit(z) @ unit(state["codes"]).T).argmax(-1).astype(jnp.int32)
    z = unit(z) if normalise else z
    found = jax.lax.stop_gradient(state["codes"][ids])
    straight = z + jax.lax.stop_gradient(found.astype(z.dtype) - z)
    return Quantised(straight, ids, ((found - z.astype(jnp.float32)) ** 2).mean())


def dead_below(tokens: int, codes: int, share: float = 32.0) -> float:
    """Usage below which a code counts as dead: 1/share of what it would get if all were used alike."""
    return tokens / codes / share


def update_codebook(
    state: State,
    z: Float[Array, "*n D"],
    ids: Int[Array, "*n"],
    rng: PRNGKeyArray,
    decay: float = 0.99,
    dead: float = 0.0,
) -> State:
    """The state after one batch: each used code moves to the direction of its latents' mean, unused ones stay (moving averages).

    dead: a code whose averaged count a batch falls below it starts again at the direction of a random latent of the batch; 0 is off.
    """
    flat, ids = unit(z.reshape(-1, z.shape[-1])), ids.reshape(-1)
    one_hot = jax.nn.one_hot(ids, len(state["codes"]), dtype=jnp.float32)
    count = one_hot.sum(0)
    usage = state["usage"] * decay + count * (1 - decay)
    mean = unit((one_hot.T @ flat) / jnp.maximum(count, 1)[:, None])
    target = jnp.where(count[:, None] > 0, mean, unit(state["codes"]))
    codes = state["codes"] * decay + target * (1 - decay)
    if dead:
        # Distinct latents as far as there are enough.
        order = jax.random.permutation(rng, len(flat))
        fresh = flat[order[jnp.arange(len(codes)) % len(flat)]]
        codes = jnp.where((usage < dead)[:, None], fresh, codes)
    return jax.lax.stop_gradient({"codes": codes, "usage": usage})


def product_codebook(rng: PRNGKeyArray, heads: int, codes: int, width: int) -> State:
    """Parameters of a product quantiser, all learnt by gradient: codes [h, K, d], their maps to keys and to values [h, d, d], d = width/h.

    Raises ConfigError where heads do not divide the width.
    """
    if heads < 1 or width % heads or codes < 2:
        raise ConfigError(
            f"{heads} codebooks of {codes} codes for width {width}: heads must divide the width, codes be 2 or more"
        )
    d = width // heads
    drawn, *maps = jax.random.split(rng, 3)
    key, value = (jax.random.uniform(k, (heads, d, d), minval=-1.0, maxval=1.0) * (3.0 / d) ** 0.5 for k in maps)
    return {"codes": jax.random.normal(drawn, (heads, codes, d)), "key": key, "value": value}


def product_quantise(
    params: State, z: Float[Array, "*n D"], rng: PRNGKeyArray | None = None, temperature: float = 1.0
) -> tuple[Float[Array, "*n D"], Int[Array, "*n h"]]:
    """(the values of the codes found, their ids in each of the h codebooks) of latents cut into h parts (4M-21, "Memcodes" of NWT).

    Each part takes the code whose key has the greatest product with it; the gradient is that of a softmax over all codes. With `rng`,
    in training, the code is drawn from that softmax (hard, straight-through Gumbel-softmax).
    """
    h, k, d = params["codes"].shape
    parts = z.astype(jnp.float32).reshape(*z.shape[:-1], h, d) * d**-0.5
    keys, values = (jnp.einsum("hkd,hde->hke", params["codes"], params[name]) for name in ("key", "value"))
    logits = jnp.einsum("...hd,hkd->...hk", parts, keys)
    if rng is None:
        ids = logits.argmax(-1).astype(jnp.int32)
        return product_values(params, ids).astype(z.dtype), ids
    noisy = (logits + jax.random.gumbel(rng, logits.shape)) / temperature
    ids, soft = noisy.argmax(-1).astype(jnp.int32), jax.nn.softmax(noisy, axis=-1)
    hard = jax.nn.one_hot(ids, k, dtype=jnp.float32)
    chosen = hard + soft - jax.lax.stop_gradient(soft)
    found = jnp.einsum("...hk,hkd->...hd", chosen, values)
    return found.reshape(z.shape).astype(z.dtype), ids


def product_values(params: State, ids: Int[Array, "*n h"]) -> Float[Array, "*n D"]:
    """The latents that these ids stand for."""
    values = jnp.einsum("hkd,hde->hke", params["codes"], params["value"])
    found = values[jnp.arange(ids.shape[-1]), ids]
    return found.reshape(*ids.shape[:-1], -1)
