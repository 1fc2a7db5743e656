"""The projection between two models' spaces, and the losses of both stages."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, PRNGKeyArray

from mmrep.losses.contrastive import Scalar, symmetric_info_nce
from mmrep.nn.heads import l2_normalise
from mmrep.nn.norms import layer_norm


class Phi(nn.Module):
    """New embeddings [B, D_n] in the old space, of unit length: Dense, LayerNorm, GELU, Dense, or one Dense layer without bias."""

    dim: int
    hidden: int | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B D"]) -> Float[Array, "B E"]:
        if self.hidden is not None:
            x = nn.Dense(self.hidden, dtype=self.dtype, name="hidden")(x)
            x = nn.gelu(layer_norm(self.dtype, "norm")(x), approximate=False)
        return l2_normalise(nn.Dense(self.dim, use_bias=False, dtype=self.dtype, name="out")(x))


def noisy(rng: PRNGKeyArray, x: Float[Array, "B D"], noise: float) -> Float[Array, "B D"]:
    """Unit rows plus Gaussian noise whose expected squared length is noise^2, of unit length again."""
    return l2_normalise(x + noise * x.shape[-1] ** -0.5 * jax.random.normal(rng, x.shape, x.dtype))


def text_loss(
    found: Float[Array, "B D"], target: Float[Array, "B D"], scale: Scalar, regression: float = 0.0
) -> Float[Array, " B"]:
    """Stage 1 of phi(t_new) and t_old, unit rows: symmetric InfoNCE plus `regression` times their squared distance."""
    return symmetric_info_nce(found, target, scale) + regression * jnp.square(found - target).sum(-1)


def pairs_loss(
    image: Float[Array, "B D"], text: Float[Array, "B D"], surrogate: Float[Array, "B D"], scale: Scalar
) -> Float[Array, " B"]:
    """Stage 2: the images against the surrogate of the old texts, which gets no gradient, plus images against adapted texts.

    image, text: phi of the adapted new model.   surrogate: phi of the new model without adapters.
    """
    fixed = jax.lax.stop_gradient(surrogate)
    return symmetric_info_nce(image, fixed, scale) + symmetric_info_nce(image, text, scale)
