"""Symile's multilinear inner product and its contrast of whole tuples (Saporta et al. 2024)."""

from collections.abc import Callable, Sequence
from functools import reduce
from itertools import combinations
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from mmrep.errors import ConfigError
from mmrep.losses.blocks import Blocks, Side, Softmax, contrast, side
from mmrep.losses.contrastive import Scalar, info_nce, similarity

Negatives = Literal["n", "n_squared"]
Vectors = Sequence[Float[Array | np.ndarray, "B D"]]


def _product(vectors: Sequence[Float[Array, "B D"]]) -> Float[Array, "B D"]:
    return reduce(jnp.multiply, [v.astype(jnp.float32) for v in vectors])


def multilinear_product(vectors: Sequence[Float[Array, "B D"]]) -> Float[Array, " B"]:
    """The multilinear inner product <x^1, ..., x^M> = sum_k prod_m x^m_k of each row."""
    return _product(vectors).sum(-1)


def mip_scores(candidates: Float[Array, "C D"], observed: Sequence[Float[Array, "B D"]]) -> Float[Array, "B C"]:
    """Score of each candidate given the observed modalities; unobserved ones are left out of the product (section 3.3)."""
    return similarity(_product(observed), candidates.astype(jnp.float32))


def agreement(vectors: Vectors) -> Float[Array, " B"]:
    """The sum of the dot products of all pairs of modalities, row by row; 0 for a single modality."""
    pairs = [jnp.sum(jnp.asarray(x, jnp.float32) * y, -1) for x, y in combinations(vectors, 2)]
    return sum(pairs, jnp.zeros(len(vectors[0]), jnp.float32))


def symile_loss(
    embeddings: Sequence[Float[Array, "B D"]],
    scale: Scalar,
    rng: PRNGKeyArray | None = None,
    negatives: Negatives = "n",
    limit_bytes: int = 2**31,
    blocks: Blocks | None = None,
) -> Float[Array, " B"]:
    """InfoNCE over tuples with each modality in turn the anchor; of each row, the mean over anchors (equation 4).

    embeddings: unit rows of M >= 2 modalities.   scale: the inverse temperature. Products of M unit vectors shrink like D^(-(M-1)/2), so
    it must be free to grow far beyond CLIP's 100.   rng: for "n"; each anchor and modality has its own permutation.
    blocks: None keeps all logits; with blocks, "n_squared" builds its B^(M-1) columns B at a time, on one device.
    Raises ConfigError for M < 2, unequal shapes, a missing rng, "n_squared" on a ring, or, without blocks, logits and columns larger
    than `limit_bytes`.
    """
    if len(embeddings) < 2:
        raise ConfigError(f"symile_loss needs at least 2 modalities, found {len(embeddings)}")
    if len({x.shape for x in embeddings}) != 1:
        raise ConfigError(f"symile_loss needs equal shapes, found {', '.join(str(x.shape) for x in embeddings)}")
    if negatives not in ("n", "n_squared"):
        raise ConfigError(f'symile_loss: negatives is {negatives!r}; it must be "n" or "n_squared"')
    if negatives == "n" and rng is None:
        raise ConfigError('symile_loss: negatives="n" needs a key, rng')
    batch, dim = embeddings[0].shape
    needed = 4 * batch ** (len(embeddings) - 1) * (batch + dim)
    if negatives == "n_squared" and blocks is None and needed > limit_bytes:
        raise ConfigError(
            f'symile_loss: negatives="n_squared" would need {needed / 2**30:.1f} GiB an anchor;'
            ' use "n", a smaller batch, blocks, or raise limit_bytes'
        )

    def of_anchor(anchor: Array, others: list[Array], key: Any) -> Array:
        if blocks is None:
            logits = permuted_logits(key, anchor, others) if negatives == "n" else rolled_logits(anchor, others)
            return info_nce(scale * logits)
        true = multilinear_product([anchor, *others])
        if negatives == "n":
            # The product is taken before the contrast, so that a column is one vector, not M - 1.
            return _tuple_contrast(scale, anchor, true, {"factors": [_product(_shuffled(key, others))]}, blocks)
        passes = batch ** (len(others) - 1)
        return _tuple_contrast(scale, anchor, true, {"factors": others}, blocks, advance=_next_roll, passes=passes)

    return _mean_over_anchors(embeddings, of_anchor, rng)


def sum_loss(
    rng: PRNGKeyArray, vectors: Sequence[Float[Array, "B D"]], scale: Scalar, blocks: Blocks | None = None
) -> Float[Array, " B"]:
    """An ablation: `symile_loss` with "n" negatives and the sum of pairwise dot products as the tuple's score."""

    def of_anchor(anchor: Array, others: list[Array], key: Any) -> Array:
        shuffled, true = _shuffled(key, others), agreement([anchor, *others])
        columns, offset = sum(shuffled[1:], shuffled[0]), agreement(shuffled)
        if blocks is not None:
            return _tuple_contrast(scale, anchor, true, {"factors": [columns], "offset": offset}, blocks)
        own = jnp.eye(len(anchor), dtype=bool)
        return info_nce(scale * jnp.where(own, true[:, None], similarity(anchor, columns) + offset[None, :]))

    return _mean_over_anchors(vectors, of_anchor, rng)


def _mean_over_anchors(
    vectors: Sequence[Array], of_anchor: Callable[[Array, list[Array], Any], Array], rng: PRNGKeyArray | None
) -> Array:
    keys = [None] * len(vectors) if rng is None else jax.random.split(rng, len(vectors))
    total = jnp.zeros(len(vectors[0]), jnp.float32)
    for a, anchor in enumerate(vectors):
        total += of_anchor(anchor, [x for m, x in enumerate(vectors) if m != a], keys[a])
    return total / len(vectors)


def _shuffled(rng: PRNGKeyArray, others: Sequence[Float[Array, "B D"]]) -> list[Float[Array, "B D"]]:
    keys = jax.random.split(rng, len(others))
    return [jax.random.permutation(key, x, axis=0) for key, x in zip(keys, others)]


def permuted_logits(
    rng: PRNGKeyArray, anchor: Float[Array, "B D"], others: Sequence[Float[Array, "B D"]]
) -> Float[Array, "B B"]:
    """Symile's "n" negatives: every other modality is shuffled by its own permutation; the diagonal is the true tuple.

    Where the permutations meet by chance, a true tuple is among the negatives, as in the paper. With a single other modality that
    happens in nearly every row, so use `rolled_logits` for M = 2.
    """
    logits = similarity(anchor.astype(jnp.float32), _product(_shuffled(rng, others)))
    true = multilinear_product([anchor, *others])
    return jnp.where(jnp.eye(len(true), dtype=bool), true[:, None], logits)


def rolled_logits(anchor: Float[Array, "B D"], others: Sequence[Float[Array, "B D"]]) -> Float[Array, "B N"]:
    """Symile's "n_squared" negatives: all B^(M-1) combinations of the others, by cyclic rolls; column i < B is row i's true tuple."""
    columns, rows = others[0].astype(jnp.float32), jnp.arange(len(anchor))
    for x in others[1:]:
        # rolled[r, i] = x[i + r]; roll 0 comes first, so that the aligned products stay columns 0..B-1.
        rolled = x.astype(jnp.float32)[(rows[:, None] + rows[None, :]) % len(x)]
        columns = (rolled[:, None] * columns.reshape(1, -1, *x.shape)).reshape(-1, x.shape[-1])
    return similarity(anchor.astype(jnp.float32), columns)


def _tuple_contrast(
    scale: Scalar, anchor: Array, true: Array, columns: dict[str, Any], blocks: Blocks, **passes: Any
) -> Array:
    rows = side({"anchor": anchor.astype(jnp.float32), "true": true})
    shared = {"scale": scale}
    return contrast(_tuple_scores, Softmax(), shared, rows, side(columns), blocks, both=False, **passes)[0]


def _tuple_scores(shared: dict[str, Array], rows: Side, columns: Side, own: Array) -> tuple[Float[Array, "r c"], None]:
    logits = similarity(rows.vectors["anchor"], _product(columns.vectors["factors"]))
    logits += columns.vectors.get("offset", 0.0)
    return shared["scale"] * jnp.where(own, rows.vectors["true"][:, None], logits), None


def _next_roll(number: Array, columns: tuple[Any, ...], gradients: Any) -> tuple[Any, Any]:
    """To the next combination of rolls: factor k rolls by one after every B^(k-1) passes. Columns are true tuples in the first pass only."""
    of, *stats = columns
    batch = of.position.shape[0]

    def roll(vectors: dict[str, list[Array]] | None) -> dict[str, list[Array]] | None:
        if vectors is None:
            return None
        first, *rest = vectors["factors"]
        due = [(number + 1) % batch**k == 0 for k in range(len(rest))]
        return {"factors": [first, *(jnp.where(d, jnp.roll(v, -1, 0), v) for d, v in zip(due, rest))]}

    later = of.position % batch + batch
    return (of._replace(vectors=roll(of.vectors), position=later, ids=later), *stats), roll(gradients)
