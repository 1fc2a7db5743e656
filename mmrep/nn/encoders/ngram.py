"""A weighted bag of hashed n-grams of token ids (fastText: Bojanowski et al. 2017); 0 is padding."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from mmrep.errors import ConfigError
from mmrep.nn.norms import layer_norm
from mmrep.nn.transformer import Mlp


@dataclass(frozen=True)
class NgramEncoder:
    """n-grams of each n of `sizes`, hashed into `buckets`, each with a learned vector and a learned weight, then one residual MLP.

    Over characters it generalises to new words by their parts, and trains on a few thousand names. Order beyond `sizes` has no effect.
    Raises ConfigError unless sizes and buckets are positive.
    """

    width: int = 96
    buckets: int = 8192
    sizes: tuple[int, ...] = (1, 2, 3, 4, 5)
    mlp_ratio: float = 4.0

    def __post_init__(self) -> None:
        if not self.sizes or min(self.sizes) < 1 or self.buckets < 1:
            raise ConfigError(f"sizes is {self.sizes} and buckets is {self.buckets}; both must be positive.")

    def module(self, dtype: Any, name: str | None = None, pooled_only: bool = False) -> "NgramBag":
        return NgramBag(self, dtype, name=name)


class NgramBag(nn.Module):
    """The module of NgramEncoder.

    Returns (pooled [B,width], out); out["tokens"] are the n-grams' vectors, out["valid"] marks those without padding.
    Raises ConfigError where an n-gram is longer than the texts.
    """

    config: NgramEncoder
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, ids: Int[Array | np.ndarray, "B L"]) -> tuple[Float[Array, "B D"], dict[str, Array]]:
        c = self.config
        if max(c.sizes) > ids.shape[1]:
            raise ConfigError(f"sizes is {c.sizes}, but texts have {ids.shape[1]} tokens; choose shorter n-grams.")
        at, valid = ngram_buckets(ids, c.sizes, c.buckets)
        init = nn.initializers.normal(0.02)
        x = nn.Embed(c.buckets, c.width, dtype=self.dtype, embedding_init=init, name="embed")(at)
        score = nn.Embed(c.buckets, 1, embedding_init=nn.initializers.zeros_init(), name="weight")(at)[..., 0]
        weight = jax.nn.softmax(jnp.where(valid, score, -1e30).astype(jnp.float32), axis=-1).astype(self.dtype)
        pooled = layer_norm(self.dtype, "norm")((x * weight[..., None]).sum(1))
        pooled = pooled + Mlp(int(c.width * c.mlp_ratio), self.dtype, name="mlp")(pooled)
        return pooled, {"tokens": x, "valid": valid, "pooled": pooled}


def ngram_buckets(
    ids: Int[Array | np.ndarray, "B L"], sizes: tuple[int, ...], buckets: int
) -> tuple[Int[Array, "B N"], Bool[Array, "B N"]]:
    """(every n-gram of the ids, n in `sizes`, hashed into [0, buckets); whether it is free of padding). N = L * len(sizes)."""
    ids = jnp.asarray(ids)
    found, valid = [], []
    for n in sizes:
        # Multiplicative hashing modulo 2^32; it starts from the size, so that "ab" and "abc" begin differently.
        h = jnp.full(ids.shape, n, jnp.uint32)
        for k in range(n):
            h = (h ^ jnp.pad(ids[:, k:], ((0, 0), (0, k))).astype(jnp.uint32)) * jnp.uint32(0x01000193) + jnp.uint32(
                0x9E3779B9
            )
        h = h ^ (h >> 15)
        found.append((h * jnp.uint32(0x85EBCA6B) >> 8) % jnp.uint32(buckets))
        valid.append(jnp.pad(ids[:, n - 1 :], ((0, 0), (0, n - 1))) > 0)
    return jnp.concatenate(found, 1).astype(jnp.int32), jnp.concatenate(valid, 1)
