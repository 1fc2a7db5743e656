"""A transformer over token ids; 0 is padding."""

from dataclasses import dataclass
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int

from mmrep.errors import ConfigError
from mmrep.nn.attention import causal_mask, padding_mask
from mmrep.nn.config import TransformerConfig
from mmrep.nn.norms import norm_layer
from mmrep.nn.pooling import last_index, last_pool, mean_pool
from mmrep.nn.positions import LearnedPositions
from mmrep.nn.transformer import Transformer


@dataclass(frozen=True)
class TextEncoder:
    """A transformer over ids in [0, vocab) of texts of up to `length` tokens.

    pool: the last valid token ("eos", CLIP), the first ("cls", BERT), the "mean" of the valid ones, or the "last" of all places: padding is
        then a token as others are, and texts have one length (SigLIP).
    eos: id that ends a text, whatever follows it; None: a text ends before its first padding.
    causal: tokens attend to those before them alone (CLIP).   With transformer.norm="post" the embeddings are normed too (BERT).
    Raises ConfigError where `pool` is unknown, or "cls" with `causal`.
    """

    transformer: TransformerConfig = TransformerConfig(depth=2)
    vocab: int = 1024
    length: int = 32
    causal: bool = False
    pool: Literal["eos", "cls", "mean", "last"] = "mean"
    eos: int | None = None

    def __post_init__(self) -> None:
        if self.pool not in ("eos", "mean", "cls", "last"):
            raise ConfigError(f"pool is {self.pool!r}; choose 'eos', 'mean', 'cls' or 'last'.")
        if self.causal and self.pool == "cls":
            raise ConfigError(
                "pool is 'cls' and causal is True: the first token attends to itself alone; choose 'eos' or 'mean'."
            )

    def module(self, dtype: Any, name: str | None = None, pooled_only: bool = False) -> "TextTransformer":
        return TextTransformer(self, dtype, name=name)


class TextTransformer(nn.Module):
    """The module of TextEncoder over ids [B,L], L <= length; padding has no effect on the other tokens.

    Returns (pooled [B,width], out) with out["tokens"], out["valid"] [B,L] and the blocks. The embedding table is params["embed"]["embedding"].
    `pooled_only` (any pool but "mean") computes the last block for the pooled token alone: the same pooled numbers; out has no tokens.
    Tokens at padded positions are unspecified. Raises ConfigError where L > length or the options exclude each other.
    """

    config: TextEncoder
    dtype: Any = jnp.float32
    pooled_only: bool = False

    @nn.compact
    def __call__(self, ids: Int[Array | np.ndarray, "B L"]) -> tuple[Float[Array, "B D"], dict[str, Array]]:
        c, t = self.config, self.config.transformer
        if self.pooled_only and c.pool == "mean":
            raise ConfigError("pooled_only is True and pool is 'mean', which needs all tokens; choose 'eos' or 'cls'.")
        ids = jnp.asarray(ids)
        valid = ids > 0 if c.pool != "last" else jnp.ones(ids.shape, bool)
        if c.eos is not None:
            # Id 0 may be a word here. A text without `eos` is its first token.
            valid = jnp.arange(ids.shape[1]) <= jnp.argmax(ids == c.eos, axis=1)[:, None]
        init = nn.initializers.normal(0.02)
        x = nn.Embed(c.vocab, t.width, dtype=self.dtype, embedding_init=init, name="embed")(ids)
        x = LearnedPositions(c.length, dtype=self.dtype, name="positions")(x)
        if t.norm == "post":
            x = norm_layer(t, self.dtype, "embed_norm")(x)
        at = last_index(valid) if c.pool in ("eos", "last") else jnp.zeros(ids.shape[0], jnp.int32)
        # Padding follows every real token, so a causal mask alone hides it from them.
        mask = causal_mask(ids.shape[1]) if c.causal else padding_mask(valid)
        x, out = Transformer(t, dtype=self.dtype, name="transformer")(x, mask, at=at if self.pooled_only else None)
        out["valid"] = valid
        if self.pooled_only:
            pooled = x[:, 0]
        else:
            pool = {"eos": last_pool, "last": last_pool, "mean": mean_pool, "cls": lambda tokens, _: tokens[:, 0]}[
                c.pool
            ]
            pooled = pool(x, valid)
        out["pooled"] = pooled
        return pooled, out
