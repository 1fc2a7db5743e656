"""The multilinear inner product and Symile's contrast of whole tuples (Saporta et al. 2024)."""

from collections.abc import Sequence
from functools import reduce
from itertools import combinations
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from mmrep.errors import ConfigError
from mmrep.losses.blocks import Blocks, Side, Softmax, contrast, side
from mmrep.losses.contrastive import Scalar, info_nce, similarity

Negatives = Literal["n", "n_squared"]
Vectors = Sequence[Float[Array | np.ndarray, "B D"]]


def _product(vectors: Sequence[Float[Array, "B D"]]) -> Float[Array, "B D"]:
    return reduce(jnp.multiply, [v.astype(jnp.float32) for v in vectors])


def multilinear_product(vectors: Sequence[Float[Array, "B D"]]) -> Float[Array, " B"]:
    """<x^1, ..., x^M> = sum_k prod_m x^m_k of each row."""
    return _product(vectors).sum(-1)


def mip_scores(candidates: Float[Array, "C D"], observed: Sequence[Float[Array, "B D"]]) -> Float[Array, "B C"]:
    """Score of each candidate given the observed modalities; unobserved ones are left out of the product (section 3.3)."""
    return similarity(_product(observed), candidates.astype(jnp.float32))


def _shuffled(rng: PRNGKeyArray, others: Sequence[Float[Array, "B D"]]) -> list[Float[Array, "B D"]]:
    keys = jax.random.split(rng, len(others))
    return [jax.random.permutation(key, x, axis=0) for key, x in zip(keys, others)]


def permuted_logits(
    rng: PRNGKeyArray, anchor: Float[Array, "B D"], others: Sequence[Float[Array, "B D"]]
) -> Float[Array, "B B"]:
    """Symile's "n" negatives: every other modality is shuffled by its own permutation; the diagonal is the true tuple.

    Where the permutations meet by chance, a true tuple stands among the negatives, as in the paper. With a single other modality
    that happens in nearly every row, so use `rolled_logits` for M = 2.
    """
    logits = similarity(anchor.astype(jnp.float32), _product(_shuffled(rng, others)))
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


def _scores(
    shared: dict[str, Array], rows: Side, columns: Side, same: Bool[Array, "r c"]
) -> tuple[Float[Array, "r c"], None]:
    logits = similarity(rows.vectors["anchor"], _product(columns.vectors))
    return shared["scale"] * jnp.where(same, rows.vectors["true"][:, None], logits), None


def _roll(walk: Array, columns: tuple[Any, ...], gradients: Any) -> tuple[Any, Any]:
    """To the next combination of rolls: modality k turns by one after every B^(k-1) walks. Only in the first walk are columns true."""
    of, *totals = columns
    batch = of.place.shape[0]

    def turn(vectors: list[Array] | None) -> list[Array] | None:
        if vectors is None:
            return None
        turns = [(walk + 1) % batch ** (k - 1) == 0 for k in range(1, len(vectors))]
        return [vectors[0], *(jnp.where(t, jnp.roll(v, -1, 0), v) for t, v in zip(turns, vectors[1:]))]

    later = of.place % batch + batch
    return (of._replace(vectors=turn(of.vectors), place=later, ids=later), *totals), turn(gradients)


def symile_loss(
    embeddings: Sequence[Float[Array, "B D"]],
    scale: Scalar,
    rng: PRNGKeyArray | None = None,
    negatives: Negatives = "n",
    limit_bytes: int = 2**31,
    blocks: Blocks | None = None,
) -> Float[Array, " B"]:
    """InfoNCE over tuples, each modality in turn the anchor; per row, the mean over anchors (equation 4).

    embeddings: unit rows of M >= 2 modalities.   scale: the inverse temperature. Products of M unit vectors shrink like D^(-(M-1)/2),
    so it must be free to grow far beyond CLIP's 100.   rng: needed by "n"; each anchor and modality has its own permutation.
    blocks: None keeps all logits; with blocks, "n_squared" makes its B^(M-1) columns B at a time, on one device.
    Raises ConfigError for M < 2, unequal shapes, a missing rng, "n_squared" on a ring, or, without blocks, logits and columns larger
    than `limit_bytes`.
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
        if blocks is None and needed > limit_bytes:
            raise ConfigError(
                f'symile_loss: negatives="n_squared" would need {needed / 2**30:.1f} GiB an anchor;'
                ' use "n", a smaller batch, blocks, or raise limit_bytes'
            )
    else:
        raise ConfigError(f'symile_loss: negatives is {negatives!r}; it must be "n" or "n_squared"')
    total = jnp.zeros(batch, jnp.float32)
    for a, anchor in enumerate(embeddings):
        others = [x for m, x in enumerate(embeddings) if m != a]
        if blocks is not None:
            rows = side({"anchor": anchor.astype(jnp.float32), "true": multilinear_product([anchor, *others])})
            walks = {} if negatives == "n" else {"travel": _roll, "walks": batch ** (len(others) - 1)}
            # With "n" the product is taken once, so that one vector a column travels or is read again, not M - 1.
            columns = side([_product(_shuffled(keys[a], others))] if negatives == "n" else others)
            shared = {"scale": scale}
            total += contrast(_scores, Softmax(), shared, rows, columns, blocks, both=False, **walks)[0]
            continue
        logits = permuted_logits(keys[a], anchor, others) if negatives == "n" else rolled_logits(anchor, others)
        total += info_nce(scale * logits)
    return total / len(embeddings)


def agreement(vectors: Vectors) -> Float[Array, " B"]:
    """The sum of the dot products of all pairs of modalities, row by row; 0 for a single one."""
    pairs = [jnp.sum(jnp.asarray(x, jnp.float32) * y, -1) for x, y in combinations(vectors, 2)]
    return sum(pairs, jnp.zeros(len(vectors[0]), jnp.float32))


def sum_loss(rng: PRNGKeyArray, vectors: Sequence[Float[Array, "B D"]], scale: Scalar) -> Float[Array, " B"]:
    """Symile's loss and shuffles, with the tuple's score replaced by the sum of its pairwise dot products."""
    keys = jax.random.split(rng, len(vectors))
    total = jnp.zeros(len(vectors[0]), jnp.float32)
    for a, anchor in enumerate(vectors):
        others = [x for m, x in enumerate(vectors) if m != a]
        shuffled = _shuffled(keys[a], others)
        logits = similarity(anchor, sum(shuffled[1:], shuffled[0])) + agreement(shuffled)[None, :]
        true = jnp.eye(len(anchor), dtype=bool)
        total += info_nce(scale * jnp.where(true, agreement(vectors)[:, None], logits))
    return total / len(vectors)
