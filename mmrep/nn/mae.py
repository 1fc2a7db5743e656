"""The decoder of masked autoencoders: patches of a grid from the visible tokens."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from mmrep.nn.adapters import place
from mmrep.nn.config import TransformerConfig
from mmrep.nn.positions import sincos_2d
from mmrep.nn.transformer import Transformer

XAVIER = nn.initializers.xavier_uniform()


class MaeDecoder(nn.Module):
    """The decoder of He et al. 2022 (MAE): `values` numbers for every patch of the grid, from the visible tokens and a learned mask token."""

    config: TransformerConfig
    values: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        tokens: Float[Array, "B K D"],
        ids_keep: Int[Array, "B K"],
        ids_restore: Int[Array, "B N"],
        grid: tuple[int, int],
    ) -> Float[Array, "B N P"]:
        width = self.config.width
        x = nn.Dense(width, dtype=self.dtype, kernel_init=XAVIER, name="embed")(tokens)
        fill = self.param("mask_token", nn.initializers.normal(0.02), (width,), jnp.float32).astype(self.dtype)
        x = place(x, jnp.asarray(fill), ids_keep, ids_restore, jnp.int32(0))
        x = x + sincos_2d(*grid, width).astype(self.dtype)
        x, _ = Transformer(self.config, dtype=self.dtype, name="transformer")(x)
        return nn.Dense(self.values, dtype=self.dtype, kernel_init=XAVIER, name="out")(x).astype(jnp.float32)
