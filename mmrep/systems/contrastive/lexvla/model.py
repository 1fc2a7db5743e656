"""LexVLA's penalties, its sparse vectors and its image side (Li et al. 2024, sections 3.1 to 3.3)."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from mmrep.losses.contrastive import cross_entropy
from mmrep.modality import FIRST_PIECE
from mmrep.nn.adapters import PatchAdapter
from mmrep.nn.config import TransformerConfig
from mmrep.nn.lexical import bag
from mmrep.nn.patches import Images
from mmrep.nn.transformer import Transformer


def overuse(vectors: Float[Array, "B V"]) -> Float[Array, ""]:
    """sum_v p_v a_v^2, a the mean activation of each word in the batch and p = a / sum(a): words pay more that many examples use.

    Of nonnegative vectors, before words are left out. The paper fixes no formula beyond this description; two public re-implementations
    have this one, one of them times V.
    """
    a = vectors.astype(jnp.float32).mean(0)
    return (a**3).sum() / jnp.maximum(a.sum(), 1e-12)


def flops(vectors: Float[Array, "B V"]) -> Float[Array, ""]:
    """sum_v a_v^2, the rival penalty (Paria et al. 2020)."""
    return jnp.square(vectors.astype(jnp.float32).mean(0)).sum()


def sparse(vectors: Float[Array, "B V"], top_k: int | None = None) -> Float[Array, "B V"]:
    """Unit vectors without the words below 1 / sqrt(V), or with the `top_k` largest alone; the largest word always stays.

    They have no new length: scores shrink with the words that are left out.
    """
    best = vectors.max(-1, keepdims=True)
    if top_k is None:
        least = jnp.minimum(best, vectors.shape[-1] ** -0.5)
    else:
        least = jnp.sort(vectors, axis=-1)[..., -min(top_k, vectors.shape[-1])][..., None]
    return jnp.where(vectors >= least, vectors, 0.0)


def keyword_loss(logits: Float[Array, "B V"], ids: Int[Array, "B L"]) -> Float[Array, " B"]:
    """Cross-entropy of a caption's words, in equal shares, at its end: the mean over all orders of a list of keywords that begins there."""
    words = bag(ids, logits.shape[-1])
    return cross_entropy(logits[:, FIRST_PIECE:], words / jnp.maximum(words.sum(-1, keepdims=True), 1.0))


class Adapter(nn.Module):
    """Blocks of self-attention over frozen patches, then a projector to the width of the word embeddings (section 3.2)."""

    config: TransformerConfig
    dim: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, patches: Float[Array, "B N W"]) -> Float[Array, "B N D"]:
        x = nn.Dense(self.config.width, dtype=self.dtype, name="embed")(patches)
        x, _ = Transformer(self.config, dtype=self.dtype, name="transformer")(x)
        return nn.Dense(self.dim, dtype=self.dtype, name="projector")(x)


@dataclass(frozen=True)
class MaskedEncoder:
    """The encoder of a MultiMAE of colours alone, with the names of its parameters, so that `Phase.start` can take them from one."""

    transformer: TransformerConfig = TransformerConfig(epsilon=1e-6)
    patch: int = 8
    position_base: float = 10_000.0

    def module(self, dtype: Any, name: str | None = None, pooled_only: bool = False) -> "MaskedPatches":
        return MaskedPatches(self, dtype, name=name)


class MaskedPatches(nn.Module):
    """The module of MaskedEncoder, over all patches and the global token: (mean patch, out) with out["patches"]."""

    config: MaskedEncoder
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Images) -> tuple[Float[Array, "B E"], dict[str, Array]]:
        c = self.config
        x = PatchAdapter(c.transformer.width, c.patch, self.dtype, c.position_base, name="in_rgb")(
            jnp.asarray(images) * 2 - 1
        )
        x = Global(self.dtype, name="global")(x)
        x, out = Transformer(c.transformer, final_norm=False, dtype=self.dtype, name="encoder")(x)
        patches = x[:, :-1]
        return patches.mean(1), out | {"patches": patches, "pooled": patches.mean(1)}


class Global(nn.Module):
    """Appends one learned token."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, tokens: Float[Array, "B N D"]) -> Float[Array, "B M D"]:
        row = self.param("tokens", nn.initializers.truncated_normal(0.02), (1, tokens.shape[-1]), jnp.float32)
        row = jnp.broadcast_to(row.astype(self.dtype), (len(tokens), 1, tokens.shape[-1]))
        return jnp.concatenate([tokens, row], axis=1)
