"""Multi-head attention and its masks. True keeps an entry, False hides it."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from mmrep.errors import ConfigError
from mmrep.nn.config import IMPLEMENTATIONS, TransformerConfig


def padding_mask(valid: Bool[Array, "B M"]) -> Bool[Array, "B 1 1 M"]:
    """Every query may look at the real (not padded) keys."""
    return valid[:, None, None, :]


def causal_mask(n: int) -> Bool[Array, "1 1 n n"]:
    """Query i may look at keys 0..i."""
    return jnp.tril(jnp.ones((n, n), bool))[None, None]


def flat_dense(dense: nn.Dense, x: Float[Array, "B N D"]) -> Float[Array, "B N E"]:
    """`dense(x)` with batch and tokens as one axis: on a CPU its weight and bias gradients come out about 7 % cheaper."""
    return dense(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], -1)


def attend(
    q: Float[Array, "B N H K"],
    k: Float[Array, "B M H K"],
    v: Float[Array, "B M H K"],
    mask: Bool[Array, "#B #H #N #M"] | None = None,
    bias: Float[Array, "#B #H #N #M"] | None = None,
    implementation: str | None = None,
) -> Float[Array, "B N H K"]:
    """softmax(q k' / sqrt(K) + bias) v for each head, over the keys that `mask` keeps; softmax in float32.

    "xla" is jax.nn.dot_product_attention; "matmul" the same numbers through batched matrix products with heads brought forward, which
    XLA's CPU backend runs faster, above all backwards. None takes "matmul" where the default backend is a CPU and "xla" elsewhere.
    Raises ConfigError for another name.
    """
    if implementation not in IMPLEMENTATIONS:
        raise ConfigError(f"implementation is {implementation!r}; choose None, 'xla' or 'matmul'.")
    if implementation is None:
        implementation = "matmul" if jax.default_backend() == "cpu" else "xla"
    if implementation == "xla":
        return jax.nn.dot_product_attention(q, k, v, mask=mask, bias=bias)
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


class Attention(nn.Module):
    """Multi-head scaled dot-product attention (Vaswani et al. 2017) of `x` to `context`, or to itself.

    `mask` is True where a query attends to a key.
    Applied with mutable=["cache"], it remembers keys and values: a first call (whose numbers are of no use) makes room for as many as its
    tokens, or keeps those of the context; from then on the new tokens of self-attention are written behind those before them, and all
    are looked at, which the mask must narrow to what is written.
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
    ) -> Float[Array, "B N D"]:
        c, width = self.config, x.shape[-1]
        if width != c.width:
            raise ConfigError(f"width is {c.width}, but tokens of width {width} came in; make them equal.")
        read = x if context is None else context
        cached = self.is_mutable_collection("cache") and not self.is_initializing()
        begun = cached and self.has_variable("cache", "key")

        def project(inputs, name):
            # A key bias adds the same to all logits of a query: softmax does not see it, and no gradient reaches it.
            init = nn.initializers.xavier_uniform()
            biased = c.use_bias and name != "key"
            dense = nn.Dense(width, use_bias=biased, dtype=self.dtype, kernel_init=init, name=name)
            return flat_dense(dense, inputs).reshape(*inputs.shape[:2], c.heads, -1)

        def recalled(name):
            """All keys, or values, so far."""
            if begun and context is not None:
                return self.get_variable("cache", name)
            found = project(read, name)
            if begun:
                before, at = self.get_variable("cache", name), self.get_variable("cache", "written")
                found = jax.lax.dynamic_update_slice_in_dim(before, found, at, axis=1)
            if cached:
                self.put_variable("cache", name, found)
            return found

        q, k, v = project(x, "query"), recalled("key"), recalled("value")
        if cached and context is None:
            before = self.get_variable("cache", "written") + x.shape[1] if begun else 0
            self.put_variable("cache", "written", jnp.asarray(before, jnp.int32))
        y = attend(q, k, v, mask, bias, c.implementation)
        y = y.reshape(*x.shape[:2], width)
        init = nn.initializers.xavier_uniform()
        dense = nn.Dense(width, use_bias=c.use_bias, dtype=self.dtype, kernel_init=init, name="out")
        return flat_dense(dense, y)
