"""The text encoder: token ids, 0 for padding, to one vector and a vector for each token."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from mmrep.errors import ConfigError
from mmrep.nn.attention import causal_mask, check_heads, padding_mask
from mmrep.nn.positions import LearnedPositions
from mmrep.nn.transformer import Transformer, layer_norm


def masked_mean(tokens: Float[Array, "B N D"], valid: Bool[Array, "B N"]) -> Float[Array, "B D"]:
    """Mean over the valid tokens; zero where there is none."""
    weight = valid.astype(tokens.dtype)[..., None]
    return (tokens * weight).sum(axis=1) / jnp.maximum(weight.sum(axis=1), 1)


def last_place(valid: Bool[Array, "B N"]) -> Int[Array, " B"]:
    """Where the last valid token stands; 0 where there is none."""
    return jnp.max(jnp.where(valid, jnp.arange(valid.shape[1]), 0), axis=1)


def last_valid(tokens: Float[Array, "B N D"], valid: Bool[Array, "B N"]) -> Float[Array, "B D"]:
    """The token at the last valid place (EOS of a text); the first where there is none."""
    return jnp.take_along_axis(tokens, last_place(valid)[:, None, None], axis=1)[:, 0]


class TextTransformer(nn.Module):
    """Transformer over token ids [B,L], L <= max_len; ids of 0 are padding and change nothing.

    Returns (pooled [B,width], out). pool: "eos" is the last valid token's feature (CLIP), "cls" the first's (BERT), "mean" over the valid ones.
    norm="post" also normalises the embeddings, as BERT does. The embedding table is params["embed"]["embedding"].
    `pooled_only` (pool "eos" or "cls") lets the last block work for the pooled token alone: the same pooled numbers; out has no tokens.
    Tokens at padded places are unspecified. Raises ConfigError where L > max_len or `heads` does not divide the width.
    """

    vocab: int
    width: int
    depth: int
    heads: int
    max_len: int
    causal: bool = False
    pool: str = "eos"
    mlp_ratio: float = 4.0
    norm: str = "pre"
    pooled_only: bool = False
    scan: bool = False
    remat: bool = False
    dtype: Any = jnp.float32
    activation: str = "gelu"
    implementation: str | None = None

    @nn.compact
    def __call__(self, ids: Int[Array | np.ndarray, "B L"]) -> tuple[Float[Array, "B D"], dict[str, Array]]:
        check_heads(self.width, self.heads)
        if self.pool not in ("eos", "mean", "cls"):
            raise ConfigError(f"pool is {self.pool!r}; choose 'eos', 'mean' or 'cls'.")
        if self.causal and self.pool == "cls":
            raise ConfigError("pool is 'cls' and causal is True: the first token sees nothing; choose 'eos' or 'mean'.")
        if self.pooled_only and self.pool == "mean":
            raise ConfigError("pooled_only is True and pool is 'mean', which needs all tokens; choose 'eos' or 'cls'.")
        ids = jnp.asarray(ids)
        valid = ids > 0
        embed = nn.Embed(
            self.vocab, self.width, dtype=self.dtype, embedding_init=nn.initializers.normal(0.02), name="embed"
        )
        x = LearnedPositions(self.max_len, dtype=self.dtype, name="positions")(embed(ids))
        if self.norm == "post":
            x = layer_norm(self.dtype, "embed_norm")(x)
        at = last_place(valid) if self.pool == "eos" else jnp.zeros(ids.shape[0], jnp.int32)
        # Padding stands behind every real token, so a causal mask alone hides it from them.
        mask = causal_mask(ids.shape[1]) if self.causal else padding_mask(valid)
        x, out = Transformer(
            self.depth,
            self.heads,
            self.mlp_ratio,
            norm=self.norm,
            scan=self.scan,
            remat=self.remat,
            dtype=self.dtype,
            activation=self.activation,
            implementation=self.implementation,
            name="transformer",
        )(x, mask, at=at if self.pooled_only else None)
        out["valid"] = valid
        if self.pooled_only:
            pooled = x[:, 0]
        else:
            pool = {"eos": last_valid, "mean": masked_mean, "cls": lambda tokens, _: tokens[:, 0]}[self.pool]
            pooled = pool(x, valid)
        out["pooled"] = pooled
        return pooled, out
