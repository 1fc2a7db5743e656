"""HiTeA: moments aligned with the words that describe them, and with the whole video they are part of (Ye et al., ICCV 2023).

HiTeA: Hierarchical Temporal-Aware Video-Language Pre-training, arXiv 2212.14546. The losses of pre-training were not published as code;
CME and MTRE follow the paper's description.

Section 3.2, long view and short view (a moment)               losses.moment_view
Section 3.2, cross-modal moment exploration, CME               losses.moment_similarity, losses.cme_loss
Section 3.3, multi-modal temporal relation exploration, MTRE   losses.mtre_loss
Section 3.4, video-text contrast                               losses.contrast
Section 3.4, video-text matching on hard negatives             mmrep.losses.matching, mmrep.nn.fusion.FusionEncoder
Section 3.4, masked language modelling                         mmrep.masking.tokens, mmrep.nn.heads.MaskedLmHead
Section 3.4, prefix language modelling of the caption          mmrep.nn.encoders.decoder_lm
Section 4.4, shuffling test                                    mmrep.evals.order.FrameOrder

The paper's MViTv2 is a joint space-time ViT here. Momentum copies with soft labels and the queue of 65,536 features are left out; the
prefix of prefix LM is BOS and the video.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from mmrep.errors import check_fields
from mmrep.losses.contrastive import similarity
from mmrep.losses.masked import token_loss
from mmrep.losses.matching import matching_loss
from mmrep.losses.reduce import masked_mean
from mmrep.masking.tokens import mask_tokens
from mmrep.modality import FIRST_PIECE
from mmrep.nn.config import TransformerConfig
from mmrep.nn.dual import Encoder, dual_encoder
from mmrep.nn.encoders.decoder_lm import DecoderLM, next_token_loss
from mmrep.nn.encoders.text import TextEncoder
from mmrep.nn.encoders.video import CodesEncoder
from mmrep.nn.fusion import FusionEncoder
from mmrep.nn.heads import MaskedLmHead, Projection
from mmrep.system import Batch, Extras, Infer, Metrics, Params, System, stateless
from mmrep.systems.video.hitea import losses


@dataclass(frozen=True)
class Config:
    """video, text: encoders; frames need temporal positions, a text one token a word.   fusion_depth: of the fusion encoder.
    moment:    frames of the short view, drawn at random; at most those of the clip.
    cme:       what a moment is contrasted with: the words it attends to ("words", CME), their mean ("mean"), the text's vector ("whole").
    word_temperature: of a moment's attention to words.   temperature: of the contrasts at the start, learned, at least 0.01.
    cme_weight, mtre_weight, vtm_weight, mlm_weight, plm_weight: of the losses beside the video-text contrast; 0: without their parameters.
    stop_gradient: False is an ablation of MTRE, which then collapses.
    """

    video: Encoder = CodesEncoder(64, TransformerConfig(64, 1))
    text: TextEncoder = TextEncoder(TransformerConfig(64, depth=1), pool="cls")
    fusion_depth: int = 1
    dim: int = 64
    moment: int = 4
    cme: Literal["words", "mean", "whole"] = "words"
    word_temperature: float = 0.1
    temperature: float = 0.07
    cme_weight: float = 1.0
    mtre_weight: float = 1.0
    vtm_weight: float = 1.0
    mlm_weight: float = 1.0
    plm_weight: float = 1.0
    mask_rate: float = 0.15
    stop_gradient: bool = True
    dtype: str = "float32"

    def check(self) -> None:
        check_fields(self, {
            "cme": (self.cme in ("words", "mean", "whole"), "choose words, mean or whole"),
            "fusion_depth": (self.fusion_depth >= 1, "the fusion encoder needs at least one layer"),
            "moment": (self.moment >= 1, "it must be at least 1 frame"),
            "word_temperature": (self.word_temperature > 0, "it must be positive"),
            "temperature": (self.temperature > 0, "it must be positive"),
            "mask_rate": (0.0 < self.mask_rate < 1.0, "it must be in (0, 1)"),
        } | {
            f"{name}_weight": (getattr(self, f"{name}_weight") >= 0, "the weight of a loss is at least 0")
            for name in ("cme", "mtre", "vtm", "mlm", "plm")
        })  # fmt: skip

    def build(self) -> System:
        self.check()
        kind, t = jnp.dtype(self.dtype), self.text.transformer
        dual = dual_encoder(
            {"video": self.video, "text": self.text},
            self.dim,
            scale=1 / self.temperature,
            tokens=True,
            dtype=self.dtype,
        )
        fusion = FusionEncoder(replace(t, depth=self.fusion_depth), dtype=kind)
        heads: dict[str, Any] = {
            "match": Projection(2, normalise=False, use_bias=True, dtype=kind),
            "projector": Projection(self.dim, t.width, normalise=False, use_bias=True, dtype=kind),
            "predictor": Projection(self.dim, t.width, normalise=False, use_bias=True, dtype=kind),
            "mlm": MaskedLmHead(dtype=kind),
            "caption": DecoderLM(t, self.text.vocab, self.text.length, cross=True).module(kind),
        }
        fused_losses = self.mtre_weight or self.vtm_weight or self.mlm_weight

        def video_of(params: Params, video: Any) -> dict[str, Array]:
            found, out = dual.full(params, {"video": video}, "video")
            return {"vector": found, "frames": out["frames"], "valid": out["frames_valid"]}

        def text_of(params: Params, ids: Any) -> dict[str, Array]:
            found, out = dual.full(params, {"text": ids}, "text")
            words = out["valid"] & (jnp.asarray(ids) >= FIRST_PIECE)
            return {name: out[name] for name in ("tokens", "valid", "projected")} | {"vector": found, "words": words}

        def fuse(params: Params, text: dict[str, Array], video: dict[str, Array]) -> dict[str, Array]:
            sides = text["tokens"], video["frames"], text["valid"], video["valid"]
            return fusion.apply({"params": params["fusion"]}, *sides)[1]

        def head(params: Params, name: str, *inputs: Any) -> Array:
            return heads[name].apply({"params": params[name]}, *inputs)

        def table(params: Params) -> Array:
            return params["text"]["encoder"]["embed"]["embedding"]

        def init(rng: PRNGKeyArray, batch: Batch) -> tuple[Params, dict]:
            params, keys = dual.init(rng, batch), iter(jax.random.split(jax.random.fold_in(rng, 1), 6))
            text, video = text_of(params, batch["text"]), video_of(params, batch["video"])
            if fused_losses:
                sides = text["tokens"], video["frames"], text["valid"], video["valid"]
                params["fusion"] = fusion.init(next(keys), *sides)["params"]
            wanted = {
                "match": (self.vtm_weight, (text["tokens"][:, 0],)), "projector": (self.mtre_weight, (text["tokens"][:, 0],)),
                "predictor": (self.mtre_weight, (jnp.zeros((1, self.dim)),)), "mlm": (self.mlm_weight, (text["tokens"], table(params))),
                "caption": (self.plm_weight, (batch["text"], None, None, None, None, video["frames"])),
            }  # fmt: skip
            for name, (weight, inputs) in wanted.items():
                if weight:
                    params[name] = heads[name].init(next(keys), *inputs)["params"]
            return params, {}

        def loss(params: Params, batch: Batch, rng: PRNGKeyArray) -> tuple[Array, Metrics]:
            for_view, for_video, for_text, for_mask = jax.random.split(rng, 4)
            ids, scale = jnp.asarray(batch["text"]), dual.scale(params)
            long, text = video_of(params, batch["video"]), text_of(params, ids)
            same = (ids[:, None] == ids[None]).all(-1)
            values = {"vtc": losses.contrast(long["vector"], text["vector"], scale, same).mean()}
            if self.cme_weight or self.mtre_weight:
                short = video_of(params, losses.moment_view(for_view, batch["video"], self.moment))
            if self.cme_weight:
                if self.cme == "whole":
                    found = similarity(short["vector"], text["vector"])
                else:
                    temperature = self.word_temperature if self.cme == "words" else None
                    found = losses.moment_similarity(short["vector"], text["projected"], text["words"], temperature)
                values["cme"] = losses.cme_loss(found, scale, same).mean()
            if self.mtre_weight:
                z = [head(params, "projector", fuse(params, text, v)["pooled"]) for v in (short, long)]
                h = [head(params, "predictor", x) for x in z]
                values["mtre"] = losses.mtre_loss(h[0], z[0], h[1], z[1], self.stop_gradient).mean()
            if self.vtm_weight:
                pairs, is_match, kept = losses.match_pairs(for_video, for_text, text, long, scale, same)
                matched = head(params, "match", fuse(params, *pairs)["pooled"])
                values["vtm"] = masked_mean(matching_loss(matched, is_match), kept)
            if self.mlm_weight:
                corrupted, target = mask_tokens(for_mask, ids, self.text.vocab, self.mask_rate)
                tokens = fuse(params, text_of(params, corrupted), long)["tokens"]
                logits = head(params, "mlm", tokens, table(params))
                values["mlm"] = masked_mean(token_loss(logits, ids, target), target)
            if self.plm_weight:
                context = {"context": long["frames"], "context_valid": long["valid"]}
                logits, _ = heads["caption"].apply({"params": params["caption"]}, ids, **context)
                values["plm"] = masked_mean(*next_token_loss(logits, ids, ids > 0))
            weighted = {k: v * getattr(self, f"{k}_weight", 1.0) for k, v in values.items()}
            return sum(weighted.values(), jnp.float32(0)), values | {"scale": scale}

        def score(params: Params, extras: Extras, batch: Batch) -> Float[Array, " n"]:
            text = {"tokens": batch["text_tokens"], "valid": batch["text_valid"]}
            video = {"frames": batch["video_tokens"], "valid": batch["video_valid"]}
            logits = head(params, "match", fuse(params, text, video)["pooled"])
            return logits[:, 1] - logits[:, 0]

        def fused(params: Params, extras: Extras, batch: Batch) -> Float[Array, "B D"]:
            return fuse(params, text_of(params, batch["text"]), video_of(params, batch["video"]))["pooled"]

        def saliency(params: Params, extras: Extras, batch: Batch) -> Float[Array, "B T"]:
            """CME's similarity of the moment around each frame and the text."""
            video, text = jnp.asarray(batch["video"]), text_of(params, batch["text"])
            temperature = self.word_temperature if self.cme == "words" else None
            vectors = [video_of(params, view)["vector"] for view in losses.moments_around(video, self.moment)]
            sides = text["projected"], text["words"], temperature
            return jnp.stack([losses.own_similarity(v, *sides) for v in vectors], axis=1)

        def tokens(side: str, *names: str) -> Infer:
            of = {"video": video_of, "text": text_of}[side]
            return lambda params, extras, batch: tuple(of(params, batch[side])[name] for name in names)

        infer: dict[str, Infer] = {
            "video_tokens": tokens("video", "frames", "valid"), "text_tokens": tokens("text", "tokens", "valid"),
            # Words in the shared space, and which tokens are words: all but BOS, EOS and padding.
            "words": tokens("text", "projected", "words"), "saliency": saliency,
        } | ({"fused": fused} if fused_losses else {}) | ({"score": score} if self.vtm_weight else {})  # fmt: skip
        return System(init, stateless(loss), dual.infer() | infer)
