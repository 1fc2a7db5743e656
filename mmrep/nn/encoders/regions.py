"""A transformer without positions over a set of vectors (regions, detections, frame features): a "vector" modality of two axes."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from mmrep.nn.config import TransformerConfig
from mmrep.nn.transformer import Transformer


@dataclass(frozen=True)
class RegionTower:
    """A Dense layer to the transformer's width, the transformer (with `blocks` False none: regions are encoded alone), and the mean."""

    transformer: TransformerConfig = TransformerConfig(width=64, depth=1)
    blocks: bool = True

    def module(self, dtype: Any, name: str | None = None, pooled_only: bool = False) -> "Regions":
        return Regions(self, dtype, name=name)


class Regions(nn.Module):
    """The module of RegionTower: permuted regions give permuted tokens and the same mean.

    Returns (pooled [B,width], out) with out["tokens"] [B,R,width] and the blocks.
    """

    config: RegionTower
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array | np.ndarray, "B R D"]) -> tuple[Float[Array, "B E"], dict[str, Array]]:
        t = self.config.transformer
        tokens = nn.Dense(t.width, dtype=self.dtype, name="embed")(jnp.asarray(x, self.dtype))
        out: dict[str, Array] = {"tokens": tokens}
        if self.config.blocks:
            tokens, out = Transformer(t, dtype=self.dtype, name="transformer")(tokens)
        pooled = tokens.mean(1)
        return pooled, out | {"pooled": pooled}
