"""Prompt Switch: frames exchange prompt tokens inside CLIP's image encoder, and a video's vector is their mean (Deng et al., ICCV 2023).

Prompt Switch: Efficient CLIP Adaptation for Text-Video Retrieval, arXiv 2308.07648.

Section 3.2, prompt cube and prompt switch                     model.switched, model.SwitchBlock
Section 3.2, prompt aggregation, zero at the start             model.PromptFrames ("aggregate")
Section 3.2, chunks of P frames at test                        model.chunks
Section 3.3, mean of unit frame vectors                        video_vector
Section 3.3, contrastive loss of both directions               mmrep.losses.contrastive.symmetric_info_nce
Section 3.4, captioning, in training alone                     caption_loss, mmrep.nn.encoders.decoder_lm

The captioner has token embeddings of its own, tied to its head; the authors take CLIP's for both, without gradient in the first. Prompts
are initialised as in their code. The average of the weights is `train.ema`.
"""

from dataclasses import dataclass, replace
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from mmrep.errors import check_fields
from mmrep.losses.contrastive import symmetric_info_nce
from mmrep.losses.masked import token_loss
from mmrep.modality import BOS, EOS, PAD
from mmrep.nn.dual import Embedder, init_parts
from mmrep.nn.encoders.decoder_lm import DecoderLM
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.nn.encoders.text import TextEncoder
from mmrep.nn.heads import LogScale, Projection, l2_normalise
from mmrep.nn.pooling import layer_features
from mmrep.system import Batch, Extras, Infer, Metrics, Params, System, stateless
from mmrep.systems.video.prompt_switch.model import PromptFrames


@dataclass(frozen=True)
class Config:
    """image:   the Vision Transformer of a frame: its transformer, patch and pre_norm; it is pooled at its class token.
    prompts: P, the prompts of a frame and the frames of a chunk; it divides the frames. 0: none, so that frames are encoded alone.
    switch:  exchange prompts between frames.   aggregate: class tokens attend to the prompts of "all" frames at the end, or their "own".
    caption_weight: of the captioner's loss; 0: no captioner.   caption_depth: its layers.
    frequent: ids of frequent tokens, whose weight in that loss is `frequent_weight`.   temperature: at the start, learned, at least 0.01.
    """

    image: ImageEncoder = ImageEncoder(pool="cls")
    text: TextEncoder = TextEncoder(causal=True, pool="eos")
    dim: int = 64
    prompts: int = 6
    switch: bool = True
    aggregate: Literal["all", "own"] = "all"
    caption_weight: float = 0.5
    caption_depth: int = 2
    frequent: tuple[int, ...] = (BOS, EOS)
    frequent_weight: float = 0.25
    temperature: float = 0.07
    dtype: str = "float32"

    def check(self) -> None:
        t = self.image.transformer
        check_fields(self, {
            "prompts": (self.prompts >= 0, "it must be at least 0"),
            "aggregate": (self.aggregate in ("all", "own"), "choose all or own"),
            "image": (t.norm == "pre" and not t.scan, "its transformer needs norm='pre' and scan=False"),
            "caption_weight": (self.caption_weight >= 0, "it must be at least 0"),
            "caption_depth": (self.caption_depth >= 1, "it must be at least 1"),
            "frequent": (all(0 <= i < self.text.vocab for i in self.frequent), "give ids below text.vocab"),
            "temperature": (self.temperature > 0, "it must be positive"),
        })  # fmt: skip

    def build(self) -> System:
        self.check()
        kind, t = jnp.dtype(self.dtype), self.text.transformer
        frames = PromptFrames(self.image, self.prompts, self.switch, self.aggregate, kind)
        project, log_scale = Projection(self.dim, normalise=False, dtype=kind), LogScale(1 / self.temperature)
        text = Embedder(self.text, self.dim, dtype=kind)
        shape = replace(t, depth=self.caption_depth, norm="post", activation="relu", scan=False)
        captioner = DecoderLM(shape, self.text.vocab, self.text.length, cross=True).module(kind)
        weights = np.ones(self.text.vocab, np.float32)
        weights[list(self.frequent)] = self.frequent_weight

        def frames_of(params: Params, batch: Batch) -> Float[Array, "B F D"]:
            found = frames.apply({"params": params["video"]}, batch["video"])
            return project.apply({"params": params["projection"]}, found).astype(jnp.float32)

        def text_of(params: Params, batch: Batch) -> tuple[Array, dict[str, Array]]:
            return text.apply({"params": params["text"]}, batch["text"])

        def init(rng: PRNGKeyArray, batch: Batch) -> tuple[Params, dict]:
            keys = jax.random.split(rng, 3)
            params = init_parts(keys[0], {"video": frames, "text": text, "scale": log_scale}, batch)
            found = frames.apply({"params": params["video"]}, batch["video"])
            params["projection"] = project.init(keys[1], found)["params"]
            if self.caption_weight:
                context = frames_of(params, batch)
                params["captioner"] = captioner.init(keys[2], batch["text"], context=context)["params"]
            return params, {}

        def loss(params: Params, batch: Batch, rng: PRNGKeyArray) -> tuple[Array, Metrics]:
            raw, scale = frames_of(params, batch), log_scale.apply({"params": params["scale"]})
            value = symmetric_info_nce(text_of(params, batch)[0], video_vector(raw), scale).mean()
            metrics = {"scale": scale, "contrast": value}
            if self.caption_weight:
                ids = jnp.asarray(batch["text"])
                logits, _ = captioner.apply({"params": params["captioner"]}, ids, context=raw)
                metrics["caption"] = caption_loss(logits, ids, weights)
                value = value + self.caption_weight * metrics["caption"]
            return value, metrics

        def video_tokens(params: Params, extras: Extras, batch: Batch) -> tuple[Array, Array]:
            found = l2_normalise(frames_of(params, batch))
            return found, jnp.ones(found.shape[:2], bool)

        def saliency(params: Params, extras: Extras, batch: Batch) -> Float[Array, "B F"]:
            return jnp.einsum("bfd,bd->bf", l2_normalise(frames_of(params, batch)), text_of(params, batch)[0])

        infer: dict[str, Infer] = {
            "video": lambda params, extras, batch: video_vector(frames_of(params, batch)),
            "text": lambda params, extras, batch: text_of(params, batch)[0],
            "video_tokens": video_tokens,
            # The similarity of the text to each frame, whose mean over frames ranks the videos.
            "saliency": saliency,
            "text_layers": lambda params, extras, batch: layer_features(text_of(params, batch)[1]),
        }
        return System(init, stateless(loss), infer)


def video_vector(frames: Float[Array, "B F D"]) -> Float[Array, "B D"]:
    """The mean of the unit frame vectors, of unit length."""
    return l2_normalise(l2_normalise(frames).mean(1))


def caption_loss(
    logits: Float[Array, "B L V"], ids: Int[Array, "B L"], weights: Float[Array | np.ndarray, " V"]
) -> Float[Array, ""]:
    """The weighted mean cross-entropy of each token given those before it (section 3.4); what follows EOS does not count.

    logits: row i is of the token behind place i.   weights: of the tokens to be predicted.
    """
    given, wanted = ids[:, :-1], ids[:, 1:]
    valid = (given != EOS) & (given != PAD)
    weight = jnp.asarray(weights)[wanted]
    values = token_loss(logits[:, :-1], wanted, valid, weights=weight)
    return values.sum() / jnp.maximum((weight * valid).sum(), 1e-6)
