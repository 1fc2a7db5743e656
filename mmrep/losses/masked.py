"""Losses of masked prediction."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mmrep.losses.contrastive import Scalar


def masked_lm_loss(
    logits: Float[Array, "*batch L V"],
    labels: Int[Array, "*batch L"],
    target: Bool[Array, "*batch L"],
    soft: Float[Array, "*batch L V"] | None = None,
    alpha: Scalar = 0.0,
) -> Float[Array, "*batch L"]:
    """(1 - alpha) * cross-entropy against labels + alpha * cross-entropy against `soft`, per token; 0 off target.

    labels: the unmasked ids.   soft: probabilities of a momentum teacher, without gradient (ALBEF, equation 7).
    Reduce with `masked_mean(values, target)`, the mean over all targets of the batch: 0 where nothing is masked.
    """
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    # Off target the label may be anything, also out of range.
    safe = jnp.where(target, labels, 0)
    values = -jnp.take_along_axis(log_p, safe[..., None], axis=-1)[..., 0]
    if soft is not None:
        teacher = jax.lax.stop_gradient(soft).astype(jnp.float32)
        values = (1.0 - alpha) * values - alpha * jnp.sum(teacher * log_p, axis=-1)
    return jnp.where(target, values, 0.0)
