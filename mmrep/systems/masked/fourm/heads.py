"""4M's losses (ml-4m's forward_mod_loss and forward_token_loss): cross-entropy of each target over its own modality's vocabulary alone.

The cost depends on the number of tokens, not on the number of modalities: tokens are sorted by modality, and each embedding table is
multiplied with as many blocks of rows as hold its tokens. The gradients are computed in the same pass.
"""

from collections.abc import Sequence
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

BLOCK_ROWS = 64  # rows per multiplication; on average half a block per modality is wasted

Embeddings = tuple[Float[Array, "_ D"], ...]


def per_modality_cross_entropy(
    y: Float[Array, "N D"],
    embeddings: Embeddings,
    target_ids: Int[Array, " N"],
    modality: Int[Array, " N"],
    weights: Float[Array, " N"],
    block: int | None = BLOCK_ROWS,
) -> tuple[Float[Array, ""], Float[Array, " N"]]:
    """(sum of weights * cross-entropy, cross-entropy per token) of the logits y @ embeddings[modality].T. Only the sum has a gradient.

    modality: len(embeddings) marks padding, whose cross-entropy is 0.
    block: rows per multiplication; None multiplies all tokens with all tables (slow; the reference for tests).
    """
    if block is None:
        return _all_modalities(y, embeddings, target_ids, modality, weights)
    return _per_modality(y, embeddings, target_ids, modality, weights, block)


def _all_modalities(y, embeddings, target_ids, modality, weights):
    losses = jnp.zeros(y.shape[:1], jnp.float32)
    for i, table in enumerate(embeddings):
        logits = jnp.matmul(y, table.astype(y.dtype).T, preferred_element_type=jnp.float32)
        at = jnp.take_along_axis(logits, jnp.minimum(target_ids, len(table) - 1)[:, None], axis=1)[:, 0]
        losses = jnp.where(modality == i, jax.nn.logsumexp(logits, axis=1) - at, losses)
    return (losses * weights).sum(), jax.lax.stop_gradient(losses)


@partial(jax.custom_vjp, nondiff_argnums=(5,))
def _per_modality(y, embeddings, target_ids, modality, weights, block):
    total, losses, _ = _blockwise(y, embeddings, target_ids, modality, weights, block, False)
    return total, losses


def _blockwise(
    y: Array, embeddings: Embeddings, target_ids: Array, modality: Array, weights: Array, block: int, gradients: bool
):
    """(total, cross-entropy per token, (gradient of y, of the embeddings) or None)."""
    n = len(y)
    order = jnp.argsort(modality, stable=True)
    # The last modality's last block may reach beyond the end.
    padded = [jnp.pad(v[order], [(0, block)] + [(0, 0)] * (v.ndim - 1)) for v in (y, target_ids, weights)]
    kinds = jnp.pad(modality[order], (0, block), constant_values=len(embeddings))
    ends = jnp.searchsorted(kinds[:n], jnp.arange(len(embeddings)), side="right").astype(jnp.int32)
    starts = jnp.concatenate([jnp.zeros(1, jnp.int32), ends[:-1]])
    losses = jnp.zeros(n + block, jnp.float32)
    grad_y, grad_embeddings = jnp.zeros_like(padded[0]), []

    for i, table in enumerate(embeddings):
        cast = table.astype(y.dtype)

        def step(b, carry, i=i, cast=cast):
            losses, grad_y, grad_table = carry
            at = starts[i] + b * block
            rows, target, weight = (jax.lax.dynamic_slice_in_dim(v, at, block) for v in padded)
            own = jax.lax.dynamic_slice_in_dim(kinds, at, block) == i
            logits = jnp.matmul(rows, cast.T, preferred_element_type=jnp.float32)
            log_z = jax.nn.logsumexp(logits, axis=1, keepdims=True)
            hit = target[:, None] == jnp.arange(cast.shape[0])
            loss = jnp.where(own, log_z[:, 0] - jnp.where(hit, logits, 0).sum(1), 0.0)
            # Rows beyond this modality's end are overwritten by the next modality's first block.
            losses = jax.lax.dynamic_update_slice_in_dim(losses, loss, at, 0)
            if gradients:
                g = (jnp.exp(logits - log_z) - hit) * jnp.where(own, weight, 0.0)[:, None]
                g = g.astype(rows.dtype)
                grad_y = jax.lax.dynamic_update_slice_in_dim(grad_y, g @ cast, at, 0)
                grad_table = grad_table + jnp.matmul(g.T, rows, preferred_element_type=jnp.float32)
            return losses, grad_y, grad_table

        blocks = (ends[i] - starts[i] + block - 1) // block
        empty = jnp.zeros(table.shape if gradients else (), jnp.float32)
        losses, grad_y, grad_table = jax.lax.fori_loop(jnp.int32(0), blocks, step, (losses, grad_y, empty))
        grad_embeddings.append(grad_table.astype(table.dtype))
    back = jnp.argsort(order)
    losses = losses[back]
    grads = (grad_y[back], tuple(grad_embeddings)) if gradients else None
    return (losses * weights).sum(), losses, grads


def _forward(y, embeddings, target_ids, modality, weights, block):
    total, losses, grads = _blockwise(y, embeddings, target_ids, modality, weights, block, True)
    return (total, losses), (grads, losses)


def _backward(block, saved, g):
    (grad_y, grad_embeddings), losses = saved
    scale = g[0]
    scaled = tuple((t * scale).astype(t.dtype) for t in grad_embeddings)
    return (grad_y * scale).astype(grad_y.dtype), scaled, None, None, losses * scale


_per_modality.defvjp(_forward, _backward)


def token_weights(
    modality: Int[Array, " N"], vocab_sizes: Sequence[int], loss_type: Literal["mod", "token", "token_vocab"] = "mod"
) -> tuple[Float[Array, " N"], Float[Array, " T"]]:
    """(each token's weight in the loss, number of tokens by modality). Padding (modality T) has weight 0; without tokens nothing is NaN.

    "mod": the mean over each modality's tokens, averaged over all modalities, absent ones counting as 0 (4M's default).
    "token": the mean over tokens.   "token_vocab": the mean weighted by vocabulary size, which the authors' forward_token_loss computes.
    """
    kinds = len(vocab_sizes)
    count = (modality[:, None] == jnp.arange(kinds)).sum(0).astype(jnp.float32)
    if loss_type == "mod":
        each = 1 / (jnp.maximum(count, 1) * kinds)
    else:
        size = jnp.asarray(vocab_sizes if loss_type == "token_vocab" else [1] * kinds, jnp.float32)
        each = size / jnp.maximum((count * size).sum(), 1)
    return jnp.append(each, 0.0)[modality].astype(jnp.float32), count
