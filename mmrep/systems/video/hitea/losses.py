"""HiTeA's views and losses."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, Shaped

from mmrep.losses.contrastive import info_nce, similarity
from mmrep.losses.matching import hard_negatives
from mmrep.nn.heads import l2_normalise

Scalar = Float[Array, ""] | float


def moment_view(rng: PRNGKeyArray, video: Shaped[Array, "B T ..."], length: int) -> Shaped[Array, "B T ..."]:
    """The short view: `length` successive frames of each clip, from a random one on, stretched to the clip's length by repetition.

    A clip is never shorter than its moment: with `length` >= T the view is the clip itself.
    """
    steps = video.shape[1]
    start = jax.random.randint(rng, (video.shape[0],), 0, steps - min(length, steps) + 1)
    return moment_from(video, start, length)


def moment_from(video: Shaped[Array, "B T ..."], start: Int[Array, " #B"], length: int) -> Shaped[Array, "B T ..."]:
    """`moment_view` of the frames from `start` on, which is at most T - `length`."""
    steps = video.shape[1]
    at = start[:, None] + jnp.arange(steps) * min(length, steps) // steps
    return jnp.take_along_axis(jnp.asarray(video), at.reshape(*at.shape, *[1] * (video.ndim - 2)), axis=1)


def moments_around(video: Shaped[Array, "B T ..."], length: int) -> list[Shaped[Array, "B T ..."]]:
    """For each frame, the moment of `length` frames that has it in its middle, as far as the clip allows."""
    steps = video.shape[1]
    starts = [min(max(t - length // 2, 0), max(steps - length, 0)) for t in range(steps)]
    return [moment_from(video, jnp.array([start]), length) for start in starts]


def own_similarity(
    moments: Float[Array, "B D"], words: Float[Array, "B L D"], valid: Bool[Array, "B L"], temperature: float | None
) -> Float[Array, " B"]:
    """`moment_similarity` of each moment and its own text."""
    one = lambda m, w, v: moment_similarity(m[None], w[None], v[None], temperature)[0, 0]  # noqa: E731
    return jax.vmap(one)(moments, words, valid)


def contrast(
    x: Float[Array, "B D"], y: Float[Array, "B D"], scale: Scalar, same: Bool[Array, "B B"]
) -> Float[Array, " B"]:
    """Half the sum of InfoNCE of both directions; rows of the same text are no negatives of one another."""
    return cme_loss(similarity(x, y), scale, same)


def moment_similarity(
    moments: Float[Array, "B D"],
    words: Float[Array, "C L D"],
    valid: Bool[Array, "C L"],
    temperature: float | None,
) -> Float[Array, "B C"]:
    """Cosine of each moment and each text's words pooled by the moment's attention to them (CME).

    temperature: of the attention; None: the mean of the words. Words that are not `valid` (padding, BOS and EOS) are left out; a text
    without any word has the similarity 0.
    """
    scores = jnp.einsum("bd,cld->bcl", moments, words)
    scores = jnp.zeros_like(scores) if temperature is None else scores / temperature
    weights = jax.nn.softmax(jnp.where(valid[None], scores, jnp.finfo(jnp.float32).min), axis=-1) * valid[None]
    pooled = l2_normalise(jnp.einsum("bcl,cld->bcd", weights, words))
    return jnp.einsum("bd,bcd->bc", moments, pooled)


def cme_loss(similarities: Float[Array, "B B"], scale: Scalar, same: Bool[Array, "B B"]) -> Float[Array, " B"]:
    """Half the sum of the cross-entropies of moments -> texts and texts -> moments; equal texts are left out."""
    ignore, logits = same & ~jnp.eye(len(same), dtype=bool), scale * similarities
    return 0.5 * (info_nce(logits, ignore=ignore) + info_nce(logits.T, ignore=ignore.T))


def match_pairs(
    for_video: PRNGKeyArray,
    for_text: PRNGKeyArray,
    text: dict[str, Array],
    video: dict[str, Array],
    scale: Scalar,
    same: Bool[Array, "B B"],
) -> tuple[tuple[dict[str, Array], dict[str, Array]], Bool[Array, " N"], Bool[Array, " N"]]:
    """((texts, videos), is_match, which count) of 3 B pairs: the true ones, each text with a wrong video, each video with a wrong text.

    Wrong ones are drawn by their similarity (`hard_negatives`), never with the same text.
    """
    rows = jnp.arange(len(same))
    alike = jnp.argmax(same, axis=1)  # equal texts have one id
    logits = scale * similarity(text["vector"], video["vector"])
    video_idx, has_video = hard_negatives(for_video, logits, alike)
    text_idx, has_text = hard_negatives(for_text, logits.T, alike)
    at = jnp.concatenate([rows, rows, text_idx]), jnp.concatenate([rows, video_idx, rows])
    pairs = {k: v[at[0]] for k, v in text.items()}, {k: v[at[1]] for k, v in video.items()}
    kept = jnp.concatenate([jnp.ones(len(rows), bool), has_video, has_text])
    return pairs, jnp.arange(3 * len(rows)) < len(rows), kept


def mtre_loss(
    predicted_short: Float[Array, "B D"],
    short: Float[Array, "B D"],
    predicted_long: Float[Array, "B D"],
    long: Float[Array, "B D"],
    stop_gradient: bool = True,
) -> Float[Array, " B"]:
    """MTRE: 2 - 2 cos of the prediction from each view and the other view's fused vector, which gets no gradient; the mean of both."""

    def half(x: Array, y: Array) -> Array:
        y = jax.lax.stop_gradient(y) if stop_gradient else y
        return 2 - 2 * (l2_normalise(x) * l2_normalise(y)).sum(-1)

    return 0.5 * (half(predicted_short, long) + half(predicted_long, short))
