"""VideoLights: moments and highlights of a video found by a text (Paul et al. 2024, arXiv 2412.01558).

Section 3.1, feature refinement (FRA)                      model.Refinement, losses.cosine_loss of words and clips
Section 3.2, bi-directional fusion (Bi-CMF)                model.BiCMF
Section 3.3, span decoder, Hungarian matching              mmrep.nn.set_prediction, losses.matched
Section 3.3, highlights from the moment (feedback)         network.Feedback
Section 3.4, saliency, hard positives and negatives        losses.margin_loss, rank_loss, negative_loss, cosine_loss, hard_loss
Section 3.5, pre-training on captions of frames            mmrep.data.clips.moments (queries="captions"), the config's phases

Deviations from the released code: R' q in the place of a constant and v2 + FFN(v2) (`word_mixture`, `literal_residual` restore them); masks
of padded words and clips hold in every attention; the GRU ends at the moment's last clip; the hard losses' weight stops growing.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from mmrep.errors import ConfigError, check_fields
from mmrep.nn.config import TransformerConfig
from mmrep.nn.encoders.text import TextEncoder
from mmrep.nn.heads import l2_normalise
from mmrep.nn.pooling import mean_pool
from mmrep.nn.spans import to_ends
from mmrep.system import Batch, Extras, Metrics, Params, System
from mmrep.systems.video.videolights import losses
from mmrep.systems.video.videolights.network import Network


@dataclass(frozen=True)
class Config:
    """A batch has video [B, T, E] (features of clips; a row of zeros is padding), text, moment [B, G, 2] (start and end, shares of the video;
    without length: padding) and labels [B, T], the saliency in [0, 1].

    transformer: width, heads and MLP of all layers; its depth is the decoder's.   encoder, fusion: layers of the encoder and of Bi-CMF.
    text:       encoder of ids [B, L]; None: `text` holds a frozen encoder's features of words [B, L, E], a row of zeros is padding.
    sources:    widths of the feature kinds side by side in `video`, each of unit length in a clip; empty: one kind.
    refine, two_way, feedback: parts of the method; False is an ablation.   hard: weight of the hard losses and `warm` the steps after
                which it is doubled, trebled, ... up to `cap` times (the paper's epoch; uncapped there).   cosine: weight of the cosine losses.
    """

    transformer: TransformerConfig = TransformerConfig(width=64, depth=2, heads=4, norm="post")
    text: TextEncoder | None = TextEncoder(TransformerConfig(width=64, depth=1))
    sources: tuple[int, ...] = ()
    encoder: int = 2
    fusion: int = 1
    queries: int = 10
    refine: bool = True
    word_mixture: bool = True
    two_way: bool = True
    literal_residual: bool = False
    feedback: bool = True
    hard: float = 10.0
    warm: int = 200
    cap: float = 10.0
    cosine: float = 1.0
    align: float = 0.2
    input_dropout: float = 0.0

    def build(self) -> System:
        check_fields(self, {
            "encoder": (self.encoder >= 1, "it must be at least 1"),
            "queries": (self.queries >= 1, "it must be at least 1"),
            "warm": (self.warm >= 1, "it must be at least 1 step"),
            "input_dropout": (0 <= self.input_dropout < 1, "it must be in [0, 1)"),
        })  # fmt: skip
        if self.transformer.width % 4 or self.transformer.depth < 1:
            raise ConfigError(
                f"system.transformer has width {self.transformer.width} and depth {self.transformer.depth}: give a width that 4 divides and a layer"
            )
        network = Network(
            self.transformer, self.encoder, self.fusion, self.queries, self.refine, self.word_mixture, self.two_way, self.literal_residual,
            self.feedback, self.input_dropout,
        )  # fmt: skip
        encoder = None if self.text is None else self.text.module(jnp.float32)

        def words(params: Params, batch: Batch, rngs: Any = None) -> tuple[Float[Array, "B L E"], Bool[Array, "B L"]]:
            if encoder is None:
                x = jnp.asarray(batch["text"])
                return x, jnp.any(x != 0, -1)
            out = encoder.apply({"params": params["text"]}, batch["text"], rngs=rngs)[1]
            return out["tokens"], out["valid"]

        def inputs(batch: Batch) -> tuple[Float[Array, "B T E"], Bool[Array, "B T"]]:
            x = jnp.asarray(batch["video"])
            valid = jnp.any(x != 0, -1)
            widths = self.sources or (x.shape[-1],)
            if sum(widths) != x.shape[-1]:
                raise ConfigError(
                    f"system.sources is {self.sources}: its sum must be {x.shape[-1]}, the width of `video`"
                )
            ends = [sum(widths[: i + 1]) for i in range(len(widths) - 1)]
            parts = [l2_normalise(part) for part in jnp.split(x, ends, -1)]
            n, i = jnp.maximum(valid.sum(1), 1)[:, None], jnp.arange(x.shape[1])
            return jnp.concatenate([*parts, jnp.stack([i / n, (i + 1) / n], -1)], -1), valid

        def run(params: Params, batch: Batch, rngs: Any = None, mismatched: bool = False) -> tuple[dict, Array, Array]:
            (video, v_valid), (text, t_valid) = inputs(batch), words(params, batch, rngs)
            out = network.apply({"params": params["network"]}, video, text, v_valid, t_valid, mismatched, rngs=rngs)
            return out, v_valid, t_valid

        def init(rng: PRNGKeyArray, batch: Batch) -> tuple[Params, Extras]:
            a, b = jax.random.split(rng)
            params = {} if encoder is None else {"text": encoder.init(a, batch["text"])["params"]}
            (video, v_valid), (text, t_valid) = inputs(batch), words(params, batch)
            params["network"] = network.init(b, video, text, v_valid, t_valid)["params"]
            return params, {"step": jnp.zeros((), jnp.int32)}

        def loss(
            params: Params, extras: Extras, batch: Batch, rng: PRNGKeyArray
        ) -> tuple[Array, tuple[Extras, Metrics]]:
            if len(batch["video"]) < 2:
                raise ConfigError("data.batch_size is 1: each video needs the text of another record")
            drop, key = jax.random.split(rng)
            out, valid, t_valid = run(params, batch, {"dropout": drop}, mismatched=True)
            labels = jnp.where(valid, jnp.asarray(batch["labels"]), 0.0)
            l1 = giou = label = align = jnp.float32(0)
            for (logits, spans, _), queries in zip(out["layers"], out["queries"]):
                *terms, taken = losses.matched(spans, logits, jnp.asarray(batch["moment"]))
                l1, giou, label = l1 + terms[0], giou + terms[1], label + terms[2]
                align += losses.query_align(queries, out["texts"], t_valid, taken)
            similar = jnp.einsum(
                "btd,bd->bt", *(l2_normalise(x) for x in (out["clips"], mean_pool(out["words"], t_valid)))
            )
            align += losses.cosine_loss(similar, labels, valid)
            s, other = out["saliency"], out["mismatched"]
            saliency = losses.margin_loss(s, *losses.pairs(labels, valid, key)) + losses.rank_loss(
                s, other, labels, valid
            )
            saliency += losses.negative_loss(other, valid) + self.cosine * losses.cosine_loss(s, labels, valid)
            weight = self.hard * jnp.minimum(1 + extras["step"] // self.warm, self.cap)
            saliency += weight * losses.hard_loss(s, labels, valid)
            if self.feedback:
                saliency += losses.cosine_loss(out["from_moment"], labels, valid)
            value = 10 * l1 + giou + 4 * label + saliency + self.align * align
            return value, (extras, {"l1": l1, "giou": giou, "label": label, "saliency": saliency, "align": align})

        def spans(params: Params, extras: Extras, batch: Batch) -> Float[Array, "B Q 2"]:
            """(start, end) in [0, 1] of the queries, the most probable moment first."""
            logits, found, _ = run(params, batch)[0]["layers"][-1]
            order = jnp.argsort(-(logits[..., 0] - logits[..., 1]), axis=1)
            return jnp.clip(jnp.take_along_axis(to_ends(found), order[..., None], 1), 0, 1)

        def saliency(params: Params, extras: Extras, batch: Batch) -> Float[Array, "B T"]:
            out, valid, _ = run(params, batch)
            return jnp.where(valid, out["saliency"], -1e3)

        infer = {
            "spans": spans,
            "saliency": saliency,
            "fused": lambda params, extras, batch: run(params, batch)[0]["fused"],
        }
        return System(init, loss, infer, lambda params, extras: extras | {"step": extras["step"] + 1})
