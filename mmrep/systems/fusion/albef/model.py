"""ALBEF's fusion encoder, masked language modelling's corruption and the negatives of image-text matching (Li et al. 2021)."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from mmrep.errors import ConfigError
from mmrep.losses.contrastive import MASKED, cross_entropy, same_id
from mmrep.modality import BOS, FIRST_PIECE, MASK, PAD
from mmrep.nn.attention import causal_mask, padding_mask
from mmrep.nn.config import TransformerConfig
from mmrep.nn.transformer import Transformer


class FusionEncoder(nn.Module):
    """A text stream whose blocks also attend to another modality's tokens (ALBEF, Li et al. 2021, section 3.1).

    The upper half of ALBEF's text stack: its tokens are those of a TextTransformer of the same `config` but for the depth.
    The context may have any width. Returns (pooled [B,D], out): pooled is the first token; `causal` makes it a caption decoder.
    """

    config: TransformerConfig
    causal: bool = False
    dtype: Any = jnp.float32

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
        fusion = Transformer(self.config, cross=True, dtype=self.dtype, name="transformer")
        x, out = fusion(tokens, mask, context, context_mask)
        if valid is not None:
            out["valid"] = valid
        out["pooled"] = pooled = x[:, 0]
        return pooled, out


def mask_tokens(
    rng: PRNGKeyArray,
    ids: Int[Array, "*batch L"],
    vocab: int,
    rate: Float[Array, ""] | float = 0.15,
    first_piece: int = FIRST_PIECE,
) -> tuple[Int[Array, "*batch L"], Bool[Array, "*batch L"]]:
    """(corrupted ids, target): each token but PAD and BOS is a target with probability `rate`; the labels are `ids` itself.

    Of the targets 80 % become MASK, 10 % a random piece from first_piece..vocab-1, 10 % stay. A row may end up without target.
    Raises ConfigError where the vocabulary has no piece.
    """
    if vocab <= first_piece:
        raise ConfigError(f"mask_tokens: vocab is {vocab}; it must exceed first_piece, {first_piece}")
    for_target, for_kind, for_piece = jax.random.split(rng, 3)
    maskable = (ids != PAD) & (ids != BOS)
    target = maskable & (jax.random.uniform(for_target, ids.shape) < rate)
    kind = jax.random.uniform(for_kind, ids.shape)
    piece = jax.random.randint(for_piece, ids.shape, first_piece, vocab, ids.dtype)
    corrupted = jnp.where(kind < 0.8, jnp.asarray(MASK, ids.dtype), jnp.where(kind < 0.9, piece, ids))
    return jnp.where(target, corrupted, ids), target


def hard_negatives(
    rng: PRNGKeyArray, logits: Float[Array, "B B"], ids: Int[Array, " B"] | None = None
) -> tuple[Int[Array, " B"], Bool[Array, " B"]]:
    """For each row a wrong column, drawn with probability softmax(logits) over the columns of another index and another id.

    Sampled from masked logits: a softmax whose diagonal is zeroed afterwards underflows at small temperatures.
    Returns (index, valid). A row with no such column gets a random other row and valid False: leave it out of the loss.
    """
    rows = logits.shape[0]
    other = ~jnp.eye(rows, dtype=bool)
    allowed = other if ids is None else other & ~same_id(ids, ids)
    valid = allowed.any(-1)
    logits = jnp.where(allowed, jax.lax.stop_gradient(logits).astype(jnp.float32), -jnp.inf)
    logits = jnp.where(valid[:, None], logits, jnp.where(other, 0.0, MASKED))
    return jax.random.categorical(rng, logits, axis=-1), valid


def random_negatives(
    rng: PRNGKeyArray, batch_size: int, ids: Int[Array, " B"] | None = None
) -> tuple[Int[Array, " B"], Bool[Array, " B"]]:
    """`hard_negatives` with all wrong columns equally likely: the baseline."""
    return hard_negatives(rng, jnp.zeros((batch_size, batch_size), jnp.float32), ids)


def matching_loss(
    logits: Float[Array, "N 2"], labels: Int[Array, " N"] | Bool[Array, " N"]
) -> Float[Array, " N"]:  # fmt: skip
    """Cross-entropy of (no match, match) logits against labels 0 and 1."""
    return cross_entropy(logits, jax.nn.one_hot(labels.astype(jnp.int32), 2))
