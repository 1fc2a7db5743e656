"""The multilinear inner product and Symile's contrast of whole tuples (Saporta et al. 2024)."""

from collections.abc import Sequence
from functools import reduce
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from mmrep.errors import ConfigError
from mmrep.losses.contrastive import Scalar, info_nce, similarity

Negatives = Literal["n", "n_squared"]


def _product(vectors: Sequence[Float[Array, "B D"]]) -> Float[Array, "B D"]:
    return reduce(jnp.multiply, [v.astype(jnp.float32) for v in vectors])


def multilinear_product(vectors: Sequence[Float[Array, "B D"]]) -> Float[Array, " B"]:
    """<x^1, ..., x^M> = sum_k prod_m x^m_k of each row."""
    return _product(vectors).sum(-1)


def mip_scores(candidates: Float[Array, "C D"], observed: Sequence[Float[Array, "B D"]]) -> Float[Array, "B C"]:
    """Score of each candidate given the observed modalities; unobserved ones are left out of the product (section 3.3)."""
    return similarity(_product(observed), candidates.astype(jnp.float32))


def permuted_logits(
    rng: PRNGKeyArray, anchor: Float[Array, "B D"], others: Sequence[Float[Array, "B D"]]
) -> Float[Array, "B B"]:
    """Symile's "n" negatives: every other modality is shuffled by its own permutation; the diagonal is the true tuple.

    Where the permutations meet by chance, a true tuple stands among the negatives, as in the paper. With a single other modality
    that happens in nearly every row, so use `rolled_logits` for M = 2.
    """
    keys = jax.random.split(rng, len(others))
    shuffled = [jax.random.permutation(key, x, axis=0) for key, x in zip(keys, others)]
    logits = similarity(anchor.astype(jnp.float32), _product(shuffled))
    true = multilinear_product([anchor, *others])
    return jnp.where(jnp.eye(len(true), dtype=bool), true[:, None], logits)


def rolled_logits(anchor: Float[Array, "B D"], others: Sequence[Float[Array, "B D"]]) -> Float[Array, "B N"]:
    """Symile's "n_squared" negatives: all B^(M-1) combinations of the others, by cyclic rolls; column i < B is row i's true tuple."""
    columns = others[0].astype(jnp.float32)
    for x in others[1:]:
        x = x.astype(jnp.float32)
        rows = jnp.arange(len(x))
        # rolled[r, i] = x[i + r]; roll 0 comes first, so that the aligned products stay columns 0..B-1.
        rolled = x[(rows[:, None] + rows[None, :]) % len(x)]
        columns = (rolled[:, None] * columns.reshape(1, -1, *x.shape)).reshape(-1, x.shape[-1])
    return similarity(anchor.astype(jnp.float32), columns)


def symile_loss(
    embeddings: Sequence[Float[Array, "B D"]],
    scale: Scalar,
    rng: PRNGKeyArray | None = None,
    negatives: Negatives = "n",
    limit_bytes: int = 2**31,
) -> Float[Array, " B"]:
    """InfoNCE over tuples, each modality in turn the anchor; per row, the mean over anchors (equation 4).

    embeddings: unit rows of M >= 2 modalities.   scale: the inverse temperature. Products of M unit vectors shrink like D^(-(M-1)/2),
    so it must be free to grow far beyond CLIP's 100.   rng: needed by "n"; each anchor and modality has its own permutation.
    Raises ConfigError for M < 2, unequal shapes, a missing rng, or "n_squared" logits and columns larger than `limit_bytes`.
    """
    if len(embeddings) < 2:
        raise ConfigError(f"symile_loss needs at least 2 modalities, found {len(embeddings)}")
    if len({x.shape for x in embeddings}) != 1:
        raise ConfigError(f"symile_loss needs equal shapes, found {', '.join(str(x.shape) for x in embeddings)}")
    batch, dim = embeddings[0].shape
    if negatives == "n":
        if rng is None:
            raise ConfigError('symile_loss: negatives="n" needs a key, rng')
        keys = jax.random.split(rng, len(embeddings))
    elif negatives == "n_squared":
        needed = 4 * batch ** (len(embeddings) - 1) * (batch + dim)
        if needed > limit_bytes:
            raise ConfigError(
                f'symile_loss: negatives="n_squared" would need {needed / 2**30:.1f} GiB an anchor;'
                ' use "n", a smaller batch, or raise limit_bytes'
            )
    else:
        raise ConfigError(f'symile_loss: negatives is {negatives!r}; it must be "n" or "n_squared"')
    total = jnp.zeros(batch, jnp.float32)
    for a, anchor in enumerate(embeddings):
        others = [x for m, x in enumerate(embeddings) if m != a]
        logits = permuted_logits(keys[a], anchor, others) if negatives == "n" else rolled_logits(anchor, others)
        total += info_nce(scale * logits)
    return total / len(embeddings)
