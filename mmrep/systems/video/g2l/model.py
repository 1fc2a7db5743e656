"""G2L's proposal map, geodesic distances and losses (Li et al. 2023, section 3)."""

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from mmrep.losses.blocks import MASKED
from mmrep.losses.games import interactions
from mmrep.losses.reduce import masked_mean
from mmrep.nn.encoders.text import TextEncoder
from mmrep.nn.heads import l2_normalise
from mmrep.nn.norms import layer_norm
from mmrep.nn.spans import proposals

Positives: TypeAlias = Literal["geodesic", "cosine", "anchor", "random"]


def max_map(x: Float[Array, "B N D"], cells: Int[np.ndarray, "P 2"]) -> Float[Array, "B N N D"]:
    """Cell (i, j) is the maximum over clips i to j, for the proposals `cells`; the other cells are 0 (2D-TAN's sparse map)."""
    b, n, d = x.shape
    grid, run = jnp.zeros((b, n, n, d), x.dtype), x
    for length in range(1, n + 1):
        if length > 1:
            run = jnp.maximum(run[:, : n - length + 1], x[:, length - 1 :])
        first = cells[cells[:, 1] - cells[:, 0] == length - 1, 0]
        if len(first):
            grid = grid.at[:, first, first + length - 1].set(run[:, first])
    return grid


class Proposals(nn.Module):
    """Clip features [B,T,E] -> contrastive and IoU features of the proposals, [B,P,dim] each.

    `clips` averages of the clips in equal parts, a max map, `layers` convolutions of `kernel` whose outputs are divided by the number of
    valid cells they cover, and a linear map for each head. GroupNorm replaces the authors' BatchNorm.
    """

    clips: int
    counts: tuple[int, ...]
    dim: int
    width: int
    kernel: int
    layers: int

    @nn.compact
    def __call__(
        self, features: Float[Array | np.ndarray, "B T E"]
    ) -> tuple[Float[Array, "B P D"], Float[Array, "B P D"]]:
        b, t, _ = features.shape
        x = nn.relu(nn.Dense(self.width, name="embed")(jnp.asarray(features)))
        x = x.reshape(b, self.clips, t // self.clips, -1).mean(2)
        cells = proposals(self.clips, self.counts)
        x = max_map(x, cells)
        valid = np.zeros((self.clips, self.clips))
        valid[tuple(cells.T)] = 1
        around = (self.kernel - 1) * self.layers // 2
        x, valid = (jnp.pad(x, ((0, 0), (around,) * 2, (around,) * 2, (0, 0))), np.pad(valid, around))
        for i in range(self.layers):
            x = nn.Conv(self.width, (self.kernel,) * 2, padding="VALID", name=f"conv{i}")(x)
            x = nn.relu(nn.GroupNorm(num_groups=min(8, self.width), name=f"norm{i}")(x))
            near = np.lib.stride_tricks.sliding_window_view(valid, (self.kernel,) * 2).sum((2, 3))
            valid = (near > 0).astype(np.float64)
            x = x * jnp.asarray(valid / np.maximum(near, 1), x.dtype)[..., None]
        x = x[:, cells[:, 0], cells[:, 1]]
        return nn.Dense(self.dim, name="contrast")(x), nn.Dense(self.dim, name="iou")(x)


class Sentences(nn.Module):
    """Ids [B,G,L] -> contrastive and IoU features of the sentences, [B,G,dim] each: the encoder's pooled text, LayerNorm, a linear map."""

    text: TextEncoder
    dim: int

    @nn.compact
    def __call__(self, ids: Int[Array | np.ndarray, "B G L"]) -> tuple[Float[Array, "B G D"], Float[Array, "B G D"]]:
        pooled, _ = self.text.module(jnp.float32, "encoder")(jnp.asarray(ids).reshape(-1, ids.shape[-1]))
        x = layer_norm(jnp.float32, "norm")(pooled).reshape(*ids.shape[:2], -1)
        return nn.Dense(self.dim, name="contrast")(x), nn.Dense(self.dim, name="iou")(x)


def geodesic(
    features: Float[Array, "P D"], anchors: Int[Array, " G"], k: int = 5, limit: float = 0.5, steps: int = 8
) -> Float[Array, "G P"]:
    """1 - distance of every proposal from each anchor on the graph of k nearest neighbours; 0 beyond `limit`, 1 for the anchor.

    Neighbours are Euclidean, of unnormalised features; an edge from a proposal to a neighbour has length 1 - cosine, also where both are
    equal (length 0). Paths have up to `steps` edges. No gradient.
    """
    x = jax.lax.stop_gradient(features.astype(jnp.float32))
    n = len(x)
    square = ((x[:, None] - x[None]) ** 2).sum(-1) + jnp.where(jnp.eye(n, dtype=bool), jnp.inf, 0.0)
    near = jax.lax.top_k(-square, min(k, n - 1))[1]
    unit = l2_normalise(x)
    length = jnp.maximum(1.0 - jnp.take_along_axis(unit @ unit.T, near, 1), 0.0)
    edges = jnp.full((n, n), jnp.inf).at[jnp.arange(n)[:, None], near].set(length)
    start = jnp.where(jax.nn.one_hot(anchors, n, dtype=bool), 0.0, jnp.inf)

    def step(d: Float[Array, "G P"], _: None) -> tuple[Float[Array, "G P"], None]:
        return jnp.minimum(d, (d[:, :, None] + edges).min(1)), None

    d = jax.lax.scan(step, start, None, length=steps)[0]
    return jnp.where(d <= limit, 1.0 - d, 0.0)


def iou_loss(
    logits: Float[Array, "B G P"], overlap: Float[Array, "B G P"], valid: Bool[Array, "B G"], low: float = 0.5
) -> Float[Array, ""]:
    """Binary cross-entropy of sigmoid(10 cos) with the target clip((IoU - low) / (1 - low), 0, 1), over valid sentences and proposals."""
    target = jnp.clip((overlap - low) / (1 - low), 0, 1)
    values = jax.nn.softplus(logits) - target * logits
    return masked_mean(values, valid[..., None])


def video_loss(
    anchors: Float[Array, "S D"],
    sentences: Float[Array, "S D"],
    kept: Bool[Array, "S S"],
    margin: float = 0.3,
    tau: float = 0.1,
) -> Float[Array, " S"]:
    """L_vid: each sentence's best proposal against the sentences of the batch that `kept` names (its own is always kept), with a margin."""
    cosine = anchors @ sentences.T
    own = jnp.eye(len(cosine), dtype=bool)
    logits = jnp.where(kept | own, (cosine - margin * own) / tau, MASKED)
    return jax.nn.logsumexp(logits, axis=1) - jnp.diagonal(logits)


def sentence_loss(
    cosine: Float[Array, "S Q"], weights: Float[Array, "S Q"], negatives: Bool[Array, "S Q"], tau: float = 0.1
) -> Float[Array, " S"]:
    """L_sent: each sentence against all proposals of the batch: positives of weight w > 0 have logits log w + cos / tau.

    A proposal with a weight is no negative. The mean over a sentence's positives; 0 without any.
    """
    positive = weights > 0
    logits = cosine / tau + jnp.log(jnp.where(positive, weights, 1.0))
    log_z = jax.nn.logsumexp(jnp.where(positive | negatives, logits, MASKED), axis=1, keepdims=True)
    return masked_mean(log_z - logits, positive, axis=1)


def sim_score(
    a: Float[Array, "*c S M"], sentences: Bool[Array, "*c S"], moments: Bool[Array, "*c M"]
) -> Float[Array, "*c"]:
    """(mean over moments of the best sentence + mean over sentences of the best moment) / 2 on the row softmax of a, among those present.

    0 where either side is empty.
    """
    here = sentences[..., :, None] & moments[..., None, :]
    p = jnp.where(here, jax.nn.softmax(jnp.where(moments[..., None, :], a, MASKED), axis=-1), 0.0)
    return 0.5 * (masked_mean(p.max(-2), moments, axis=-1) + masked_mean(p.max(-1), sentences, axis=-1))


def shapley_loss(a: Float[Array, "S M"], valid: Bool[Array, " S"]) -> Float[Array, ""]:
    """L_sa: -(S / M) sum_ij I_ij log A_ij, with A the row softmax of a and I the interactions of sentence i and moment j, of unit norm.

    The target I has no gradient.
    """
    s, m = a.shape
    pairs = np.stack(np.meshgrid(np.arange(s), s + np.arange(m), indexing="ij"), -1).reshape(-1, 2)

    def value(mask: Bool[Array, "C P"]) -> Float[Array, " C"]:
        return sim_score(jnp.broadcast_to(a, (len(mask), s, m)), mask[:, :s] & valid, mask[:, s:])

    found = jax.lax.stop_gradient(interactions(value, s + m, pairs, "rest")).reshape(s, m)
    found = jnp.where(valid[:, None], found, 0.0)
    found = found / jnp.maximum(jnp.linalg.norm(found), 1e-6)
    return -(valid.sum() / m) * (found * jnp.where(valid[:, None], jax.nn.log_softmax(a, axis=-1), 0.0)).sum()


def neighbours(
    positives: Positives, features: Float[Array, "P D"], anchors: Int[Array, " G"], count: int, k: int, rng: Any
) -> Float[Array, "G P"]:
    """Weights in [0, 1] of the `count` proposals that count as positives of each anchor; 0 for the others.

    "cosine" and "random" are ablations: the nearest by cosine, or any; "anchor" is the anchor alone.
    """
    own = jax.nn.one_hot(anchors, len(features))
    if positives == "anchor":
        return own
    if positives == "geodesic":
        g = geodesic(features, anchors, k)
    elif positives == "cosine":
        unit = l2_normalise(jax.lax.stop_gradient(features))
        g = jnp.maximum(unit[anchors] @ unit.T, 0.0)
    else:
        g = jnp.maximum(jax.random.uniform(rng, own.shape, minval=0.5), own)
    least = jax.lax.top_k(g, count)[0][:, -1:]
    return jnp.where(g >= least, g, 0.0)


def spans_of(clips: int, counts: Sequence[int]) -> Float[np.ndarray, "P 2"]:
    """Start and end of the proposals, as shares of the video: clip j ends at (j + 1) / N."""
    return ((proposals(clips, counts) + np.array([0, 1])) / clips).astype(np.float32)
