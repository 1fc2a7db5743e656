"""Vectors with one dimension a word: tokens scored against a table of word embeddings, bags of words, and their sparse forms."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from mmrep.errors import ConfigError
from mmrep.modality import FIRST_PIECE
from mmrep.nn.norms import layer_norm


def elu1p(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """ELU(x) + 1: exp(x) below 0, x + 1 from there on; positive (Zhou et al. 2024, VDR)."""
    return jax.nn.elu(x) + 1


def lexical(
    tokens: Float[Array, "B N D"], table: Float[Array, "V D"], valid: Bool[Array, "B N"] | None = None
) -> Float[Array, "B V"]:
    """elu1p of the largest score of each word over the valid tokens, in float32; an example without a valid token is 0."""
    scores = jnp.einsum("bnd,vd->bnv", tokens, table.astype(tokens.dtype), preferred_element_type=jnp.float32)
    if valid is not None:
        scores = jnp.where(valid[..., None], scores, -jnp.inf)
    return elu1p(scores.max(1))


def bag(ids: Int[Array, "B L"], vocab: int, reserved: int = FIRST_PIECE) -> Float[Array, "B V"]:
    """1 where a word occurs, 0 elsewhere, over the ids from `reserved` on: V = vocab - reserved."""
    rows = jnp.arange(len(ids))[:, None]
    return jnp.zeros((len(ids), vocab), jnp.float32).at[rows, ids].set(1.0)[:, reserved:]


def top_k_mask(x: Float[Array, "B V"], k: int) -> Bool[Array, "B V"]:
    """True for the k largest of each row, ties to the lower index: exactly k, or all where there are fewer."""
    index = jax.lax.top_k(x, min(k, x.shape[-1]))[1]
    return jnp.zeros(x.shape, bool).at[jnp.arange(len(x))[:, None], index].set(True)


class LexicalHead(nn.Module):
    """LayerNorm, then `lexical` with the rows of `table`, or of a table of its own [vocab, D]. Raises ConfigError for vocab below 1."""

    vocab: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        tokens: Float[Array, "B N D"],
        valid: Bool[Array, "B N"] | None = None,
        table: Float[Array, "V D"] | None = None,
    ) -> Float[Array, "B V"]:
        if self.vocab < 1:
            raise ConfigError(f"LexicalHead.vocab is {self.vocab}: give at least one word")
        if table is None:
            table = self.param("table", nn.initializers.normal(0.02), (self.vocab, tokens.shape[-1]), jnp.float32)
        return lexical(layer_norm(self.dtype, "norm")(tokens), jnp.asarray(table), valid)
