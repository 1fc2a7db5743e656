"""From logits to tokens: top-k, top-p, temperature and classifier-free guidance. Settings are arrays, so a new value does not recompile."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

Number = Float[Array, ""] | float


def keep_top_k(logits: Float[Array, "*n V"], k: Number) -> Float[Array, "*n V"]:
    """-inf below the k-th largest logit; k < 1 is a fraction of V, 0 keeps all."""
    v = logits.shape[-1]
    count = jnp.where(jnp.asarray(k) < 1, jnp.floor(jnp.asarray(k, jnp.float32) * v), k)
    ranked = jnp.sort(logits, axis=-1)
    at = jnp.clip(v - count, 0, v - 1).astype(jnp.int32)
    least = jnp.where(count > 0, jnp.take(ranked, at, axis=-1), -jnp.inf)
    return jnp.where(logits < least[..., None], -jnp.inf, logits)


def keep_top_p(logits: Float[Array, "*n V"], p: Number) -> Float[Array, "*n V"]:
    """Nucleus filtering (Holtzman et al. 2020): -inf outside the smallest set of most likely tokens with total probability p; 0 keeps all."""
    order = jnp.argsort(-logits, axis=-1)
    ranked = jnp.take_along_axis(logits, order, axis=-1)
    share = jax.nn.softmax(ranked.astype(jnp.float32), axis=-1)
    before = jnp.cumsum(share, axis=-1) - share
    # A token is dropped where those before it already have probability p; the first is always kept.
    out = (before > p) & (jnp.arange(logits.shape[-1]) > 0) & (jnp.asarray(p) > 0)
    out = jnp.take_along_axis(out, jnp.argsort(order, axis=-1), axis=-1)
    return jnp.where(out, -jnp.inf, logits)


def sample(
    rng: PRNGKeyArray, logits: Float[Array, "*n V"], temperature: Number, top_k: Number = 0.0, top_p: Number = 0.0
) -> tuple[Int[Array, "*n"], Float[Array, "*n"]]:
    """(ids, the probability with which each was drawn). The filters precede the temperature; temperature 0 is argmax, with probability 1."""
    heat = jnp.asarray(temperature, jnp.float32)
    kept = keep_top_p(keep_top_k(logits.astype(jnp.float32), top_k), top_p)
    scaled = kept / jnp.maximum(heat, 1e-9)
    drawn = jax.random.categorical(rng, scaled, axis=-1)
    chance = jnp.take_along_axis(jax.nn.softmax(scaled, axis=-1), drawn[..., None], axis=-1)[..., 0]
    cold = heat < 1e-10
    likeliest = logits.argmax(-1)
    return jnp.where(cold, likeliest, drawn).astype(jnp.int32), jnp.where(cold, 1.0, chance)


def guide(
    conditioned: Float[Array, "C *n V"], plain: Float[Array, "*n V"], weights: Float[Array, " C"]
) -> Float[Array, "*n V"]:
    """Guided logits: plain + sum_i weights_i (conditioned_i - plain) (Ho and Salimans 2022; Liu et al. 2022 for several conditions)."""
    return plain + jnp.tensordot(weights, conditioned - plain, axes=1)
