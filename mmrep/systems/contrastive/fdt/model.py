"""FDT's query head and its way from tokens to codes (Chen et al. 2023, section 3.2)."""

import statistics
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float
from optax.projections import projection_simplex

from mmrep.losses.blocks import MASKED
from mmrep.losses.reduce import masked_mean
from mmrep.nn.norms import layer_norm

Activation = Literal["sparsemax", "softmax", "sigmoid"]
Pool = Literal["max", "mean", "sum"]


class QueryHead(nn.Module):
    """The queries of tokens: LayerNorm, Dense, GELU, LayerNorm, Dense. Weights start as in the authors' framework, with variance 1/(3 n)."""

    dim: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, tokens: Float[Array, "B N W"]) -> Float[Array, "B N D"]:
        init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
        x = layer_norm(self.dtype, "norm_in")(tokens)
        x = nn.gelu(nn.Dense(self.dim, dtype=self.dtype, kernel_init=init, name="hidden")(x), approximate=False)
        x = layer_norm(self.dtype, "norm_hidden")(x)
        return nn.Dense(self.dim, dtype=self.dtype, kernel_init=init, name="out")(x)


def code_scores(
    queries: Float[Array, "B N D"], codes: Float[Array, "C D"], temperature: float = 1.0
) -> Float[Array, "B N C"]:
    """q c / (sqrt(D) temperature) of every token and code, in float32."""
    s = jnp.einsum("bnd,cd->bnc", queries, codes.astype(queries.dtype), preferred_element_type=jnp.float32)
    return s / (codes.shape[-1] ** 0.5 * temperature)


def pool_scores(
    scores: Float[Array, "B N C"], valid: Bool[Array, "B N"], pool: Pool = "max", pad_floor_zero: bool = False
) -> Float[Array, "B C"]:
    """The maximum, mean or sum of each code's scores over the valid tokens; 0 where there is none.

    pad_floor_zero: padding takes part with scores of 0, as in the authors' code: in maxima and in the number that a mean divides by.
    """
    kept = valid[..., None]
    if pad_floor_zero:
        scores, kept = jnp.where(kept, scores, 0.0), jnp.ones_like(kept)
    if pool == "max":
        return jnp.where(kept.any(1), jnp.where(kept, scores, MASKED).max(1), 0.0)
    return jnp.where(kept, scores, 0.0).sum(1) if pool == "sum" else masked_mean(scores, kept, axis=1)


def sparsemax(scores: Float[Array, "B C"]) -> Float[Array, "B C"]:
    """The nearest point of the probability simplex (Martins and Astudillo 2016): max(z - theta, 0) with sum 1, in float32."""
    return jax.vmap(projection_simplex)(scores.astype(jnp.float32))


def code_weights(scores: Float[Array, "B C"], activation: Activation = "sparsemax") -> Float[Array, "B C"]:
    """Weights of the codes with sum 1; "sigmoid" divides by the sum."""
    if activation == "sparsemax":
        return sparsemax(scores)
    if activation == "softmax":
        return jax.nn.softmax(scores, axis=-1)
    gates = jax.nn.sigmoid(scores)
    return gates / gates.sum(-1, keepdims=True)


def active_share(codes: int, temperature: float) -> float:
    """Share of the codes that one token activates at the start, where scores are normal with variance 1/3 over temperature^2.

    The maximum over several tokens varies less, so that a set of tokens activates more.
    """
    normal = statistics.NormalDist(0.0, 3**-0.5 / temperature)
    z = np.array([normal.inv_cdf((i + 0.5) / codes) for i in range(codes)][::-1])
    support = 1 + np.arange(1, codes + 1) * z > z.cumsum()
    return float(support.sum() / codes)
