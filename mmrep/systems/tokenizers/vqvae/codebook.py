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


def quantise(state: Codebook, z: Float[Array, "*n D"], normalise: bool = False) -> Quantised:
    """The code with the largest cosine to each latent (Mizrahi et al. 2023, 4M, appendix on tokenizers; ViT-VQGAN).

    normalise: the commitment loss and the straight-through path use unit latents instead of z itself.
    """
    ids = (unit(z) @ unit(state["codes"]).T).argmax(-1).astype(jnp.int32)
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
