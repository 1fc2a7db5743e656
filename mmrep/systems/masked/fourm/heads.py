"""Cross-entropy under one table of ids a stream: each token meets the table of its own stream, and no other.

What it costs depends on the number of tokens, not on how many streams they could belong to: tokens are sorted by stream, and each
stream's table is multiplied with as many blocks of rows as hold its tokens. The gradients come out of the same pass.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

BLOCK = 64  # rows multiplied at once: half of a block a stream is wasted, on average

Tables = tuple[Float[Array, "_ D"], ...]


def table_cross_entropy(
    y: Float[Array, "N D"],
    tables: Tables,
    labels: Int[Array, " N"],
    stream: Int[Array, " N"],
    weights: Float[Array, " N"],
    block: int | None = BLOCK,
) -> tuple[Float[Array, ""], Float[Array, " N"]]:
    """(sum of weights * cross-entropy, each token's cross-entropy): logits are y @ tables[stream].T; only the sum has a gradient.

    stream: len(tables) stands for padding, whose cross-entropy is 0.   block: None multiplies all tokens with all tables, the slow twin.
    """
    if block is None:
        return _all_tables(y, tables, labels, stream, weights)
    return _by_stream(y, tables, labels, stream, weights, block)


def _all_tables(y, tables, labels, stream, weights):
    found = jnp.zeros(y.shape[:1], jnp.float32)
    for t, table in enumerate(tables):
        logits = jnp.matmul(y, table.astype(y.dtype).T, preferred_element_type=jnp.float32)
        at = jnp.take_along_axis(logits, jnp.minimum(labels, len(table) - 1)[:, None], axis=1)[:, 0]
        found = jnp.where(stream == t, jax.nn.logsumexp(logits, axis=1) - at, found)
    return (found * weights).sum(), jax.lax.stop_gradient(found)


@partial(jax.custom_vjp, nondiff_argnums=(5,))
def _by_stream(y, tables, labels, stream, weights, block):
    total, found, _ = _sweep(y, tables, labels, stream, weights, block, False)
    return total, found


def _sweep(y: Array, tables: Tables, labels: Array, stream: Array, weights: Array, block: int, gradients: bool):
    """(total, each token's cross-entropy, (gradient of y, of tables) or nothing)."""
    n = len(y)
    order = jnp.argsort(stream, stable=True)
    # A block may run over the end of the last stream.
    padded = [jnp.pad(v[order], [(0, block)] + [(0, 0)] * (v.ndim - 1)) for v in (y, labels, weights)]
    kinds = jnp.pad(stream[order], (0, block), constant_values=len(tables))
    ends = jnp.searchsorted(kinds[:n], jnp.arange(len(tables)), side="right").astype(jnp.int32)
    starts = jnp.concatenate([jnp.zeros(1, jnp.int32), ends[:-1]])
    found = jnp.zeros(n + block, jnp.float32)
    to_y, to_tables = jnp.zeros_like(padded[0]), []

    for t, table in enumerate(tables):
        cast = table.astype(y.dtype)

        def step(i, carry, t=t, cast=cast):
            found, to_y, to_table = carry
            at = starts[t] + i * block
            rows, label, weight = (jax.lax.dynamic_slice_in_dim(v, at, block) for v in padded)
            mine = jax.lax.dynamic_slice_in_dim(kinds, at, block) == t
            logits = jnp.matmul(rows, cast.T, preferred_element_type=jnp.float32)
            log_z = jax.nn.logsumexp(logits, axis=1, keepdims=True)
            hit = label[:, None] == jnp.arange(cast.shape[0])
            loss = jnp.where(mine, log_z[:, 0] - jnp.where(hit, logits, 0).sum(1), 0.0)
            # What lies behind the stream's end is overwritten when its own stream comes.
            found = jax.lax.dynamic_update_slice_in_dim(found, loss, at, 0)
            if gradients:
                g = (jnp.exp(logits - log_z) - hit) * jnp.where(mine, weight, 0.0)[:, None]
                g = g.astype(rows.dtype)
                to_y = jax.lax.dynamic_update_slice_in_dim(to_y, g @ cast, at, 0)
                to_table = to_table + jnp.matmul(g.T, rows, preferred_element_type=jnp.float32)
            return found, to_y, to_table

        blocks = (ends[t] - starts[t] + block - 1) // block
        empty = jnp.zeros(table.shape if gradients else (), jnp.float32)
        found, to_y, to_table = jax.lax.fori_loop(jnp.int32(0), blocks, step, (found, to_y, empty))
        to_tables.append(to_table.astype(table.dtype))
    back = jnp.argsort(order)
    found = found[back]
    grads = (to_y[back], tuple(to_tables)) if gradients else None
    return (found * weights).sum(), found, grads


def _forward(y, tables, labels, stream, weights, block):
    total, found, grads = _sweep(y, tables, labels, stream, weights, block, True)
    return (total, found), (grads, found)


def _backward(block, saved, g):
    (to_y, to_tables), found = saved
    scale = g[0]
    scaled = tuple((t * scale).astype(t.dtype) for t in to_tables)
    return (to_y * scale).astype(to_y.dtype), scaled, None, None, found * scale


_by_stream.defvjp(_forward, _backward)


def target_weights(
    stream: Int[Array, " N"], vocabularies: Sequence[int], how: str = "mod"
) -> tuple[Float[Array, " N"], Float[Array, " T"]]:
    """(each token's weight in the loss, tokens by stream); padding (stream T) weighs 0, and no token at all gives no NaN.

    "mod": the mean over each stream's tokens, then over all streams, absent ones counting as 0 (4M's default).
    "token": the mean over tokens.   "token_vocab": that, each token weighed by its vocabulary's size, as the authors' code does.
    """
    kinds = len(vocabularies)
    count = (stream[:, None] == jnp.arange(kinds)).sum(0).astype(jnp.float32)
    if how == "mod":
        each = 1 / (jnp.maximum(count, 1) * kinds)
    else:
        size = jnp.asarray(vocabularies if how == "token_vocab" else [1] * kinds, jnp.float32)
        each = size / jnp.maximum((count * size).sum(), 1)
    return jnp.append(each, 0.0)[stream].astype(jnp.float32), count
