"""Between an encoder and a loss: projections, unit vectors, the learned logit scale and bias, and an MLM head."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from mmrep.errors import ConfigError
from mmrep.nn.norms import layer_norm
from mmrep.nn.placement import by_rows


def l2_normalise(x: Float[Array, "... D"], eps: float = 1e-6) -> Float[Array, "... D"]:
    """`x / max(|x|, eps)` over the last axis, computed in float32 and returned in the dtype of `x`; zero gives zero, with a finite gradient."""
    x32 = x.astype(jnp.float32)
    square = jnp.sum(x32 * x32, axis=-1, keepdims=True)
    return (x32 * jax.lax.rsqrt(jnp.maximum(square, jnp.float32(eps * eps)))).astype(x.dtype)


class Projection(nn.Module):
    """Projection to `dim`: one linear map, or with `hidden` a two-layer perceptron with GELU; of unit length with `normalise`."""

    dim: int
    hidden: int | None = None
    normalise: bool = True
    use_bias: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... E"]:
        if self.dim <= 0:
            raise ConfigError(f"Projection.dim is {self.dim}; it must be positive.")
        if self.hidden is not None:
            x = nn.gelu(nn.Dense(self.hidden, dtype=self.dtype, name="hidden")(x), approximate=False)
        x = nn.Dense(self.dim, use_bias=self.use_bias, dtype=self.dtype, name="out")(x)
        return l2_normalise(x) if self.normalise else x


@jax.custom_vjp
def cap(x: Float[Array, ""], ceiling: Float[Array, ""]) -> Float[Array, ""]:
    """`min(x, ceiling)`, but above the ceiling gradients pass where a descent step would lower `x`."""
    return jnp.minimum(x, ceiling)


def _cap_forward(x, ceiling):
    return jnp.minimum(x, ceiling), (x, ceiling)


def _cap_backward(residuals, g):
    x, ceiling = residuals
    # Above the ceiling a plain minimum has zero gradient, so a scale that once exceeded it could not return.
    return jnp.where((x < ceiling) | (g > 0), g, jnp.zeros_like(g)), jnp.zeros_like(ceiling)


cap.defvjp(_cap_forward, _cap_backward)


class LogScale(nn.Module):
    """The inverse temperature of contrastive logits, learned as its logarithm (Radford et al. 2021, section 2.5).

    `initial` is the scale at initialisation, `max` its upper and `min` its lower bound (None: unbounded).
    Raises ConfigError unless all are positive.
    """

    initial: float = 1 / 0.07
    max: float | None = 100.0
    min: float | None = None

    @nn.compact
    def __call__(self) -> Float[Array, ""]:
        if min(x for x in (self.initial, self.max, self.min) if x is not None) <= 0:
            raise ConfigError(
                f"LogScale has initial {self.initial}, max {self.max} and min {self.min}; all must be positive."
            )
        log_scale = self.param("log_scale", lambda _: jnp.asarray(math.log(self.initial), jnp.float32))
        if self.max is not None:
            log_scale = cap(jnp.asarray(log_scale), jnp.asarray(math.log(self.max), jnp.float32))
        if self.min is not None:
            log_scale = -cap(-jnp.asarray(log_scale), jnp.asarray(-math.log(self.min), jnp.float32))
        return jnp.exp(log_scale)


class LogitBias(nn.Module):
    """A learned scalar added to logits (SigLIP, Zhai et al. 2023, section 3.2: -10 at initialisation)."""

    initial: float = -10.0

    @nn.compact
    def __call__(self) -> Float[Array, ""]:
        return self.param("bias", lambda _: jnp.asarray(self.initial, jnp.float32))


class MaskedLmHead(nn.Module):
    """Masked-language-model logits of each token: Dense, GELU, LayerNorm, the transposed embedding `table` and a bias (Devlin et al. 2019, BERT).

    The table is the text encoder's (params["embed"]["embedding"]), passed as an argument: tied weights, with gradients from both uses.
    """

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, tokens: Float[Array, "... D"], table: Float[Array, "V D"]) -> Float[Array, "... V"]:
        x = nn.Dense(tokens.shape[-1], dtype=self.dtype, name="transform")(tokens)
        x = layer_norm(self.dtype, "norm")(nn.gelu(x, approximate=False))
        bias = self.param("bias", nn.initializers.zeros_init(), (table.shape[0],), jnp.float32)
        # Otherwise a table that is split by words would split the logits, which are larger, and rows would have to be exchanged.
        return by_rows((x @ table.T.astype(self.dtype)).astype(jnp.float32) + bias)
