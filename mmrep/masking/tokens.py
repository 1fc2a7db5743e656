"""Masking of one modality's tokens: corrupted for masked language modelling, or left out of the encoder."""

from typing import NamedTuple

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


class Preserved(NamedTuple):
    """places of the preserved tokens, in order; which of them are real."""

    places: Int[Array, "B K"]
    real: Bool[Array, "B K"]


def leave_out(rng: PRNGKeyArray, valid: Bool[Array, "B N"], ratio: float, span: int = 1) -> Bool[Array, "B N"]:
    """Which tokens are left out: a share `ratio` of each row's valid ones, rounded, never the first; in runs of `span` neighbours."""
    n = valid.shape[1] - 1
    count = jnp.round(ratio * (valid.sum(1, keepdims=True) - 1))
    score = jax.random.uniform(rng, (len(valid), -(-n // span))).repeat(span, axis=1)[:, :n]
    score = jnp.where(valid[:, 1:], score, 2.0)
    rank = jnp.argsort(jnp.argsort(score, axis=1, stable=True), axis=1, stable=True)
    return jnp.pad((rank < count) & valid[:, 1:], ((0, 0), (1, 0)))


def preserve(kept: Bool[Array, "B N"], count: int) -> Preserved:
    """The first `count` tokens that are kept; `real` is False where a row has fewer."""
    places = jnp.argsort(~kept, axis=1, stable=True)[:, :count].astype(jnp.int32)
    return Preserved(places, jnp.take_along_axis(kept, places, axis=1))
