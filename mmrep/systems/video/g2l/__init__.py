"""G2L: moments of a video found by sentences, with geodesic neighbours as positives (Li et al. 2023, arXiv 2307.14277).

Section 3.1, map of proposals and IoU score              model.Proposals, Sentences, iou_loss
Section 3.2, geodesic distance on the neighbour graph    model.geodesic
Section 3.2, geodesic-guided contrast                    model.video_loss, sentence_loss
Section 3.3, semantic Shapley interaction                model.sim_score, shapley_loss, mmrep.losses.games.interactions
Section 3.4, score at test and suppression               Config.build, mmrep.nn.spans.nms

Deviations from the released code: GroupNorm for BatchNorm; same-video logits are not exponentiated a second time; signs of the interaction
as in the paper; duplicates are edges of length 0, which a sparse matrix drops. The released "hard" variant of L_sent is not here.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from mmrep.errors import ConfigError, check_fields
from mmrep.losses.reduce import masked_mean
from mmrep.nn.encoders.text import TextEncoder
from mmrep.nn.heads import l2_normalise
from mmrep.nn.spans import iou, nms
from mmrep.system import Batch, Extras, Metrics, Params, System, stateless
from mmrep.systems.video.g2l import model
from mmrep.systems.video.g2l.model import Positives


@dataclass(frozen=True)
class Config:
    """A batch has video [B, T, E] (features of clips), sentence [B, G, L] and moment [B, G, 2] (start and end, shares of the video).

    A sentence whose moment has no length is padding.
    clips:     N of the map; it divides T.   counts: see `mmrep.nn.spans.proposals`; empty: all proposals.
    positives: "geodesic" is G2L; "anchor" is MMN's vanilla contrast; "cosine" and "random" are ablations.
    neighbours: positives of a sentence, its anchor included.   k: neighbours in the graph.
    contrast:  weight of L_vid + L_sent, 0 later in the paper's training.   shapley: weight of L_sa.   players: moments by each of two
               rules, the geodesically nearest and the most similar.
    keep, suppression: spans returned, and the IoU above which a worse one is dropped.
    """

    text: TextEncoder = TextEncoder()
    clips: int = 16
    counts: tuple[int, ...] = ()
    dim: int = 64
    width: int = 64
    kernel: int = 5
    layers: int = 2
    positives: Positives = "geodesic"
    neighbours: int = 5
    k: int = 5
    contrast: float = 0.1
    shapley: float = 5e-4
    players: int = 7
    keep: int = 5
    suppression: float = 0.5

    def build(self) -> System:
        known = ("geodesic", "cosine", "anchor", "random")
        cells = len(model.spans_of(self.clips, self.counts))
        check_fields(self, {
            "positives": (self.positives in known, f"choose {', '.join(known)}"),
            "kernel": (self.kernel % 2 == 1, "it must be odd"),
            "neighbours": (1 <= self.neighbours <= cells, f"it must be in [1, {cells}], the proposals"),
            "players": (1 <= self.players <= cells, f"it must be in [1, {cells}], the proposals"),
            "width": (min(self.width, self.layers, self.k, self.keep) >= 1, "width, layers, k and keep must be at least 1"),
            "suppression": (0 < self.suppression <= 1, "it must be in (0, 1]"),
        })  # fmt: skip
        grid = model.Proposals(self.clips, self.counts, self.dim, self.width, self.kernel, self.layers)
        words = model.Sentences(self.text, self.dim)
        spans = jnp.asarray(model.spans_of(self.clips, self.counts))

        def init(rng: PRNGKeyArray, batch: Batch) -> tuple[Params, dict]:
            if batch["video"].shape[1] % self.clips:
                raise ConfigError(
                    f"system.clips is {self.clips}: it must divide the {batch['video'].shape[1]} clips of a video"
                )
            a, b = jax.random.split(rng)
            return {
                "video": grid.init(a, batch["video"])["params"],
                "text": words.init(b, batch["sentence"])["params"],
            }, {}

        def encode(params: Params, batch: Batch) -> tuple[Array, Array, Array, Array]:
            v, v_iou = grid.apply({"params": params["video"]}, batch["video"])
            return v, v_iou, *words.apply({"params": params["text"]}, batch["sentence"])

        def loss(params: Params, batch: Batch, rng: PRNGKeyArray) -> tuple[Array, Metrics]:
            v, v_iou, t, t_iou = encode(params, batch)
            moment = jnp.asarray(batch["moment"])
            valid = moment[..., 1] > moment[..., 0]
            overlap = iou(moment[..., None, :], spans)
            unit = [l2_normalise(x) for x in (v, v_iou, t, t_iou)]
            by_iou = model.iou_loss(10 * jnp.einsum("bgd,bpd->bgp", unit[3], unit[1]), overlap, valid)
            anchors = overlap.argmax(-1)
            keys = jax.random.split(rng, len(v))
            rows = jax.vmap(lambda x, a, key: model.neighbours(self.positives, x, a, self.neighbours, self.k, key))
            weights = rows(v, anchors, keys)
            vid, sent = contrast(unit[0], unit[2], anchors, weights, overlap, valid)
            value = by_iou + self.contrast * (vid + sent)
            metrics = {"iou": by_iou, "video": vid, "sentence": sent}
            if self.shapley:
                cosine = jnp.einsum("bgd,bpd->bgp", unit[2], unit[0])
                near = jax.lax.top_k(weights if self.positives == "geodesic" else overlap, self.players)[1]
                chosen = jnp.concatenate([near, jax.lax.top_k(cosine, self.players)[1]], -1).reshape(len(v), -1)
                moments = jnp.take_along_axis(unit[0], chosen[..., None], 1)
                game = jax.vmap(model.shapley_loss)(jnp.einsum("bgd,bmd->bgm", unit[2], moments), valid).mean()
                value, metrics = value + self.shapley * game, metrics | {"shapley": game}
            return value, metrics

        def cosines(params: Params, extras: Extras, batch: Batch) -> Float[Array, "B G P"]:
            v, _, t, _ = encode(params, batch)
            return jnp.einsum("bgd,bpd->bgp", l2_normalise(t), l2_normalise(v))

        def found(params: Params, extras: Extras, batch: Batch) -> Float[Array, "B G K 2"]:
            """The spans of the highest sqrt((1 + cos) / 2) * sigmoid(10 cos'), best first; a span that does not exist repeats the first."""
            v, v_iou, t, t_iou = (l2_normalise(x) for x in encode(params, batch))
            by_iou = jax.nn.sigmoid(10 * jnp.einsum("bgd,bpd->bgp", t_iou, v_iou))
            score = jnp.sqrt(0.5 + 0.5 * jnp.einsum("bgd,bpd->bgp", t, v)) * by_iou
            best, kept = jax.vmap(jax.vmap(lambda s: nms(spans, s, self.suppression, self.keep)))(score)
            return spans[jnp.where(kept, best, best[..., :1])]

        def video(params: Params, extras: Extras, batch: Batch) -> Float[Array, "B D"]:
            v, _ = grid.apply({"params": params["video"]}, batch["video"])
            return l2_normalise(l2_normalise(v).mean(1))

        infer = {"video": video, "spans": found, "cosines": cosines}
        infer["proposals"] = lambda params, extras, batch: jnp.tile(spans, (len(batch["video"]), 1, 1))
        return System(init, stateless(loss), infer)


def contrast(
    v: Float[Array, "B P D"], t: Float[Array, "B G D"], anchors: Array, weights: Float[Array, "B G P"],
    overlap: Float[Array, "B G P"], valid: Array, low: float = 0.5,
) -> tuple[Float[Array, ""], Float[Array, ""]]:  # fmt: skip
    """(L_vid, L_sent) of unit features.

    Sentences of a video whose anchors overlap by `low` or more are no negatives; proposals of the own video are, where their IoU with the
    moment is below `low`, and all of other videos.
    """
    b, g, p = overlap.shape
    sentences, best = t.reshape(b * g, -1), jnp.take_along_axis(v, anchors[..., None], 1).reshape(b * g, -1)
    own = jnp.repeat(jnp.arange(b), g)
    same = own[:, None] == own[None]
    shared = jax.vmap(lambda o, a: o[:, a])(overlap, anchors)  # [B, G, G]: IoU with the other sentences' anchors
    apart = jnp.tile(shared.reshape(b * g, g), (1, b)) < low
    kept = valid.reshape(-1)[None] & (~same | apart)
    vid = masked_mean(model.video_loss(best, sentences, kept), valid.reshape(-1))
    mine = jnp.arange(b)[None] == own[:, None]
    spread = lambda x: (jnp.where(mine[..., None], x.reshape(b * g, 1, p), 0)).reshape(b * g, b * p)  # noqa: E731
    negatives = (~mine[..., None] | (overlap.reshape(b * g, 1, p) < low)).reshape(b * g, b * p)
    sent = model.sentence_loss(sentences @ v.reshape(b * p, -1).T, spread(weights), negatives)
    return vid, masked_mean(sent, valid.reshape(-1))
