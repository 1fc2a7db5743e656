"""VideoLights' losses: spans after the matching, saliency of clips, alignment of queries with words. Saliency labels are in [0, 1]."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mmrep.losses.reduce import masked_mean
from mmrep.nn.heads import l2_normalise
from mmrep.nn.set_prediction import match
from mmrep.nn.spans import generalised_iou, to_centre_width, to_ends

LEVELS = 12
"""Three annotators' scores of 0 to 4, summed: the levels of a saliency label."""


def cost(
    spans: Float[Array, "B Q 2"], logits: Float[Array, "B Q 2"], moments: Float[Array, "B G 2"]
) -> Float[Array, "B Q G"]:
    """10 L1 - gIoU - 4 p(foreground). spans: (centre, width); moments: (start, end); class 0 is the foreground."""
    p = jax.nn.softmax(logits, -1)[..., :1]
    l1 = jnp.abs(spans[:, :, None] - to_centre_width(moments)[:, None]).sum(-1)
    return 10 * l1 - generalised_iou(to_ends(spans)[:, :, None], moments[:, None]) - 4 * p


def matched(
    spans: Float[Array, "B Q 2"], logits: Float[Array, "B Q 2"], moments: Float[Array, "B G 2"], background: float = 0.1
) -> tuple[Float[Array, ""], Float[Array, ""], Float[Array, ""], Bool[Array, "B Q"]]:
    """(L1, 1 - gIoU, cross-entropy of the classes with weight `background`, queries that have a moment).

    Moments without length are padding.
    """
    valid = moments[..., 1] > moments[..., 0]
    chosen, taken = match(cost(spans, logits, moments), valid)
    found = jnp.take_along_axis(spans, chosen[..., None], 1)
    l1 = masked_mean(jnp.abs(found - to_centre_width(moments)), valid[..., None])
    giou = masked_mean(1 - generalised_iou(to_ends(found), moments), valid)
    log_p = jax.nn.log_softmax(logits, -1)
    return l1, giou, -jnp.where(taken, log_p[..., 0], background * log_p[..., 1]).mean(), taken


def query_align(
    queries: Float[Array, "B Q E"], words: Float[Array, "B L E"], valid: Bool[Array, "B L"], taken: Bool[Array, "B Q"], tau: float = 0.07
) -> Float[Array, ""]:  # fmt: skip
    """-(mean logit of the matched queries) + logsumexp over all; a query's logit is the sum over the words of q' w / tau. Unit vectors."""
    logits = jnp.where(valid[:, None], jnp.einsum("bqe,ble->bql", queries, words), 0.0).sum(-1) / tau
    return masked_mean(jax.nn.logsumexp(logits, -1) - masked_mean(logits, taken, axis=-1), taken.any(-1))


def pairs(
    labels: Float[Array, "B T"], valid: Bool[Array, "B T"], rng: Any
) -> tuple[Int[Array, "B 2"], Int[Array, "B 2"]]:
    """(clips that should score higher, lower ones): the best and the worst relevant clip, and a random clip inside and outside.

    Clips with a label above 0 are relevant. Without a clip outside, the first pair stands twice.
    """
    inside, outside = valid & (labels > 0), valid & (labels <= 0)
    u = jax.random.uniform(rng, labels.shape)
    pick = lambda where, score: jnp.where(where, score, -1.0).argmax(1)  # noqa: E731
    best, worst = pick(inside, labels), pick(inside, 1 - labels)
    other = outside.any(1)
    easy = jnp.where(other, pick(inside, u), best), jnp.where(other, pick(outside, u), worst)
    return jnp.stack([best, easy[0]], 1), jnp.stack([worst, easy[1]], 1)


def margin_loss(
    scores: Float[Array, "B T"], higher: Int[Array, "B P"], lower: Int[Array, "B P"], margin: float = 0.2
) -> Float[Array, ""]:
    """2 / (B P) sum of [margin + s_lower - s_higher]_+."""
    s = [jnp.take_along_axis(scores, at, 1) for at in (lower, higher)]
    return 2 * jnp.maximum(margin + s[0] - s[1], 0.0).mean()


def rank_loss(
    scores: Float[Array, "B T"], mismatched: Float[Array, "B T"], labels: Float[Array, "B T"], valid: Bool[Array, "B T"], tau: float = 0.5
) -> Float[Array, ""]:  # fmt: skip
    """Mean over the levels of the contrast of clips at or above a level with all others, those of the mismatched text (label 0) too."""
    logits = jnp.where(jnp.tile(valid, (1, 2)), jnp.concatenate([scores, mismatched], 1), -1e3 * tau) / tau
    log_p = jax.nn.log_softmax(logits, 1)[:, : scores.shape[1]]
    level = jnp.round(LEVELS * labels)
    of = lambda r: masked_mean(-log_p, valid & (level >= r), axis=1).mean()  # noqa: E731
    return jax.vmap(of)(jnp.arange(1, LEVELS)).sum() / LEVELS


def negative_loss(mismatched: Float[Array, "B T"], valid: Bool[Array, "B T"]) -> Float[Array, ""]:
    """-log(1 - sigmoid(s)) of the clips with another record's text, summed over the clips."""
    return jnp.where(valid, jax.nn.softplus(mismatched), 0.0).sum(1).mean()


def shifted(scores: Float[Array, "B T"], valid: Bool[Array, "B T"]) -> Float[Array, "B T"]:
    """Scores minus the batch's smallest, of unit length over a video's clips: the authors' division by the labels' range cancels."""
    least = jnp.where(valid, scores, jnp.inf).min()
    return l2_normalise(jnp.where(valid, scores - least, 0.0))


def cosine_loss(
    scores: Float[Array, "B T"], labels: Float[Array, "B T"], valid: Bool[Array, "B T"]
) -> Float[Array, ""]:
    """Sum over the batch of 1 - cosine of `shifted` scores and labels."""
    return (1 - (shifted(scores, valid) * l2_normalise(labels)).sum(1)).sum()


def hard_loss(scores: Float[Array, "B T"], labels: Float[Array, "B T"], valid: Bool[Array, "B T"]) -> Float[Array, ""]:
    """Squared error of `shifted` scores and unit labels, of irrelevant and of relevant clips: means over all clips, added."""
    return ((shifted(scores, valid) - l2_normalise(labels)) ** 2).mean()
