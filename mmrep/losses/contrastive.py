"""Contrastive losses over a matrix of logits: rows are anchors, columns are candidates.

They are written for the global view of `jax.jit`: with rows sharded over devices the compiler gathers the columns, and the negatives are
those of the whole batch. Values are per row, in float32; reduce them with `masked_mean`. Losses of embeddings compute all pairs at
once, or with `blocks` the same values in memory linear in the batch (`mmrep.losses.blocks`).
"""

from collections.abc import Sequence
from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

from mmrep.errors import ConfigError
from mmrep.losses.blocks import MASKED, Blocks, Side, Sigmoid, Softmax, contrast, side
from mmrep.losses.reduce import masked_mean

Scalar = Float[Array, ""] | float | int
NEEDS_IDS = "multi_positive needs ids: rows of equal id are positives of one another"


def similarity(x: Float[Array, "B D"], y: Float[Array, "N D"]) -> Float[Array, "B N"]:
    """Dot products of all rows, in float32. A scale of 100 would show the rounding of a fast (TF32, bfloat16) product."""
    return jnp.einsum("bd,nd->bn", x, y, precision=jax.lax.Precision.HIGHEST, preferred_element_type=jnp.float32)


def same_id(row_ids: Int[Array, " B"], column_ids: Int[Array, " N"]) -> Bool[Array, "B N"]:
    """True where row and column carry the same id: the positives of a multi-positive loss."""
    return row_ids[:, None] == column_ids[None, :]


def true_of(told: Int[Array | np.ndarray, "B Q"], shown: Int[Array | np.ndarray, "N S"]) -> Bool[Array, "B N"]:
    """True where a column shows every item that the row describes; item 0 is none. Of synthetic clips: the pairs of true captions."""
    told, shown = jnp.asarray(told), jnp.asarray(shown)
    found = (told[:, None, :, None] == shown[None, :, None, :]).any(-1)
    return (found | (told == 0)[:, None]).all(-1)


def false_negatives(
    row_ids: Int[Array, " B"], column_ids: Int[Array, " N"], positives: Bool[Array, "B N"]
) -> Bool[Array, "B N"]:
    """Entries of the same id that are not positives: the losses' `ignore`."""
    return same_id(row_ids, column_ids) & ~positives


def targets_from_positives(
    positives: Bool[Array, "B N"], smoothing: Scalar = 0.0, where: Bool[Array, "B N"] | None = None
) -> Float[Array, "B N"]:
    """Target rows: (1 - smoothing) shared by the row's positives, plus smoothing / N in every column (Jia et al. 2021, ALIGN).

    `where` keeps columns: the others are 0, and N counts the kept ones. A row without positives is all zero.
    """
    kept = jnp.ones_like(positives) if where is None else where
    hits = (positives & kept).astype(jnp.float32)
    counts = hits.sum(-1, keepdims=True)
    columns = jnp.maximum(kept.sum(-1, keepdims=True, dtype=jnp.float32), 1.0)
    targets = (1.0 - smoothing) * hits / jnp.maximum(counts, 1.0) + smoothing * kept / columns
    return jnp.where(counts > 0, targets, 0.0)


def cross_entropy(
    logits: Float[Array, "B N"], targets: Float[Array, "B N"], where: Bool[Array, "B N"] | None = None
) -> Float[Array, " B"]:
    """-sum_j targets_ij log softmax_j(logits_i) in float32; softmax and sum run over the columns kept by `where`.

    A row that keeps no column is 0. Rows of `targets` need not sum to one. Drop entries through `where`, not by infinite logits.
    """
    logits, targets = logits.astype(jnp.float32), targets.astype(jnp.float32)
    if where is not None:
        # Not optax's own `where`: an empty row would be NaN, in value and in gradient.
        logits, targets = jnp.where(where, logits, MASKED), jnp.where(where, targets, 0.0)
    return optax.losses.softmax_cross_entropy(logits, targets)


def info_nce(
    logits: Float[Array, "B N"],
    positives: Bool[Array, "B N"] | None = None,
    targets: Float[Array, "B N"] | None = None,
    smoothing: Scalar = 0.0,
    ignore: Bool[Array, "B N"] | None = None,
) -> Float[Array, " B"]:
    """InfoNCE of each row: cross-entropy of softmax(logits) against its positives (van den Oord et al. 2018).

    positives: default column i for row i (further columns, such as a queue, are negatives). Several share the target equally.
    targets:   soft target rows instead of positives; no gradient flows into them.
    ignore:    entries removed from the denominator; a positive is never removed.
    Raises ConfigError where both positives and targets are given, or fewer columns than rows without either.
    """
    if targets is not None:
        if positives is not None:
            raise ConfigError("info_nce takes positives or targets, not both; smooth and mix the targets beforehand")
        return cross_entropy(logits, jax.lax.stop_gradient(targets), None if ignore is None else ~ignore)
    if positives is None:
        rows, columns = logits.shape
        if columns < rows:
            raise ConfigError(f"info_nce: {rows} rows need at least as many columns, found {columns}; give positives")
        positives = jnp.eye(rows, columns, dtype=bool)
    kept = None if ignore is None else ~ignore | positives
    return cross_entropy(logits, targets_from_positives(positives, smoothing, kept), kept)


def distribution_matching(
    logits: Float[Array, "B N"],
    positives: Bool[Array, "B N"] | Float[Array, "B N"],
    eps: float = 1e-8,
    unit: bool = False,
) -> Float[Array, " B"]:
    """KL(softmax(logits) || q) of each row, q = positives / sum (SDM, Jiang and Ye 2023, equation 3; CMPM, Zhang and Lu 2018, equation 4).

    A reverse KL: similarity outside of the positives costs up to -log(eps) per unit of probability.
    positives: several a row, or weights at least 0.   eps: added to q within the logarithm.
    unit: divide positives by their L2 norm, as the released code of CMPM does; with several positives q does not sum to one then.
    """
    q = positives.astype(jnp.float32)
    q /= jnp.maximum(jnp.linalg.norm(q, axis=-1, keepdims=True) if unit else q.sum(-1, keepdims=True), eps)
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    return (jnp.exp(log_p) * (log_p - jnp.log(q + eps))).sum(-1)


def symmetric_among(logits: Float[Array, "B B"], here: Bool[Array, " B"], true: Bool[Array, "B B"]) -> Float[Array, ""]:
    """Half the mean over both directions of InfoNCE among the rows that `here` keeps, as rows and as columns; 0 without a row.

    true: other true pairs, which are no negatives.
    """
    own = jnp.eye(len(logits), dtype=bool)
    both = [info_nce(x, ignore=(other | ~here[None]) & ~own) for x, other in ((logits, true), (logits.T, true.T))]
    return 0.5 * masked_mean(both[0] + both[1], here)


def symmetric_info_nce_of_logits(
    logits_xy: Float[Array, "B B"],
    logits_yx: Float[Array, "B B"],
    ids: Int[Array, " B"] | None = None,
    smoothing: Scalar = 0.0,
    multi_positive: bool = False,
    true: Bool[Array, "B B"] | None = None,
) -> Float[Array, " B"]:
    """Half the sum of both directions, for two matrices that need not be transposes: rows of `logits_yx` are the y side.

    ids: as in `symmetric_info_nce`.   true: in place of ids, the pairs (x, y) that are true; those beside the diagonal are no negatives.
    """
    positives = jnp.eye(logits_xy.shape[0], dtype=bool)
    ignore = None if true is None else true & ~positives
    if ids is not None and multi_positive:
        positives = same_id(ids, ids)
    elif ids is not None:
        ignore = false_negatives(ids, ids, positives)
    elif multi_positive:
        raise ConfigError(NEEDS_IDS)
    x_to_y = info_nce(logits_xy, positives, smoothing=smoothing, ignore=ignore)
    ignore = None if ignore is None else ignore.T
    return 0.5 * (x_to_y + info_nce(logits_yx, positives, smoothing=smoothing, ignore=ignore))


def dot_products(shared: dict[str, Array], rows: Side, columns: Side, own: Array) -> tuple[Array, Array]:
    """scale * x y^T + bias of a block, for `mmrep.losses.blocks.contrast`."""
    s = shared["scale"] * similarity(rows.vectors, columns.vectors) + shared.get("bias", 0.0)
    return s, s


def symmetric_info_nce(
    x: Float[Array, "B D"],
    y: Float[Array, "B D"],
    scale: Scalar,
    ids: Int[Array, " B"] | None = None,
    smoothing: Scalar = 0.0,
    multi_positive: bool = False,
    blocks: Blocks | None = None,
) -> Float[Array, " B"]:
    """CLIP's loss: half the sum of InfoNCE(x -> y) and InfoNCE(y -> x) on scale * x y^T (Radford et al. 2021).

    x, y: unit rows, pairs aligned.   scale: 1 / temperature.
    ids:  rows that share an id are ignored as negatives, or with `multi_positive` are positives.
    blocks: None compares all pairs at once. With blocks, `smoothing` must be a Python number.
    """
    if blocks is not None:
        if multi_positive and ids is None:
            raise ConfigError(NEEDS_IDS)
        if not isinstance(smoothing, int | float):
            raise ConfigError("symmetric_info_nce: with blocks, smoothing must be a Python number")
        x_to_y, y_to_x = contrast(
            dot_products, Softmax(smoothing), {"scale": scale}, side(x, ids), side(y, ids), blocks,
            multi_positive=multi_positive,
        )  # fmt: skip
        return 0.5 * (x_to_y + y_to_x)
    logits = scale * similarity(x, y)
    return symmetric_info_nce_of_logits(logits, logits.T, ids, smoothing, multi_positive)


def nt_xent(
    x: Float[Array, "B D"],
    y: Float[Array, "B D"],
    scale: Scalar,
    within: Scalar = 1.0,
    ids: Int[Array, " B"] | None = None,
    valid: Bool[Array, " B"] | None = None,
) -> Float[Array, " B"]:
    """SimCLR's loss (Chen et al. 2020): rows of both sides are anchors, and an anchor's negatives are the other rows of both sides.

    Returns the mean of each pair's two anchors. An anchor is no candidate of its own.
    x, y: unit rows, pairs aligned.   scale: 1 / temperature.   within: factor of the logits between rows of one side (M3EL: 0.8).
    ids: rows that share an id are ignored as negatives.   valid: pairs that are there; the others are no negatives.
    """
    own = jnp.eye(len(x), dtype=bool)
    alike = own if ids is None else same_id(ids, ids)
    alike = alike if valid is None else alike | ~valid[None]
    positives = jnp.concatenate([own, jnp.zeros_like(own)], axis=1)
    ignore = jnp.concatenate([alike & ~own, alike], axis=1)

    def of(anchors: Array, others: Array) -> Array:
        logits = scale * jnp.concatenate([similarity(anchors, others), within * similarity(anchors, anchors)], axis=1)
        return info_nce(logits, positives, ignore=ignore)

    return 0.5 * (of(x, y) + of(y, x))


def pairwise_info_nce(
    embeddings: Sequence[Float[Array, "B D"]],
    scale: Scalar,
    pairs: Sequence[tuple[int, int]] | None = None,
    smoothing: Scalar = 0.0,
    blocks: Blocks | None = None,
) -> Float[Array, " B"]:
    """CLIP for M modalities: the sum of `symmetric_info_nce` over all pairs, or over `pairs` of their indices.

    Raises ConfigError for fewer than two modalities.
    """
    if len(embeddings) < 2:
        raise ConfigError(f"pairwise_info_nce needs at least 2 modalities, found {len(embeddings)}")
    chosen = combinations(range(len(embeddings)), 2) if pairs is None else pairs
    terms = (
        symmetric_info_nce(embeddings[a], embeddings[b], scale, smoothing=smoothing, blocks=blocks) for a, b in chosen
    )
    return sum(terms, jnp.float32(0.0))


def sigmoid_loss(
    logits: Float[Array, "B N"],
    positives: Bool[Array, "B N"] | None = None,
    ignore: Bool[Array, "B N"] | None = None,
) -> Float[Array, " B"]:
    """SigLIP: binary cross-entropy of every entry, summed over the row (Zhai et al. 2023, equation 1).

    logits: scale * cosine + bias.   positives: default column i for row i.   ignore: entries left out of the sum, unless positive.
    """
    if positives is None:
        positives = jnp.eye(logits.shape[0], logits.shape[1], dtype=bool)
    logits = logits.astype(jnp.float32)
    values = jax.nn.softplus(jnp.where(positives, -logits, logits))
    if ignore is not None:
        values = jnp.where(ignore & ~positives, 0.0, values)
    return values.sum(-1)


def sigmoid_pairs(
    x: Float[Array, "B D"],
    y: Float[Array, "B D"],
    scale: Scalar,
    bias: Scalar,
    ids: Int[Array, " B"] | None = None,
    multi_positive: bool = False,
    blocks: Blocks | None = None,
) -> Float[Array, " B"]:
    """SigLIP's loss of aligned unit rows: `sigmoid_loss` of scale * x y^T + bias.

    ids: rows that share an id are ignored as negatives, or with `multi_positive` are positives.   blocks: None: all pairs at once.
    """
    if multi_positive and ids is None:
        raise ConfigError(NEEDS_IDS)
    if blocks is not None:
        return contrast(
            lambda *of: (dot_products(*of)[0], None), Sigmoid(), {"scale": scale, "bias": bias},
            side(x, ids), side(y, ids), blocks, both=False, multi_positive=multi_positive,
        )[0]  # fmt: skip
    own = jnp.eye(len(x), dtype=bool)
    alike = own if ids is None else same_id(ids, ids)
    logits = scale * similarity(x, y) + bias
    return sigmoid_loss(logits, alike) if multi_positive else sigmoid_loss(logits, own, alike)
