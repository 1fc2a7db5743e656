"""A codebook of unit vectors, matched by cosine and learned by exponential moving averages."""

from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from mmrep.errors import ConfigError
from mmrep.nn.heads import l2_normalise

Codebook: TypeAlias = dict[str, Array]


def unit(x: Float[Array, "*n D"]) -> Float[Array, "*n D"]:
    """x / |x| in float32; 0 stays 0."""
    return l2_normalise(x.astype(jnp.float32), 1e-12)


class Quantised(NamedTuple):
    """codes: the code of each latent, with a straight-through gradient.   ids: its index.   commitment: mean (z - code)^2."""

    codes: Float[Array, "*n D"]
    ids: Int[Array, "*n"]
    commitment: Float[Array, ""]


def codebook(rng: PRNGKeyArray, codes: int, width: int) -> Codebook:
    """A fresh codebook, part of a system's extras: unit codes [K, D], and usage [K], 0."""
    if codes < 2 or width < 1:
        raise ConfigError(f"a codebook of {codes} codes of width {width}: give at least 2 codes and width 1")
    return {"codes": unit(jax.random.normal(rng, (codes, width))), "usage": jnp.zeros(codes, jnp.float32)}


TIE = 1e-5  # cosines that differ by less are equal


def quantise(state: Codebook, z: Float[Array, "*n D"], normalise: bool = False) -> Quantised:
    """The code with the largest cosine to each latent (Mizrahi et al. 2023, 4M, appendix on tokenizers; ViT-VQGAN).

    normalise: the commitment loss and the straight-through path use unit latents instead of z itself.
    """
    cosine = unit(z) @ unit(state["codes"]).T
    # The first of equal codes: rounding, which differs between programs, must not choose the id.
    ids = (cosine > cosine.max(-1, keepdims=True) - TIE).argmax(-1).astype(jnp.int32)
    z = unit(z) if normalise else z
    found = jax.lax.stop_gradient(state["codes"][ids])
    straight = z + jax.lax.stop_gradient(found.astype(z.dtype) - z)
    return Quantised(straight, ids, ((found - z.astype(jnp.float32)) ** 2).mean())


def dead_below(tokens: int, codes: int, share: float = 32.0) -> float:
    """Usage below which a code is dead: 1/share of its usage if all codes were used equally."""
    return tokens / codes / share


def update_codebook(
    state: Codebook,
    z: Float[Array, "*n D"],
    ids: Int[Array, "*n"],
    rng: PRNGKeyArray,
    decay: float = 0.99,
    dead: float = 0.0,
) -> Codebook:
    """The codebook after one batch: moving averages of used codes towards the direction of their latents' mean.

    dead: a code with a lower average count per batch is reset to the direction of a random latent of the batch; 0 is off.
    """
    codes, count, flat = _moved(state, z, ids, decay)
    usage = state["usage"] * decay + count * (1 - decay)
    if dead:
        # Distinct latents as far as there are enough.
        order = jax.random.permutation(rng, len(flat))
        fresh = flat[order[jnp.arange(len(codes)) % len(flat)]]
        codes = jnp.where((usage < dead)[:, None], fresh, codes)
    return jax.lax.stop_gradient({"codes": codes, "usage": usage})


def update_by_utility(
    state: Codebook,
    z: Float[Array, "*n D"],
    ids: Int[Array, "*n"],
    rng: PRNGKeyArray,
    decay: float = 0.99,
    dead: float = 8.0,
) -> Codebook:
    """As `update_codebook`, but a code's usage is its utility (Fritzke 1997, LBG-U), not its number of latents.

    The utility is what the squared distances of its latents from their codes would grow by without it. A code with less than 1/dead of the mean
    is reset to a latent of the batch, drawn in proportion to its squared distance from its code, and has the mean utility then. Counts
    give frequent latents many codes that are nearly the same; utilities do not.
    """
    codes, _, flat = _moved(state, z, ids, decay)
    nearest, second = jax.lax.top_k(flat @ unit(state["codes"]).T, 2)[0].T
    gain = jnp.zeros(len(codes)).at[ids.reshape(-1)].add(nearest - second)
    usage = state["usage"] * decay + gain * (1 - decay)
    lost = usage < usage.mean() / dead
    # A Gumbel variable added to the logarithm of weights draws by these, without replacement.
    weights = jnp.log(jnp.maximum(1 - nearest, 1e-12))
    order = jnp.argsort(-(weights + jax.random.gumbel(rng, weights.shape)))
    fresh = flat[order[(jnp.cumsum(lost) - 1) % len(flat)]]
    found = {"codes": jnp.where(lost[:, None], fresh, codes), "usage": jnp.where(lost, usage.mean(), usage)}
    return jax.lax.stop_gradient(found)


def _moved(
    state: Codebook, z: Float[Array, "*n D"], ids: Int[Array, "*n"], decay: float
) -> tuple[Float[Array, "K D"], Float[Array, " K"], Float[Array, "N D"]]:
    """(codes nearer to the direction of their latents' mean, numbers of their latents, unit latents)."""
    flat = unit(z.reshape(-1, z.shape[-1]))
    one_hot = jax.nn.one_hot(ids.reshape(-1), len(state["codes"]), dtype=jnp.float32)
    count = one_hot.sum(0)
    mean = unit((one_hot.T @ flat) / jnp.maximum(count, 1)[:, None])
    target = jnp.where(count[:, None] > 0, mean, unit(state["codes"]))
    return state["codes"] * decay + target * (1 - decay), count, flat
