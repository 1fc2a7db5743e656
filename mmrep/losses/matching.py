"""Matching: which pairs a fusion encoder judges, and the loss of its judgement."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from mmrep.losses.blocks import MASKED
from mmrep.losses.contrastive import cross_entropy, same_id


def matching_loss(match_logits: Float[Array, "N 2"], is_match: Bool[Array, " N"]) -> Float[Array, " N"]:
    """Cross-entropy of each pair of (no match, match) logits (ITM; Li et al. 2021, ALBEF, equation 4)."""
    return cross_entropy(match_logits, jax.nn.one_hot(is_match.astype(jnp.int32), 2))


def random_pairs(
    rng: PRNGKeyArray, keys: Int[Array, "B *L"], share: float = 0.5
) -> tuple[Int[Array, " B"], Bool[Array, " B"]]:
    """(index, is_match): for each row its own index or, with probability `share`, that of a random other row.

    keys: rows of equal keys match (ids of records, or whole texts): a replacement may be true by chance.
    """
    for_row, for_other = jax.random.split(rng)
    rows = len(keys)
    other = (jnp.arange(rows) + jax.random.randint(for_other, (rows,), 1, max(rows, 2))) % rows
    index = jnp.where(jax.random.uniform(for_row, (rows,)) < share, other, jnp.arange(rows))
    return index, (keys[index] == keys).reshape(rows, -1).all(1)


def hard_negatives(
    rng: PRNGKeyArray, logits: Float[Array, "B B"], ids: Int[Array, " B"] | None = None
) -> tuple[Int[Array, " B"], Bool[Array, " B"]]:
    """(negative_idx, has_negative): for each row a column drawn with probability softmax(logits), never of its own index or id.

    Sampled from masked logits: a softmax whose diagonal is zeroed afterwards underflows at small temperatures.
    A row without such a column gets a random other row and has_negative False: leave it out of the loss.
    """
    other = ~jnp.eye(logits.shape[0], dtype=bool)
    allowed = other if ids is None else other & ~same_id(ids, ids)
    valid = allowed.any(-1)
    logits = jnp.where(allowed, jax.lax.stop_gradient(logits).astype(jnp.float32), -jnp.inf)
    logits = jnp.where(valid[:, None], logits, jnp.where(other, 0.0, MASKED))
    return jax.random.categorical(rng, logits, axis=-1), valid
