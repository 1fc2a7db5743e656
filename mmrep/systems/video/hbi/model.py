"""HBI's parts (Jin et al. 2023, section 3): the game of words and frames, its estimator, and the merging of tokens."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from mmrep.losses.blocks import MASKED
from mmrep.losses.games import interactions
from mmrep.losses.late_interaction import weighted_maxima
from mmrep.nn.norms import layer_norm


def masked_softmax(logits: Float[Array, "... N"], valid: Bool[Array, "... N"]) -> Float[Array, "... N"]:
    """Softmax over the valid entries; 0 elsewhere, and everywhere where there is none."""
    return jnp.where(valid, jax.nn.softmax(jnp.where(valid, logits, MASKED), axis=-1), 0.0)


def banzhaf(
    products: Float[Array, "n m"],
    words: Bool[Array, " n"],
    frames: Bool[Array, " m"],
    word_logits: Float[Array, " n"],
    frame_logits: Float[Array, " m"],
    samples: int | None = None,
    rng: PRNGKeyArray | None = None,
) -> Float[Array, "n m"]:
    """The Banzhaf interaction of each word with each frame; 0 for padding (section 3.2).

    Players are words and frames; the value of a coalition is the weighted token-wise interaction (WTI) of its members: half the sum of both
    directions' weighted maxima of `products`, with weights softmax(logits) over the members. One side empty: 0.
    samples: see `mmrep.losses.games.interactions`; None enumerates.
    """
    n, m = products.shape
    pairs = np.stack(np.meshgrid(np.arange(n), n + np.arange(m), indexing="ij"), -1).reshape(-1, 2)

    def value(mask: Bool[Array, "C P"]) -> Float[Array, " C"]:
        x, y = mask[:, :n] & words, mask[:, n:] & frames
        s = jnp.broadcast_to(products, (len(mask), n, m))
        forth = weighted_maxima(s, x, y, masked_softmax(word_logits, x))
        back = weighted_maxima(s.swapaxes(1, 2), y, x, masked_softmax(frame_logits, y))
        return 0.5 * (forth + back)

    found = interactions(value, n + m, pairs, samples=samples, rng=rng).reshape(n, m)
    return jnp.where(words[:, None] & frames, found, 0.0)


class Estimator(nn.Module):
    """Products of a matched pair, as a picture of one channel -> its interactions: convolution, attention with a residual, convolution.

    The attention has no scaling and no output map. It runs over all cells: padding has to be 0 in the products.
    use_bias: of the last convolution; a student's softmax cancels it.
    """

    width: int = 64
    use_bias: bool = True

    @nn.compact
    def __call__(self, products: Float[Array, "B n m"]) -> Float[Array, "B n m"]:
        b, n, m = products.shape
        x = nn.relu(nn.Conv(self.width, (3, 3), name="conv0")(products[..., None]))
        flat = x.reshape(b, n * m, self.width)
        q, k, v = (nn.Dense(self.width, use_bias=False, name=name)(flat) for name in ("query", "key", "value"))
        y = jax.nn.softmax(q @ k.swapaxes(1, 2), axis=-1) @ v
        return nn.Conv(1, (3, 3), use_bias=self.use_bias, name="conv1")(x + y.reshape(x.shape))[..., 0]


def cluster(
    x: Float[Array, "B N D"], valid: Bool[Array, "B N"], clusters: int, k: int = 3
) -> tuple[Int[Array, "B N"], Bool[Array, "B K"]]:
    """(each token's cluster, clusters that exist) by density peaks of k nearest neighbours (Du et al. 2016, DPC-KNN); no gradient.

    A centre has a high density and is far from any token of higher density. Padding is no centre: a row of fewer than `clusters` valid
    tokens has as many clusters as tokens.
    """
    x = jax.lax.stop_gradient(x.astype(jnp.float32))
    b, n, d = x.shape
    distance = jnp.sqrt(jnp.maximum(((x[:, :, None] - x[:, None]) ** 2).sum(-1), 0.0) / d)
    both = valid[:, :, None] & valid[:, None]
    longest = jnp.max(jnp.where(both, distance, 0.0), axis=(1, 2))[:, None]
    near = -jax.lax.top_k(-jnp.where(valid[:, None], distance, longest[..., None] + 1), min(k, n))[0]
    density = jnp.where(valid, jnp.exp(-(near**2).mean(-1)), 0.0)
    higher = (density[:, None] > density[:, :, None]) & both
    peak = jnp.min(jnp.where(higher, distance, longest[..., None]), axis=-1)
    score, centres = jax.lax.top_k(jnp.where(valid, peak * density, -1.0), clusters)
    exists = score >= 0
    to_centre = jnp.take_along_axis(distance, centres[:, None], axis=2)
    own = jnp.argmin(jnp.where(exists[:, None], to_centre, jnp.inf), axis=-1)
    at = jnp.where(exists, centres, n)  # out of range: dropped
    own = own.at[jnp.arange(b)[:, None], at].set(jnp.arange(clusters), mode="drop")
    return own, exists


def merge(
    x: Float[Array, "B N D"], weights: Float[Array, "B N"], own: Int[Array, "B N"], clusters: int
) -> Float[Array, "B K D"]:
    """The mean token of each cluster, weighted."""
    member = jax.nn.one_hot(own, clusters, dtype=jnp.float32) * weights[..., None]
    return jnp.einsum("bnk,bnd->bkd", member / (member.sum(1, keepdims=True) + 1e-6), x)


class TokenMerge(nn.Module):
    """Tokens merged to max(ceil(ratio * N), 1), which then attend to the unmerged ones; returns (tokens, which exist).

    The logits of attention get each key's score; exp of the score is a token's weight in its cluster. No MLP follows (as in the authors' code).
    """

    ratio: float
    heads: int = 8
    k: int = 3

    @nn.compact
    def __call__(
        self, x: Float[Array, "B N D"], valid: Bool[Array, "B N"]
    ) -> tuple[Float[Array, "B K D"], Bool[Array, "B K"]]:
        b, n, d = x.shape
        clusters = max(math.ceil(n * self.ratio), 1)
        x = jnp.where(valid[..., None], x, 0.0)
        x = layer_norm(jnp.float32, "norm")(x + nn.Conv(d, (3,), use_bias=False, name="conv")(x))
        score = nn.Dense(1, use_bias=False, name="score")(x)[..., 0]  # softmax cancels a bias
        own, exists = cluster(x, valid, clusters, self.k)
        merged = merge(x, jnp.where(valid, jnp.exp(score), 0.0), own, clusters)
        norm = layer_norm(jnp.float32, "norm_attention")
        split = lambda y: y.reshape(b, -1, self.heads, d // self.heads)  # noqa: E731
        q = split(nn.Dense(d, name="query")(norm(merged)))
        key, value = (split(nn.Dense(d, use_bias=name == "value", name=name)(norm(x))) for name in ("key", "value"))
        logits = jnp.einsum("bqhe,bkhe->bhqk", q, key) * (d // self.heads) ** -0.5 + score[:, None, None]
        weights = masked_softmax(logits, valid[:, None, None])
        y = jnp.einsum("bhqk,bkhe->bqhe", weights, value).reshape(b, clusters, d)
        return merged + nn.Dense(d, name="out")(y), exists


class TokenWeights(nn.Module):
    """A logit for each token, by a perceptron with a hidden layer of twice the width."""

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"]) -> Float[Array, "B N"]:
        return nn.Dense(1, use_bias=False, name="out")(nn.relu(nn.Dense(2 * x.shape[-1], name="hidden")(x)))[..., 0]


def kl(student: Float[Array, "... N"], teacher: Float[Array, "... N"]) -> Float[Array, ""]:
    """KL(softmax(teacher) || softmax(student)) over the last axis, divided by the number of all elements (the authors' reduction)."""
    log_t = jax.nn.log_softmax(teacher, axis=-1)
    return (jnp.exp(log_t) * (log_t - jax.nn.log_softmax(student, axis=-1))).mean()


def interaction_loss(student: Float[Array, "B n m"], teacher: Float[Array, "B n m"]) -> Float[Array, ""]:
    """L_I: `kl` over frames and over words. The authors' second softmax runs over the batch, an oversight of a transposition."""
    return kl(student, teacher) + kl(student.swapaxes(1, 2), teacher.swapaxes(1, 2))


def both_valid(products: Any, words: Bool[Array, "B n"], frames: Bool[Array, "B m"]) -> Any:
    """The entries of valid words and frames; 0 elsewhere."""
    return jnp.where(words[:, :, None] & frames[:, None], products, 0.0)
