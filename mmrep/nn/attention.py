"""Multi-head attention and its masks. True keeps an entry, False hides it."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from mmrep.errors import ConfigError


def padding_mask(valid: Bool[Array, "B M"]) -> Bool[Array, "B 1 1 M"]:
    """Every query may look at the real (not padded) keys."""
    return valid[:, None, None, :]


def causal_mask(n: int) -> Bool[Array, "1 1 n n"]:
    """Query i may look at keys 0..i."""
    return jnp.tril(jnp.ones((n, n), bool))[None, None]


def check_heads(width: int, heads: int) -> None:
    """Raises ConfigError where `heads` does not divide `width`."""
    if heads <= 0 or width % heads:
        raise ConfigError(f"heads is {heads} and width is {width}; choose heads that divide the width.")


class Attention(nn.Module):
    """Multi-head scaled dot-product attention (Vaswani et al. 2017) of `x` to `context`, or to itself.

    `mask` is True where a query may look at a key. Raises ConfigError where `heads` does not divide the width.
    """

    heads: int
    dtype: Any = jnp.float32
    implementation: str | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B N D"],
        context: Float[Array, "B M E"] | None = None,
        mask: Bool[Array, "#B #H #N #M"] | None = None,
        bias: Float[Array, "#B #H #N #M"] | None = None,
    ) -> Float[Array, "B N D"]:
        width = x.shape[-1]
        check_heads(width, self.heads)
        context = x if context is None else context

        def project(inputs, name):
            # A key bias adds the same to all logits of a query: softmax does not see it, and no gradient reaches it.
            init = nn.initializers.xavier_uniform()
            dense = nn.Dense(width, use_bias=name != "key", dtype=self.dtype, kernel_init=init, name=name)
            return dense(inputs).reshape(*inputs.shape[:2], self.heads, -1)

        y = jax.nn.dot_product_attention(
            project(x, "query"), project(context, "key"), project(context, "value"), mask=mask, bias=bias
        )
        y = y.reshape(*x.shape[:2], width)
        return nn.Dense(width, dtype=self.dtype, kernel_init=nn.initializers.xavier_uniform(), name="out")(y)
