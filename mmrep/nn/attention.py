"""Multi-head attention and its masks. True keeps an entry, False hides it."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from mmrep.errors import ConfigError
from mmrep.nn.config import IMPLEMENTATIONS, TransformerConfig
from mmrep.nn.norms import norm_layer
from mmrep.nn.positions import rotary


def padding_mask(valid: Bool[Array, "B M"]) -> Bool[Array, "B 1 1 M"]:
    """Every query attends to the valid (not padded) keys."""
    return valid[:, None, None, :]


def causal_mask(n: int, start: int | Int[Array, ""] = 0, keys: int | None = None) -> Bool[Array, "1 1 {n} _"]:
    """Query i of n, at index start + i of the sequence, attends to keys 0..start + i of `keys` (None: n)."""
    return (jnp.arange(n if keys is None else keys) <= start + jnp.arange(n)[:, None])[None, None]


def prefix_mask(prefix: Int[Array, " B"], n: int) -> Bool[Array, "B 1 {n} {n}"]:
    """Tokens attend to all of the first `prefix` tokens of their row and, behind these, to themselves and those before them."""
    return causal_mask(n) | padding_mask(jnp.arange(n) < jnp.asarray(prefix)[:, None])


def block_causal_mask(frames: int, per: int) -> Bool[Array, "1 1 _ _"]:
    """Tokens of a frame, `per` in each and in order, attend to all tokens of their own frame and of earlier ones."""
    frame = jnp.repeat(jnp.arange(frames), per)
    return (frame[None, :] <= frame[:, None])[None, None]


def query_text_mask(
    queries: int, length: int, mode: Literal["contrast", "match", "generate"]
) -> Bool[Array, "1 1 _ _"]:
    """Self-attention of learned queries followed by `length` text tokens (Q-Former; Li et al. 2023, BLIP-2, figure 2).

    "contrast": queries and text attend to their own side alone.   "match": all attend to all.
    "generate": queries to queries, text to all queries and to the text up to itself.
    Raises ConfigError for another mode.
    """
    if mode not in ("contrast", "match", "generate"):
        raise ConfigError(f"mode is {mode!r}; choose 'contrast', 'match' or 'generate'.")
    text = jnp.arange(queries + length) >= queries
    if mode == "match":
        kept = jnp.ones((len(text), len(text)), bool)
    elif mode == "contrast":
        kept = text[:, None] == text[None, :]
    else:
        kept = ~text[None, :] | (text[:, None] & causal_mask(len(text))[0, 0])
    return kept[None, None]


def flat_dense(dense: nn.Dense, x: Float[Array, "B N D"]) -> Float[Array, "B N E"]:
    """`dense(x)` with batch and tokens as one axis: on a CPU its weight and bias gradients are about 7 % cheaper."""
    return dense(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], -1)


def attend(
    q: Float[Array, "B N H K"],
    k: Float[Array, "B M G K"],
    v: Float[Array, "B M G K"],
    mask: Bool[Array, "#B #H #N #M"] | None = None,
    bias: Float[Array, "#B #H #N #M"] | None = None,
    implementation: str | None = None,
) -> Float[Array, "B N H K"]:
    """softmax(q k' / sqrt(K) + bias) v for each head, over the keys that `mask` keeps; softmax in float32.

    G heads of keys and values serve H / G heads of queries each, in order (grouped queries, Ainslie et al. 2023); G divides H.
    "xla" is jax.nn.dot_product_attention; "matmul" the same numbers through batched matrix products with heads brought forward, which
    XLA's CPU backend runs faster, above all backwards; "cudnn" is flash attention on NVIDIA GPUs, in bfloat16 or float16 alone.
    None takes "matmul" where the default backend is a CPU and "xla" elsewhere.
    A query without any key gets the mean of all values. Raises ConfigError for another implementation, or another dtype with "cudnn".
    """
    if implementation not in IMPLEMENTATIONS:
        raise ConfigError(f"implementation is {implementation!r}; choose None, 'xla', 'matmul' or 'cudnn'.")
    if implementation == "cudnn" and q.dtype not in (jnp.bfloat16, jnp.float16):
        raise ConfigError(f"implementation 'cudnn' has inputs of {q.dtype}; set dtype to bfloat16, or choose 'xla'.")
    if implementation is None:
        implementation = "matmul" if jax.default_backend() == "cpu" else "xla"
    if implementation != "matmul":
        chosen: Any = implementation
        return jax.nn.dot_product_attention(q, k, v, mask=mask, bias=bias, implementation=chosen)
    if k.shape[2] != q.shape[2]:
        k, v = (jnp.repeat(part, q.shape[2] // k.shape[2], axis=2) for part in (k, v))
    # Scaling the queries costs N * K products a head where scaling the logits costs N * M.
    q = q * jnp.asarray(q.shape[-1] ** -0.5, q.dtype)
    q, k, v = (jnp.swapaxes(part, 1, 2) for part in (q, k, v))
    logits = jnp.matmul(q, jnp.swapaxes(k, 2, 3), preferred_element_type=jnp.float32)
    if bias is not None:
        logits = logits + bias
    if mask is not None:
        # Finite, so that a query without any key gets the mean of all values and no NaN.
        logits = jnp.where(mask, logits, jnp.float32(0.7 * jnp.finfo(jnp.float32).min))
    weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
    return jnp.swapaxes(jnp.matmul(weights, v), 1, 2)


KeyValues = dict[str, Float[Array, "B M G K"]]
"""{"key", "value"}: keys after normalisation and rotation, and values."""


class Attention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017) of `x` to `context`, or to itself. Returns (y [B,N,D], keys and values or None).

    mask: True where a query attends to a key.   bias: added to the logits.
    positions, context_positions: indices by which queries and keys are rotated where `config.rotary` is set; without `positions` none is.
    cache: keys and values of earlier tokens, in M places; those of x are written from index `start` on, and queries attend to all written
    places that `mask` [.., N, M] keeps. In cross-attention `start` is None, and the cache has the context's keys and values, which are
    computed where `context` is given. With a cache, the new one is returned.
    Raises ConfigError where the tokens do not have the width of `config`.
    """

    config: TransformerConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B N D"],
        context: Float[Array, "B M E"] | None = None,
        mask: Bool[Array, "#B #H #N #M"] | None = None,
        bias: Float[Array, "#B #H #N #M"] | None = None,
        positions: Int[Array, "#B N"] | None = None,
        context_positions: Int[Array, "#B M"] | None = None,
        cache: KeyValues | None = None,
        start: Int[Array, ""] | None = None,
    ) -> tuple[Float[Array, "B N D"], KeyValues | None]:
        c, width = self.config, x.shape[-1]
        if width != c.width:
            raise ConfigError(f"width is {c.width}, but tokens of width {width} came in; make them equal.")
        base = None if positions is None else c.rotary

        def project(name: str, inputs: Array, at: Array | None) -> Array:
            # A key bias adds the same to all logits of a query: softmax cancels it, unless keys are normed or rotated.
            biased = bool(c.use_bias) and (name != "key" or c.qk_norm or base is not None)
            heads = c.heads if name == "query" else c.key_heads
            init = nn.initializers.xavier_uniform()
            dense = nn.Dense(heads * c.key_dim, use_bias=biased, dtype=self.dtype, kernel_init=init, name=name)
            found = flat_dense(dense, inputs).reshape(*inputs.shape[:2], heads, -1)
            if name == "value":
                return found
            if c.qk_norm:
                found = norm_layer(c, self.dtype, f"norm_{name}", use_bias=False)(found)
            return found if base is None else rotary(found, at, base)

        q = project("query", x, positions)
        if cache is not None and start is None and context is None:
            k, v = cache["key"], cache["value"]
        else:
            source, at = (x, positions) if context is None else (context, context_positions)
            k, v = project("key", source, at), project("value", source, None)
            if start is not None:
                assert cache is not None
                k, v = (
                    jax.lax.dynamic_update_slice_in_dim(cache[name], new.astype(cache[name].dtype), start, axis=1)
                    for name, new in (("key", k), ("value", v))
                )
                written = (jnp.arange(k.shape[1]) < start + x.shape[1])[None, None, None]
                mask = written if mask is None else mask & written
        y = attend(q, k.astype(q.dtype), v.astype(q.dtype), mask, bias, c.implementation).reshape(*x.shape[:2], -1)
        if c.sub_norm:
            y = norm_layer(c, self.dtype, "norm_out")(y)
        init = nn.initializers.xavier_uniform()
        dense = nn.Dense(width, use_bias=c.bias, dtype=self.dtype, kernel_init=init, name="out")
        return flat_dense(dense, y), None if cache is None else {"key": k, "value": v}
