"""Fusion of two streams by cross-attention."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from mmrep.nn.attention import causal_mask, padding_mask
from mmrep.nn.transformer import Transformer


class FusionEncoder(nn.Module):
    """A text stream whose blocks also attend to another modality's tokens (ALBEF, Li et al. 2021, section 3.1).

    It is the upper half of ALBEF's text stack: give it the tokens of a TextTransformer of the same width and `norm`.
    The context may have any width. Returns (pooled [B,D], out): pooled is the first token; `causal` makes it a caption decoder.
    """

    depth: int
    heads: int
    mlp_ratio: float = 4.0
    norm: str = "post"
    causal: bool = False
    scan: bool = False
    remat: bool = False
    dtype: Any = jnp.float32
    activation: str = "gelu"
    implementation: str | None = None

    @nn.compact
    def __call__(
        self,
        tokens: Float[Array, "B N D"],
        context: Float[Array, "B M E"],
        valid: Bool[Array, "B N"] | None = None,
        context_valid: Bool[Array, "B M"] | None = None,
    ) -> tuple[Float[Array, "B D"], dict[str, Array]]:
        mask = causal_mask(tokens.shape[1]) if self.causal else None
        if valid is not None:
            mask = padding_mask(valid) if mask is None else mask & padding_mask(valid)
        context_mask = None if context_valid is None else padding_mask(context_valid)
        x, out = Transformer(
            self.depth,
            self.heads,
            self.mlp_ratio,
            cross=True,
            norm=self.norm,
            scan=self.scan,
            remat=self.remat,
            dtype=self.dtype,
            activation=self.activation,
            implementation=self.implementation,
            name="transformer",
        )(tokens, mask, context, context_mask)
        if valid is not None:
            out["valid"] = valid
        out["pooled"] = pooled = x[:, 0]
        return pooled, out
