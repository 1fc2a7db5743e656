"""CoAVT: a joint encoder of sound and vision, and learned queries as its bridge to text (Zhu et al. 2024, arXiv 2401.12264).

No code was published; what the paper leaves open follows BLIP-2's Q-Former.

Section 3.2, joint audio-visual encoder, multi-stream        model.JointLayer
Section 3.3, query encoder and its three masks                mmrep.nn.query_encoder, mmrep.nn.attention.query_text_mask
Section 3.4, contrast of each stream with the text            model.query_score, mmrep.losses.contrastive.symmetric_among
Section 3.4, matching on hard negatives                       match_rows, mmrep.losses.matching
Section 3.4, language modelling                               language_loss

Ours: matching and language modelling of the joint stream alone. Not here: the audio-visual MAE before, event classification.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from mmrep.errors import check_fields
from mmrep.losses.contrastive import symmetric_among, true_of
from mmrep.losses.masked import token_loss
from mmrep.losses.matching import hard_negatives, matching_loss
from mmrep.losses.reduce import masked_mean
from mmrep.nn.config import TransformerConfig
from mmrep.nn.dual import Encoder
from mmrep.nn.encoders.video import CodesEncoder
from mmrep.nn.heads import LogScale, MaskedLmHead, Projection
from mmrep.nn.query_encoder import QueryEncoder
from mmrep.system import Batch, Extras, Metrics, Params, System, stateless
from mmrep.systems.fusion.coavt import model
from mmrep.systems.fusion.coavt.infer import infer
from mmrep.systems.fusion.coavt.model import STREAMS, CoAVT, JointLayer, Tokens


@dataclass(frozen=True)
class Config:
    """video, sound: encoders, whose tokens have the width of `joint`, the one joint layer (its depth is not used).
    query:     the query encoder's transformer, over `queries` learned vectors and texts of `length` ids in [0, vocab).
    streams:   that are contrasted with the text, of "av", "a" and "v"; "av" is always among them.
    pool:      of a clip's queries in the contrast, "max" or "mean"; with "max" some queries may never be the largest.
    dim, temperature: of the contrast; learned.   smoothing: of the next token's label.
    match_weight, lm_weight: of matching and language modelling; the contrast has 1.
    Batches may have `sounds`, 0 where a clip has no sound, and `told` and `shown` (see `mmrep.losses.contrastive.true_of`).
    """

    video: Encoder = CodesEncoder()
    sound: Encoder = CodesEncoder()
    joint: TransformerConfig = TransformerConfig(width=64)
    query: TransformerConfig = TransformerConfig(width=64, depth=2, norm="post")
    queries: int = 8
    vocab: int = 1024
    length: int = 32
    streams: tuple[str, ...] = ("av", "a", "v")
    pool: Literal["max", "mean"] = "max"
    dim: int = 64
    temperature: float = 0.07
    smoothing: float = 0.1
    match_weight: float = 1.0
    lm_weight: float = 1.0
    dtype: str = "float32"

    def check(self) -> None:
        check_fields(self, {
            "streams": ("av" in self.streams and {*self.streams} <= {*STREAMS}, "choose av, a and v, av among them"),
            "pool": (self.pool in ("max", "mean"), "choose max or mean"),
            "queries": (self.queries >= 1, "it must be at least 1"),
            "temperature": (self.temperature > 0, "it must be positive"),
            "smoothing": (0 <= self.smoothing < 1, "it must be in [0, 1)"),
            "match_weight": (self.match_weight >= 0, "it must be 0 or more"),
            "lm_weight": (self.lm_weight >= 0, "it must be 0 or more"),
        })  # fmt: skip

    def build(self) -> System:
        self.check()
        kind = jnp.dtype(self.dtype)
        parts = CoAVT(
            {"sound": self.sound.module(kind), "video": self.video.module(kind)}, JointLayer(self.joint, kind),
            QueryEncoder(self.query, self.queries, self.vocab, self.length, dtype=kind), Projection(self.dim, dtype=kind),
            nn.Dense(2, dtype=kind), MaskedLmHead(kind), LogScale(1 / self.temperature),
        )  # fmt: skip
        return System(
            partial(init, self, parts), stateless(partial(coavt_loss, self, parts)),
            infer(parts, self.pool, self.streams, bool(self.match_weight), bool(self.lm_weight)),
        )  # fmt: skip


def init(config: Config, parts: CoAVT, rng: PRNGKeyArray, batch: Batch) -> tuple[Params, Extras]:
    keys = iter(jax.random.split(rng, 9))
    params = {n: m.init(next(keys), *model.inputs(batch, n))["params"] for n, m in parts.encoders.items()}
    tokens = model.encode(parts, params, batch)
    streams, made = parts.joint.init_with_output(next(keys), tokens, config.streams)
    params["joint"] = made["params"]
    mode = "generate" if config.lm_weight else "match"
    (found, words), made = parts.queries.init_with_output(next(keys), *streams["av"], batch["text"], mode)
    params["queries"] = made["params"]
    params["project"] = parts.project.init(next(keys), found)["params"]
    params["project_text"] = parts.project.init(next(keys), words)["params"]
    if config.match_weight:
        params["match"] = parts.match.init(next(keys), found)["params"]
    if config.lm_weight:
        params["lm"] = parts.lm.init(next(keys), words, params["queries"]["embed"]["embedding"])["params"]
    return params | {"scale": parts.scale.init(next(keys))["params"]}, {}


def match_rows(
    rng: PRNGKeyArray, scores: Float[Array, "B B"], true: Bool[Array, "B B"]
) -> tuple[Int[Array, " N"], Int[Array, " N"], Bool[Array, " N"], Bool[Array, " N"]]:
    """(clip rows, text rows, is_match, counts) of 3 B pairs: the true ones, each clip with a wrong text, each text with a wrong clip.

    scores: of clips (rows) with texts, by which wrong ones are drawn; true pairs are none of them. true[i, j]: text j is true of clip i.
    """
    for_text, for_clip = jax.random.split(rng)
    rows, other = jnp.arange(len(scores)), true & ~jnp.eye(len(scores), dtype=bool)
    kept = jnp.where(other, -1e9, scores)
    text, has_text = hard_negatives(for_text, kept)
    clip, has_clip = hard_negatives(for_clip, kept.T)
    wrong = jnp.concatenate([has_text & ~true[rows, text], has_clip & ~true[clip, rows]])
    is_match = jnp.arange(3 * len(rows)) < len(rows)
    counts = jnp.concatenate([jnp.ones(len(rows), bool), wrong])
    return jnp.concatenate([rows, rows, clip]), jnp.concatenate([rows, text, rows]), is_match, counts


def language_loss(logits: Float[Array, "B L V"], ids: Int[Array, "B L"], smoothing: float = 0.1) -> Float[Array, ""]:
    """Mean cross-entropy of each token behind the first, given those before it."""
    valid = ids[:, 1:] > 0
    return masked_mean(token_loss(logits[:, :-1], ids[:, 1:], valid, smoothing), valid)


def coavt_loss(
    config: Config, parts: CoAVT, params: Params, batch: Batch, rng: PRNGKeyArray
) -> tuple[Float[Array, ""], Metrics]:
    """L_con, the mean over the streams, + L_match + L_lm."""
    tokens, ids = model.encode(parts, params, batch), batch["text"]
    streams: dict[str, Tokens] = parts.joint.apply({"params": params["joint"]}, tokens, config.streams)
    text = model.text_vector(parts, params, ids)
    true = jnp.eye(len(ids), dtype=bool)
    if {"told", "shown"} <= {*batch}:
        true = true_of(batch["told"], batch["shown"]).T
    scale = parts.scale.apply({"params": params["scale"]})
    metrics: dict[str, Array] = {"scale": scale}
    scores = {
        s: scale * model.query_score(model.unit_queries(parts, params, *x), text, config.pool)
        for s, x in streams.items()
    }
    here = {n: valid.any(1) for n, (_, valid) in tokens.items()}
    present = {s: jnp.stack([here[n] for n in STREAMS[s]]).all(0) for s in streams}
    for stream, found in scores.items():
        metrics[f"contrast_{stream}"] = symmetric_among(found, present[stream], true)
    total = jnp.stack([metrics[f"contrast_{s}"] for s in streams]).mean()
    if config.match_weight:
        clip, word, is_match, counts = match_rows(rng, scores["av"], true)
        context, valid = (x[clip] for x in streams["av"])
        judged = model.judge(parts, params, context, valid, ids[word])
        metrics["match"] = masked_mean(matching_loss(judged, is_match), counts)
        total += config.match_weight * metrics["match"]
    if config.lm_weight:
        metrics["lm"] = language_loss(model.next_tokens(parts, params, *streams["av"], ids), ids, config.smoothing)
        total += config.lm_weight * metrics["lm"]
    return total, metrics
