"""Losses of masked patches, means over each patch, [B, N], which `over_targets` reduces; and of tokens, [B, L]."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mmrep.losses.reduce import masked_mean

IGNORE = 255
"""Ignore index: pixels of this class id are left out of losses and measures."""


def normalise_patches(patches: Float[Array, "*batch P"], eps: float = 1e-6) -> Float[Array, "*batch P"]:
    """Each patch with mean 0 and variance 1, all its values together (He et al. 2022, MAE; variance over P - 1)."""
    x = patches.astype(jnp.float32)
    x = x - x.mean(-1, keepdims=True)
    return x * jax.lax.rsqrt((x**2).sum(-1, keepdims=True) / max(1, x.shape[-1] - 1) + eps)


def patch_mse(
    predicted: Float[Array, "B N P"], patches: Float[Array, "B N P"], observed: Bool[Array, "B N P"] | None = None
) -> Float[Array, "B N"]:
    """Mean squared error of each patch over its observed values; 0 where none is observed."""
    return _mean((predicted.astype(jnp.float32) - patches.astype(jnp.float32)) ** 2, observed)


def patch_l1(
    predicted: Float[Array, "B N P"], patches: Float[Array, "B N P"], observed: Bool[Array, "B N P"] | None = None
) -> Float[Array, "B N"]:
    """Mean absolute error of each patch over its observed values; 0 where none is observed."""
    return _mean(jnp.abs(predicted.astype(jnp.float32) - patches.astype(jnp.float32)), observed)


def _mean(errors: Float[Array, "B N P"], observed: Bool[Array, "B N P"] | None) -> Float[Array, "B N"]:
    return errors.mean(-1) if observed is None else masked_mean(errors, observed, axis=-1)


def patch_cross_entropy(
    logits: Float[Array, "B N P C"], labels: Int[Array, "B N P"], ignore: int | None = None
) -> Float[Array, "B N"]:
    """Mean cross-entropy of each patch's pixels, those labelled `ignore` left out; 0 for a patch of such pixels alone."""
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


def token_loss(
    logits: Float[Array, "B L V"],
    labels: Int[Array, "B L"],
    valid: Bool[Array, "B L"],
    smoothing: float = 0.0,
    weights: Float[Array, "#B #L"] | None = None,
) -> Float[Array, "B L"]:
    """Cross-entropy in nats of each token, times its weight; 0 where not `valid`, whatever the label there.

    smoothing: share of the target that is spread evenly over the vocabulary (Szegedy et al. 2016), in [0, 1).
    A sequence's log-probability is minus the sum of a row (without smoothing). Reduce with `masked_mean(values, valid)`.
    """
    logits = logits.astype(jnp.float32)
    log_z = jax.nn.logsumexp(logits, axis=-1)
    chosen = jnp.take_along_axis(logits, jnp.where(valid, labels, 0)[..., None], axis=-1)[..., 0]
    values = log_z - (1 - smoothing) * chosen - (smoothing * logits.mean(-1) if smoothing else 0.0)
    return jnp.where(valid, values if weights is None else values * weights, 0.0)
