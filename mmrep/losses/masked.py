"""Losses of masked prediction: of tokens, and of patches.

Patch losses are means over each patch, [B, N]; reduce them with `over_targets`.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mmrep.losses.contrastive import Scalar
from mmrep.losses.reduce import masked_mean

IGNORE = 255
"""A class id that stands for none: what is labelled so counts for nothing."""


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


def normalise_patches(patches: Float[Array, "*batch P"], eps: float = 1e-6) -> Float[Array, "*batch P"]:
    """Each patch with mean 0 and variance 1, all its values together (He et al. 2022, MAE; variance over P - 1)."""
    x = patches.astype(jnp.float32)
    x = x - x.mean(-1, keepdims=True)
    return x * jax.lax.rsqrt((x**2).sum(-1, keepdims=True) / max(1, x.shape[-1] - 1) + eps)


def patch_mse(
    predicted: Float[Array, "B N P"], patches: Float[Array, "B N P"], observed: Bool[Array, "B N P"] | None = None
) -> Float[Array, "B N"]:
    """Mean squared error of each patch, over the values that were observed; 0 where none was."""
    return _mean((predicted.astype(jnp.float32) - patches.astype(jnp.float32)) ** 2, observed)


def patch_l1(
    predicted: Float[Array, "B N P"], patches: Float[Array, "B N P"], observed: Bool[Array, "B N P"] | None = None
) -> Float[Array, "B N"]:
    """Mean absolute error of each patch, over the values that were observed; 0 where none was."""
    return _mean(jnp.abs(predicted.astype(jnp.float32) - patches.astype(jnp.float32)), observed)


def _mean(errors: Float[Array, "B N P"], observed: Bool[Array, "B N P"] | None) -> Float[Array, "B N"]:
    return errors.mean(-1) if observed is None else masked_mean(errors, observed, axis=-1)


def patch_cross_entropy(
    logits: Float[Array, "B N P C"], labels: Int[Array, "B N P"], ignore: int | None = None
) -> Float[Array, "B N"]:
    """Mean cross-entropy of the patch's pixels; a pixel labelled `ignore` counts for nothing, a patch of such pixels is 0."""
    log_z = jax.nn.logsumexp(logits.astype(jnp.float32), axis=-1)
    kept = jnp.ones(labels.shape, bool) if ignore is None else labels != ignore
    safe = jnp.where(kept, labels, 0)
    # A sum over classes, not a gather: its gradient is a product where a gather's is a slow scatter.
    at = jnp.where(safe[..., None] == jnp.arange(logits.shape[-1]), logits.astype(jnp.float32), 0.0).sum(-1)
    return jnp.where(kept, log_z - at, 0.0).sum(-1) / jnp.maximum(kept.sum(-1), 1)


def over_targets(values: Float[Array, "B N"], target: Bool[Array, "B N"]) -> Float[Array, ""]:
    """The mean over each example's targets, then over the examples that have any; 0 where none has (MultiMAE's reduction)."""
    per_example = masked_mean(values, target, axis=1)
    return masked_mean(per_example, target.any(axis=1))
