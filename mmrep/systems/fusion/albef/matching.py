"""Image-text matching with sampled negatives (Li et al. 2021, ALBEF, section 3.2)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from mmrep.losses.contrastive import MASKED, cross_entropy, same_id


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
