"""LLM2CLIP's own parts: sentence vectors of a causal model without its mask, the adapter, and the contrast of captions."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from mmrep.losses.contrastive import info_nce, similarity
from mmrep.modality import PAD
from mmrep.nn.attention import causal_mask
from mmrep.nn.norms import layer_norm
from mmrep.nn.pooling import mean_pool
from mmrep.system import Params


def sentence(
    model: nn.Module, params: Params, ids: Int[Array, "B L"], instruction: Int[Array, "B I"] | None, bidirectional: bool
) -> Float[Array, "B W"]:
    """The mean over the tokens of each caption of a DecoderStack's final vectors; 0 for a caption without token.

    instruction: ids in front, to which the caption attends; they are not pooled.   bidirectional: False keeps the causal mask.
    Positions count the tokens that are no padding.
    """
    ids = jnp.asarray(ids)
    pooled = ids != PAD
    if instruction is not None:
        ids = jnp.concatenate([instruction, ids], axis=1)
        pooled = jnp.pad(pooled, ((0, 0), (instruction.shape[1], 0)))
    valid = ids != PAD
    positions = jnp.maximum(jnp.cumsum(valid, axis=1) - 1, 0)
    n = ids.shape[1]
    mask = jnp.ones((1, 1, n, n), bool) if bidirectional else causal_mask(n)  # padding is masked beside
    tokens = model.apply({"params": params}, ids, valid=valid, positions=positions, mask=mask)[1]["tokens"]
    return mean_pool(tokens.astype(jnp.float32), pooled)


class Adapter(nn.Module):
    """`layers` residual blocks x + W2 gelu(W1 LN(x)), of hidden width `expansion` times that of x; then LayerNorm and a linear map to `dim`."""

    dim: int
    layers: int = 4
    expansion: float = 2.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B W"]) -> Float[Array, "B D"]:
        width = x.shape[-1]
        for i in range(self.layers):
            y = layer_norm(self.dtype, f"norm{i}")(x)
            y = nn.Dense(int(self.expansion * width), dtype=self.dtype, name=f"up{i}")(y)
            x = x + nn.Dense(width, dtype=self.dtype, name=f"down{i}")(nn.gelu(y, approximate=False))
        return nn.Dense(self.dim, dtype=self.dtype, name="out")(layer_norm(self.dtype, "norm")(x))


def caption_loss(
    queries: Float[Array, "B D"], captions: Float[Array, "N D"], equal: Bool[Array, "B N"], scale: float
) -> tuple[Float[Array, " B"], Bool[Array, " B"]]:
    """(InfoNCE of each query over all captions, the positives first and then hard negatives; whether its own is the nearest). Unit rows.

    Queries alone are anchors, and the hard negatives of one are negatives of all.   equal: captions equal to the query's own: no negatives.
    """
    logits = scale * similarity(queries, captions)
    own = jnp.eye(logits.shape[0], logits.shape[1], dtype=bool)
    ignore = equal & ~own
    right = jnp.where(ignore, -jnp.inf, logits).argmax(1) == jnp.arange(len(queries))
    return info_nce(logits, ignore=ignore), right
