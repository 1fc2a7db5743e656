"""Masked language modelling: which tokens of a text are corrupted, and how."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from mmrep.errors import ConfigError
from mmrep.modality import BOS, FIRST_PIECE, MASK, PAD


def mask_tokens(
    rng: PRNGKeyArray,
    ids: Int[Array, "*batch L"],
    vocab: int,
    rate: Float[Array, ""] | float = 0.15,
    first_piece: int = FIRST_PIECE,
) -> tuple[Int[Array, "*batch L"], Bool[Array, "*batch L"]]:
    """(corrupted ids, target): each token but PAD and BOS is a target with probability `rate`; the labels are `ids` (BERT, section 3.1).

    Of the targets 80 % become MASK, 10 % a random piece from first_piece..vocab-1, 10 % stay. A row may have no target.
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
