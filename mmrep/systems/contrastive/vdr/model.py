"""VDR's losses over the three forms of a vector: dense, sparse, and the bag of words."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mmrep.losses.contrastive import Scalar, info_nce, similarity
from mmrep.nn.heads import l2_normalise


class Side(NamedTuple):
    """A batch of one modality. `bag` is None where it has no words."""

    dense: Float[Array, "B V"]
    sparse: Float[Array, "B V"]
    bag: Float[Array, "B V"] | None


def nll(
    queries: Float[Array, "B V"], passages: Float[Array, "B V"], scale: Scalar, hard: Float[Array, "N V"] | None = None
) -> Float[Array, " B"]:
    """Half the sum of both directions' InfoNCE; `hard` are further passages of the queries alone, and no anchors."""
    columns = passages if hard is None else jnp.concatenate([passages, hard])
    positives = jnp.eye(len(queries), len(columns), dtype=bool)
    forth = info_nce(scale * similarity(queries, columns), positives)
    return 0.5 * (forth + info_nce(scale * similarity(passages, queries)))


def contrastive_mask(bag: Float[Array, "B V"]) -> Bool[Array, "B V"]:
    """Of the words that no row has, word v for row v mod B."""
    free = ~(bag > 0).any(0)
    return free[None] & (jnp.arange(bag.shape[1]) % len(bag) == jnp.arange(len(bag))[:, None])


def vdr_loss(
    queries: Side, passages: Side, scale: Scalar, hard: Side | None = None, bags: bool = True, semi: bool = True,
    mask_weight: float = 0.0,
) -> Float[Array, " B"]:  # fmt: skip
    """The mean of the terms between vectors and of those between a vector and a bag, half of each (one half alone where `bags` is False).

    semi: sparse queries with dense passages, the reverse, and both sides' bags; False: sparse queries and the queries' bags alone, where
    the queries are texts.   mask_weight: of `contrastive_mask` in the bags; the other side's vectors are 0 at these words.
    """

    def negatives(form: str) -> Float[Array, "N V"] | None:
        return None if hard is None else getattr(hard, form)

    vectors = [nll(queries.sparse, passages.dense, scale, negatives("dense"))]
    if semi:
        vectors.append(nll(queries.dense, passages.sparse, scale, negatives("sparse")))
    parametric = sum(vectors[1:], vectors[0]) / len(vectors)
    if not bags:
        return parametric
    q, p, q_bag, p_bag, n = queries.dense, passages.dense, queries.bag, passages.bag, len(queries.dense)
    hard_bag = negatives("bag")
    if mask_weight and q_bag is not None:
        mask = contrastive_mask(q_bag)
        q_bag, p = q_bag + mask_weight * l2_normalise(mask.astype(jnp.float32)), p * ~mask
    if mask_weight and p_bag is not None:
        whole = p_bag if hard_bag is None else jnp.concatenate([p_bag, hard_bag])
        mask = contrastive_mask(whole)
        whole = whole + mask_weight * l2_normalise(mask.astype(jnp.float32))
        p_bag, hard_bag, q = whole[:n], None if hard_bag is None else whole[n:], q * ~mask[:n]
    words = [] if q_bag is None else [nll(q_bag, p, scale, negatives("dense"))]
    if p_bag is not None and (semi or not words):
        words.append(nll(q, p_bag, scale, hard_bag))
    return 0.5 * (parametric + sum(words[1:], words[0]) / len(words))
