"""The text encoder: token ids, 0 for padding, to one vector and a vector for each token."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from mmrep.errors import ConfigError
from mmrep.nn.attention import causal_mask, check_heads, padding_mask
from mmrep.nn.positions import LearnedPositions
from mmrep.nn.transformer import Mlp, Transformer, layer_norm


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


def ngram_buckets(
    ids: Int[Array | np.ndarray, "B L"], sizes: tuple[int, ...], buckets: int
) -> tuple[Int[Array, "B N"], Bool[Array, "B N"]]:
    """Every n-gram of the ids, n in `sizes`, hashed into [0, buckets), and whether all of it is text. N = L * len(sizes)."""
    ids = jnp.asarray(ids)
    found, valid = [], []
    for n in sizes:
        # Multiplicative hashing modulo 2^32; the size goes in first, so that "ab" and "abc" begin differently.
        h = jnp.full(ids.shape, n, jnp.uint32)
        for k in range(n):
            h = (h ^ jnp.pad(ids[:, k:], ((0, 0), (0, k))).astype(jnp.uint32)) * jnp.uint32(0x01000193) + jnp.uint32(
                0x9E3779B9
            )
        h = h ^ (h >> 15)
        found.append((h * jnp.uint32(0x85EBCA6B) >> 8) % jnp.uint32(buckets))
        valid.append(jnp.pad(ids[:, n - 1 :], ((0, 0), (0, n - 1))) > 0)
    return jnp.concatenate(found, 1).astype(jnp.int32), jnp.concatenate(valid, 1)


class NgramEncoder(nn.Module):
    """A bag of hashed n-grams (fastText: Bojanowski et al. 2017), each with a learnt weight, then one residual MLP.

    Over characters it reads words that it never saw by their parts, and learns from a few thousand names. It knows no order beyond `sizes`.
    Returns (pooled [B,width], out); out["tokens"] are the n-grams' vectors and out["valid"] tells which of them are real.
    """

    width: int
    buckets: int = 8192
    sizes: tuple[int, ...] = (1, 2, 3, 4, 5)
    mlp_ratio: float = 4.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, ids: Int[Array | np.ndarray, "B L"]) -> tuple[Float[Array, "B D"], dict[str, Array]]:
        if not self.sizes or min(self.sizes) < 1 or max(self.sizes) > ids.shape[1] or self.buckets < 1:
            raise ConfigError(
                f"sizes is {self.sizes}, buckets {self.buckets}: both positive, sizes up to the text's length."
            )
        at, valid = ngram_buckets(ids, self.sizes, self.buckets)
        init = nn.initializers.normal(0.02)
        x = nn.Embed(self.buckets, self.width, dtype=self.dtype, embedding_init=init, name="embed")(at)
        score = nn.Embed(self.buckets, 1, embedding_init=nn.initializers.zeros_init(), name="weight")(at)[..., 0]
        weight = jax.nn.softmax(jnp.where(valid, score, -1e30).astype(jnp.float32), axis=-1).astype(self.dtype)
        pooled = layer_norm(self.dtype, "norm")((x * weight[..., None]).sum(1))
        pooled = pooled + Mlp(int(self.width * self.mlp_ratio), self.dtype, name="mlp")(pooled)
        return pooled, {"tokens": x, "valid": valid, "pooled": pooled}
