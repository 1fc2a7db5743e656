"""MGCA's losses: whole radiographs and reports, their tokens, and prototypes (Wang et al. 2022, sections 3.2 to 3.4)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mmrep.losses.blocks import MASKED
from mmrep.losses.contrastive import cross_entropy, similarity, symmetric_info_nce
from mmrep.nn.heads import l2_normalise


def ita_loss(v: Float[Array, "B D"], t: Float[Array, "B D"], scale: float) -> Float[Array, " B"]:
    """Instance-wise alignment (equations 1 to 3): the sum of both directions' InfoNCE of unit rows."""
    return 2 * symmetric_info_nce(v, t, scale)


def attended(
    x: Float[Array, "B N D"], y: Float[Array, "B M D"], valid_y: Bool[Array, "B M"], temperature: float
) -> Float[Array, "B N D"]:
    """For each token of x the mean of y's valid tokens, weighted by the softmax of their dot products over `temperature`."""
    s = jnp.einsum("bnd,bmd->bnm", x, y, precision=jax.lax.Precision.HIGHEST) / temperature
    weights = jax.nn.softmax(jnp.where(valid_y[:, None], s, MASKED), axis=-1)
    return jnp.einsum("bnm,bmd->bnd", weights, y, precision=jax.lax.Precision.HIGHEST)


def token_contrast(
    x: Float[Array, "B N D"],
    y: Float[Array, "B M D"],
    valid_x: Bool[Array, "B N"],
    valid_y: Bool[Array, "B M"],
    temperature: float,
    weights: Float[Array, "B N"] | None = None,
    normalise: bool = True,
    mask_columns: bool = True,
) -> Float[Array, " B"]:
    """Cross-attention alignment of one side (equations 4 to 7): each token of x and what it attends to in y, against the other tokens of
    the same example, both directions.

    x, y: unit tokens.   weights: of x's tokens, sum 1; uniform over the valid ones unless given (the authors take those of the class
    token's attention, clipped).   normalise: what is attended to has unit length (the authors' words; their patches of a ResNet, not of a ViT).
    mask_columns: padding is no negative; False is the authors' way.
    """
    c = attended(x, y, valid_y, temperature)
    c = l2_normalise(c) if normalise else c
    s = jnp.einsum("bnd,bmd->bnm", x, c, precision=jax.lax.Precision.HIGHEST) / temperature
    n = x.shape[1]
    kept = jnp.broadcast_to(valid_x[:, None] if mask_columns else True, s.shape).reshape(-1, n)
    own = jnp.tile(jnp.eye(n), (len(x), 1))
    both = [cross_entropy(m.reshape(-1, n), own, kept | (own > 0)) for m in (s, s.swapaxes(1, 2))]
    each = (both[0] + both[1]) / 2
    if weights is None:
        weights = valid_x / jnp.maximum(valid_x.sum(1, keepdims=True), 1)
    return (each.reshape(len(x), n) * weights).sum(1)


def cta_loss(
    patches: Float[Array, "B N D"],
    words: Float[Array, "B M D"],
    valid: Bool[Array, "B M"],
    temperature: float,
    bidirectional: bool = True,
    normalise_patches: bool = False,
    patch_weights: Float[Array, "B N"] | None = None,
    word_weights: Float[Array, "B M"] | None = None,
    mask_columns: bool = True,
) -> Float[Array, " B"]:
    """Token-wise alignment (equation 8): the sum of `token_contrast` of words over patches and, if `bidirectional`, of patches over words."""
    all_of = jnp.ones(patches.shape[:2], bool)
    of_words = token_contrast(words, patches, valid, all_of, temperature, word_weights, True, mask_columns)
    if not bidirectional:
        return of_words
    return of_words + token_contrast(patches, words, all_of, valid, temperature, patch_weights, normalise_patches)


def sinkhorn(scores: Float[Array, "B K"], epsilon: float = 0.05, iterations: int = 3) -> Float[Array, "B K"]:
    """Soft assignments of rows to columns with sum 1 a row and, the better the more iterations, equal sums of the columns; no gradient.

    Sinkhorn's iterations on exp(scores / epsilon) (Cuturi 2013; Caron et al. 2020, SwAV), in float32; the maximum is subtracted first.
    """
    z = jax.lax.stop_gradient(scores).astype(jnp.float32)
    q = jnp.exp((z - z.max()) / epsilon)
    q /= q.sum()
    for _ in range(iterations):
        q /= jnp.maximum(q.sum(0, keepdims=True), 1e-30) * q.shape[1]
        q /= jnp.maximum(q.sum(1, keepdims=True), 1e-30) * q.shape[0]
    return q / jnp.maximum(q.sum(1, keepdims=True), 1e-30)


def cpa_loss(
    z_v: Float[Array, "B K"], z_t: Float[Array, "B K"], temperature: float, epsilon: float = 0.05, iterations: int = 3
) -> Float[Array, " B"]:
    """Prototype alignment (equations 9 to 11): each modality predicts the other's assignment; half the sum of both directions.

    z: cosines to the prototypes.   temperature: of the predictions.   epsilon, iterations: of `sinkhorn`.
    """
    q_v, q_t = (sinkhorn(z, epsilon, iterations) for z in (z_v, z_t))
    return 0.5 * (cross_entropy(z_t / temperature, q_v) + cross_entropy(z_v / temperature, q_t))


def prototype_scores(x: Float[Array, "B D"], prototypes: Float[Array, "K D"]) -> Float[Array, "B K"]:
    """Cosines of unit rows to the prototypes."""
    return similarity(x, l2_normalise(prototypes))
