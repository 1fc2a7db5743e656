"""A transformer over token ids whose attention depends on the distance of tokens (T5: Raffel et al. 2020); 0 is padding."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int

from mmrep.errors import ConfigError
from mmrep.nn.attention import padding_mask
from mmrep.nn.config import TransformerConfig
from mmrep.nn.pooling import mean_pool
from mmrep.nn.transformer import Transformer


@dataclass(frozen=True)
class RelativeTextEncoder:
    """T5's encoder over ids in [0, vocab) of texts of any length, and the mean of its valid tokens.

    buckets, max_distance: each head adds a learned number for the bucket of the distance between two tokens, see `distance_buckets`. All
    blocks share them. T5 does not scale its attention logits; here they are divided by sqrt(head_dim), by which its query kernels are
    multiplied when they are loaded.
    Raises ConfigError unless 4 divides buckets, and where max_distance is not above a quarter of them.
    """

    transformer: TransformerConfig = TransformerConfig(depth=2, norm_type="rms", use_bias=False, activation="relu")
    vocab: int = 1024
    buckets: int = 32
    max_distance: int = 128

    def __post_init__(self) -> None:
        if self.buckets < 4 or self.buckets % 4 or self.max_distance <= self.buckets // 4:
            raise ConfigError(
                f"buckets is {self.buckets} and max_distance is {self.max_distance}; choose a multiple of 4 and more than a quarter of it."
            )

    def module(self, dtype: Any, name: str | None = None, pooled_only: bool = False) -> "RelativeTextTransformer":
        return RelativeTextTransformer(self, dtype, name=name)


class RelativeTextTransformer(nn.Module):
    """The module of RelativeTextEncoder over ids [B,L]; padding has no effect on the other tokens.

    Returns (pooled [B,width], out) with out["tokens"], out["valid"] [B,L] and the blocks.
    """

    config: RelativeTextEncoder
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, ids: Int[Array | np.ndarray, "B L"]) -> tuple[Float[Array, "B D"], dict[str, Array]]:
        c, t = self.config, self.config.transformer
        ids = jnp.asarray(ids)
        valid, init = ids > 0, nn.initializers.normal(0.02)
        x = nn.Embed(c.vocab, t.width, dtype=self.dtype, embedding_init=init, name="embed")(ids)
        bucket = distance_buckets(ids.shape[1], c.buckets, c.max_distance)
        bias = nn.Embed(c.buckets, t.heads, embedding_init=init, name="distances")(jnp.asarray(bucket))
        mask, bias = padding_mask(valid), jnp.moveaxis(bias, -1, 0)[None]
        x, out = Transformer(t, dtype=self.dtype, name="transformer")(x, mask, bias=bias)
        out["valid"] = valid
        out["pooled"] = pooled = mean_pool(x, valid)
        return pooled, out


def distance_buckets(n: int, buckets: int, max_distance: int) -> Int[np.ndarray, "{n} {n}"]:
    """The bucket of key j for query i (Raffel et al. 2020, section 2.1): half of them for keys at or before the query, half for those behind.

    In each half, one bucket a distance up to a quarter of `buckets`, then buckets that grow geometrically up to `max_distance`.
    """
    ahead = np.arange(n)[None] - np.arange(n)[:, None]
    distance, half, exact = np.abs(ahead), buckets // 2, buckets // 4
    # In float32, as T5 computes them: a boundary may fall on a whole number.
    ratio = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(exact)) / np.float32(
        np.log(max_distance / exact)
    )
    far = exact + (ratio * np.float32(half - exact)).astype(np.int32)
    return np.where(distance < exact, distance, np.minimum(far, half - 1)) + half * (ahead > 0)
