"""Losses of fine-tuning, and the part of another system's parameters that one of its functions needs."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from mmrep.losses import masked
from mmrep.system import Batch, Extras, Infer, Params


def classification_loss(logits: Float[Array, "B C"], labels: Int[Array, " B"]) -> Float[Array, ""]:
    """Mean cross-entropy."""
    return optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def segmentation_loss(logits: Float[Array, "B H W C"], classes: Int[Array, "B H W"]) -> Float[Array, ""]:
    """Cross-entropy of each pixel, averaged over all pixels of the batch that are not `masked.IGNORE`."""
    labels, flat = classes.reshape(len(classes), 1, -1), logits.reshape(len(classes), 1, -1, logits.shape[-1])
    kept = (labels != masked.IGNORE).sum((1, 2))
    value = masked.patch_cross_entropy(flat, labels, ignore=masked.IGNORE)[:, 0]
    return (value * kept).sum() / jnp.maximum(kept.sum(), 1)


def berhu(error: Float[Array, "B H W C"], valid: Bool[Array, "B H W C"] | None = None) -> Float[Array, ""]:
    """Reversed Huber loss: |e| below c, (e^2 + c^2) / 2c from there on, c a fifth of the batch's greatest error, taken as a constant.

    Mean over the `valid` values (Laina et al. 2016, arXiv 1606.00373).
    """
    e = jnp.abs(error) if valid is None else jnp.where(valid, jnp.abs(error), 0)
    c = jax.lax.stop_gradient(jnp.maximum(0.2 * e.max(), 1e-5))
    count = jnp.float32(e.size) if valid is None else jnp.maximum(valid.sum(), 1)
    return jnp.where(e < c, e, (e**2 + c**2) / (2 * c)).sum() / count


def used(infer: Infer, params: Params, extras: Extras, batch: Batch) -> tuple[Params, Extras]:
    """The top-level entries of params and extras on which the function depends."""
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (params, extras, dict(batch)))
    jaxpr = jax.make_jaxpr(infer)(*shapes).jaxpr
    live = {id(v) for v in jaxpr.outvars}
    for eqn in reversed(jaxpr.eqns):
        if any(id(v) in live for v in eqn.outvars):
            live |= {id(v) for v in eqn.invars}
    leaves = jax.tree_util.tree_leaves_with_path(shapes)
    tops = {(path[0].idx, path[1].key) for (path, _), v in zip(leaves, jaxpr.invars) if id(v) in live}
    return ({k: v for k, v in params.items() if (0, k) in tops}, {k: v for k, v in extras.items() if (1, k) in tops})
