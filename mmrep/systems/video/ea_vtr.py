"""EA-VTR: a dual encoder whose frames are contrasted with what they show, and whose videos with the order of events (Ma et al., ECCV 2024).

EA-VTR: Event-Aware Video-Text Retrieval, arXiv 2407.07478. No code was published; the losses follow the paper's description.

Section 3.2, multi-granularity video encoder                   mmrep.nn.encoders.video.VideoEncoder ("divided")
Section 3.3, event content augmentation (captions of frames)   batch entry frame_captions, [B, T, L]
Section 3.3, event temporal augmentation (two-event texts)     batch entries order and order_foil, [B, L]
Section 3.4, event content learning, ECL                       content_loss, Config.content
Section 3.4, event temporal learning, ETL                      temporal_loss, Config.temporal
Section 3.4, video-text contrast                               mmrep.losses.contrastive.info_nce

Each frame has its own class token; the video's vector is pooled from those of the frames, where the paper has one more class token.
Records own all annotations, so that a step takes both losses, where the paper alternates between two sets of data. A text anchor has no
reversed video beside the others: playing a clip backwards would change its events as well as their order.
"""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from mmrep.errors import check_fields
from mmrep.losses.contrastive import info_nce, similarity
from mmrep.losses.reduce import masked_mean
from mmrep.nn.dual import Encoder, dual_encoder
from mmrep.nn.encoders.text import TextEncoder
from mmrep.nn.encoders.video import CodesEncoder
from mmrep.system import Batch, Extras, Infer, Metrics, Params, System, stateless


@dataclass(frozen=True)
class Config:
    """content:  what captions of frames are contrasted with: the "frame" (ECL), the "video", or nothing ("none").
    temporal: two-event texts with their foil as one more negative ("swaps", ETL), without it ("plain"), or none of them ("none").
    temperature: at the start, learned, at least 0.01.
    Batches have `video` and `text`; `frame_captions` unless content is "none"; `order`, and `order_foil`, for `temporal`.
    """

    video: Encoder = CodesEncoder()
    text: TextEncoder = TextEncoder()
    dim: int = 64
    content: Literal["frame", "video", "none"] = "frame"
    temporal: Literal["swaps", "plain", "none"] = "swaps"
    temperature: float = 0.05
    dtype: str = "float32"

    def check(self) -> None:
        check_fields(self, {
            "content": (self.content in ("frame", "video", "none"), "choose frame, video or none"),
            "temporal": (self.temporal in ("swaps", "plain", "none"), "choose swaps, plain or none"),
            "temperature": (self.temperature > 0, "it must be positive"),
        })  # fmt: skip

    def build(self) -> System:
        self.check()
        model = dual_encoder(
            {"video": self.video, "text": self.text},
            self.dim,
            scale=1 / self.temperature,
            tokens=True,
            dtype=self.dtype,
        )

        def texts_of(params: Params, ids: Int[Array | np.ndarray, "B L"]) -> Float[Array, "B D"]:
            return model.embed(params, {"text": jnp.asarray(ids)}, "text")

        def clips_of(params: Params, batch: Batch) -> tuple[Array, Array, Array]:
            video, out = model.full(params, batch, "video")
            return video, out["projected"], out["frames_valid"]

        def loss(params: Params, batch: Batch, rng: PRNGKeyArray) -> tuple[Array, Metrics]:
            video, frames, valid = clips_of(params, batch)
            scale, rows = model.scale(params), jnp.arange(len(video))
            given = {"text": batch["text"]}
            if self.content != "none":
                chosen = jax.random.categorical(rng, jnp.where(valid, 0.0, -jnp.inf))
                given["content"] = jnp.asarray(batch["frame_captions"])[rows, chosen]
            if self.temporal != "none":
                given["order"] = batch["order"]
            if self.temporal == "swaps":
                given["foil"] = batch["order_foil"]
            # One pass of the text encoder for all of them, a clip's texts side by side: on a mesh they stay with their clip.
            width = max(ids.shape[-1] for ids in given.values())
            padded = [jnp.pad(jnp.asarray(ids), ((0, 0), (0, width - ids.shape[-1]))) for ids in given.values()]
            stacked = texts_of(params, jnp.stack(padded, axis=1).reshape(-1, width)).reshape(len(video), len(given), -1)
            found = {name: stacked[:, i] for i, name in enumerate(given)}
            values = {"vtc": content_loss(video, found["text"], scale, equal_texts(batch["text"])).mean()}
            if self.content != "none":
                shown = frames[rows, chosen] if self.content == "frame" else video
                empty = (given["content"] > 0).sum(-1) <= 2  # no word between BOS and EOS: the captioner wrote nothing
                values["content"] = masked_mean(
                    content_loss(shown, found["content"], scale, equal_texts(given["content"])), ~empty
                )
            if self.temporal != "none":
                same = equal_texts(given["order"])
                foil = found.get("foil")
                keep = None if foil is None else (given["order"] != given["foil"]).any(-1)
                values["temporal"] = temporal_loss(video, found["order"], scale, foil, keep, same).mean()
            return sum(values.values(), jnp.float32(0)), values | {"scale": scale}

        def of_text(name: str) -> Infer:
            return lambda params, extras, batch: texts_of(params, batch[name])

        def saliency(params: Params, extras: Extras, batch: Batch) -> Float[Array, "B T"]:
            _, frames, valid = clips_of(params, batch)
            scores = jnp.einsum("btd,bd->bt", frames, texts_of(params, batch["text"]))
            return jnp.where(valid, scores, -1.0)

        infer: dict[str, Infer] = {
            "video": lambda params, extras, batch: model.embed(params, batch, "video"),
            "text": of_text("text"),
            "order": of_text("order"),
            "video_tokens": lambda params, extras, batch: clips_of(params, batch)[1:],
            # The similarity of the text to each frame.
            "saliency": saliency,
        }
        return System(lambda rng, batch: (model.init(rng, batch), {}), stateless(loss), infer)


def equal_texts(ids: Int[Array, "B L"]) -> Bool[Array, "B B"]:
    """True where two rows have the same text, but not on the diagonal."""
    ids = jnp.asarray(ids)
    return (ids[:, None] == ids[None]).all(-1) & ~jnp.eye(len(ids), dtype=bool)


def content_loss(
    x: Float[Array, "B D"], text: Float[Array, "B D"], scale: Float[Array, ""] | float, same: Bool[Array, "B B"]
) -> Float[Array, " B"]:
    """Half the sum of InfoNCE of both directions between frames (ECL) or videos and their texts; equal texts (`same`) are left out."""
    logits = scale * similarity(x, text)
    return 0.5 * (info_nce(logits, ignore=same) + info_nce(logits.T, ignore=same))


def temporal_loss(
    video: Float[Array, "B D"],
    text: Float[Array, "B D"],
    scale: Float[Array, ""] | float,
    foil: Float[Array, "B D"] | None = None,
    keep: Bool[Array, " B"] | None = None,
    same: Bool[Array, "B B"] | None = None,
) -> Float[Array, " B"]:
    """ETL: video -> text against the other texts and the video's own `foil` (its events in the wrong order), and text -> video.

    keep: rows whose foil differs from the text; the others have none.   same: equal texts, which are left out.
    """
    logits = scale * similarity(video, text)
    columns, ignore = logits, same
    if foil is not None:
        columns = jnp.concatenate([logits, scale * (video * foil).sum(-1, keepdims=True)], axis=1)
        ignore = jnp.zeros(logits.shape, bool) if same is None else same
        own = jnp.zeros((len(video), 1), bool) if keep is None else ~keep[:, None]
        ignore = jnp.concatenate([ignore, own], axis=1)
    return 0.5 * (info_nce(columns, ignore=ignore) + info_nce(logits.T, ignore=same))
