"""The continuously weighted contrastive loss (Srinivasa et al. 2023)."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mmrep.errors import ConfigError
from mmrep.losses.blocks import Blocks, Side, Softmax, contrast, side
from mmrep.losses.contrastive import Scalar, dot_products, info_nce, similarity

Geometry = tuple[Float[Array, "B D"], Float[Array, "B D"]]


def intra_modal_weights(
    rows: Float[Array, "B D"], columns: Float[Array, "N D"] | None = None, kernel: float | None = None
) -> Float[Array, "B N"]:
    """w_ij = <p_i, p_j> / 2 + 1/2, in [0, 1], from unit rows of the frozen modality (equation 4); without gradient.

    columns: None: the rows themselves, and w_ii = 1 exactly.   kernel: t for exp((<p_i, p_j> - 1) / t) instead.
    """
    cosine = jnp.clip(similarity(rows, rows if columns is None else columns), -1.0, 1.0)
    w = cosine / 2 + 0.5 if kernel is None else jnp.exp((cosine - 1.0) / kernel)
    if columns is None:
        w = jnp.where(jnp.eye(len(rows), dtype=bool), 1.0, w)
    return jax.lax.stop_gradient(w)


def weighted_info_nce(
    logits: Float[Array, "B B"], weights: Float[Array, "B B"], ignore: Bool[Array, "B B"] | None = None
) -> Float[Array, " B"]:
    """L_cw: cross-entropy against each row's weights over their sum (equation 3); `ignore`d entries leave both."""
    kept = weights if ignore is None else jnp.where(ignore, 0.0, weights)
    targets = kept / jnp.maximum(kept.sum(-1, keepdims=True), 1e-12)
    return info_nce(logits, targets=targets, ignore=ignore)


def cwcl_loss(
    p: Float[Array, "B D"],
    q: Float[Array, "B D"],
    scale: Scalar,
    geometry: Geometry | None = None,
    kernel: float | None = None,
    valid: Bool[Array, " B"] | None = None,
    blocks: Blocks | None = None,
) -> Float[Array, " B"]:
    """L_cw + L_cl of each pair (equations 3 and 5): p -> q against intra-modal weights, q -> p against the pair alone.

    p, q: unit rows of the frozen and of the trained modality.   scale: 1 / temperature.
    geometry: (rows, columns) whose cosines are the weights, (p, p) in the paper; the pair's own weight is 1 whatever they are. None: no
              weight but the pair's own, which is twice the symmetric InfoNCE.   kernel: see `intra_modal_weights`.
    valid:    pairs that count; the others leave rows and columns, and are 0.   blocks: None: all pairs at once.
    Raises ConfigError for fewer than two pairs.
    """
    if len(p) < 2:
        raise ConfigError(f"cwcl_loss: {len(p)} pair has no negatives; give data.batch_size of at least 2")
    known = jnp.ones(len(p), bool) if valid is None else valid
    if blocks is None:
        own, ignore = jnp.eye(len(p), dtype=bool), ~(known[:, None] & known[None, :])
        weights = own.astype(jnp.float32)
        if geometry is not None:
            weights = jnp.where(own, 1.0, intra_modal_weights(*geometry, kernel))
        logits = scale * similarity(p, q)
        both = weighted_info_nce(logits, weights, ignore) + info_nce(logits.T, ignore=ignore)
        return jnp.where(known, both, 0.0)

    def weights_of_block(shared: Any, rows: Side, columns: Side, own: Array) -> tuple[Array | None, None]:
        if geometry is None:
            return None, None
        return jnp.where(own, 1.0, intra_modal_weights(rows.aux, columns.aux, kernel)), None

    position = jnp.where(known, jnp.arange(len(p), dtype=jnp.int32), -1)
    rows, columns = geometry or (None, None)
    to_q, to_p = contrast(
        dot_products, Softmax(), {"scale": scale}, side(p, aux=rows, position=position), side(q, aux=columns, position=position),
        blocks, targets=weights_of_block,
    )  # fmt: skip
    return jnp.where(known, to_q + to_p, 0.0)
