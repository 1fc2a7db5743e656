"""Florence: labels and captions in one contrast, in two stages, extended to video (Yuan et al. 2021, arXiv 2111.11432).

Section 2.2, UniCL (Yang et al. 2022, arXiv 2204.03610)             unicl_loss, text_ids
Section 2.2, first stage: all texts, short ones in templates        data.Descriptions
Section 2.2, second stage: natural descriptions alone               data.Descriptions.keep, as the data of a second Phase
Section 2.5, video: an inflated image encoder                       inflate, Config.tube
Baselines: InfoNCE; a classifier beside the contrast of captions    Config.objective

A Vision Transformer takes the place of CoSwin-H. The Dynamic Head for detection and the METER adapter are not here; the former is a part of
detectors, the latter of fusion systems (ALBEF).
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int, PRNGKeyArray

from mmrep.errors import ConfigError, check_fields
from mmrep.losses.blocks import Blocks
from mmrep.losses.contrastive import Scalar, cross_entropy, info_nce, same_id, similarity, symmetric_info_nce
from mmrep.losses.large_batch import LargeBatch, in_micro_batches
from mmrep.losses.reduce import masked_mean
from mmrep.nn.dual import Embedder, Encoder, dual_encoder, inputs
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.nn.encoders.text import TextEncoder
from mmrep.nn.encoders.video import VideoEncoder
from mmrep.system import Batch, Extras, Metrics, Params, System, stateless


@dataclass(frozen=True)
class Config:
    """objective: "unicl": equal texts are positives of one another.   "infonce": each pair alone is positive.
               "heads": InfoNCE of the captions and a linear classifier of the labelled pictures, whose batch entry `named` holds the
               class, or `classes` where the text is a caption.
    temperature: at the start, learned; UniCL's code starts at 1 / e.   min_temperature: its floor.
    tube:      above 0, `infer` has "video": clips in the encoder inflated to tubes of so many frames. Needs an ImageEncoder without class
               token ("mean") and with learned positions.   inflation: where a patch's weights go, see `inflate`.
    large_batch: see LargeBatch; for "unicl" and "infonce".
    """

    image: Encoder = ImageEncoder()
    text: TextEncoder = TextEncoder(causal=True, pool="eos")
    dim: int = 64
    objective: Literal["unicl", "infonce", "heads"] = "unicl"
    classes: int = 0
    temperature: float = 0.07
    min_temperature: float = 0.01
    tube: int = 0
    inflation: Literal["centre", "mean"] = "centre"
    dtype: str = "float32"
    large_batch: LargeBatch = LargeBatch()

    def check(self) -> None:
        check_fields(self, {
            "objective": (self.objective in ("unicl", "infonce", "heads"), "choose unicl, infonce or heads"),
            "temperature": (0 < self.temperature < math.inf, "it must be positive and finite"),
            "min_temperature": (0 < self.min_temperature <= self.temperature, "it must be positive and at most temperature"),
            "classes": (self.classes > 0 or self.objective != "heads", "objective heads needs at least 1"),
            "tube": (self.tube >= 0, "it must be at least 0"),
            "inflation": (self.inflation in ("centre", "mean"), "choose centre or mean"),
        })  # fmt: skip
        self.large_batch.check()
        if self.objective == "heads" and self.large_batch != LargeBatch():
            raise ConfigError('system.large_batch is set, but objective "heads" has none: leave it out')
        image = self.image
        if self.tube and not (
            isinstance(image, ImageEncoder)
            and image.pool == "mean"
            and image.positions == "learned"
            and not image.pre_norm
        ):
            raise ConfigError(
                f"system.tube is {self.tube}: give an ImageEncoder with pool mean, learned positions, no pre_norm"
            )

    def build(self) -> System:
        self.check()
        model = dual_encoder(
            {"image": self.image, "text": self.text}, self.dim, scale=1 / self.temperature,
            max_scale=1 / self.min_temperature, dtype=self.dtype,
        )  # fmt: skip
        heads, classifier = self.objective == "heads", nn.Dense(max(self.classes, 1))
        blocks, parts = self.large_batch.blocks(), self.large_batch.micro_batches

        def init(rng: PRNGKeyArray, batch: Batch) -> tuple[Params, dict]:
            params = model.init(rng, batch)
            if heads:
                params |= {"classifier": classifier.init(rng, jnp.zeros((1, self.dim)))["params"]}
            return params, {}

        def loss(params: Params, batch: Batch, rng: PRNGKeyArray) -> tuple[Array, Metrics]:
            x, y = in_micro_batches(lambda part: [model.embed(params, part, n) for n in model.names], batch, parts)
            scale, ids = model.scale(params), text_ids(batch["text"])
            metrics = {"scale": scale, "texts": (ids == jnp.arange(len(ids))).mean(dtype=jnp.float32)}
            if heads:
                logits = classifier.apply({"params": params["classifier"]}, math.sqrt(self.dim) * x)
                return two_heads_loss(x, y, scale, logits, batch["named"]), metrics
            if self.objective == "infonce":
                return 2 * symmetric_info_nce(x, y, scale, blocks=blocks).mean(), metrics
            return unicl_loss(x, y, scale, ids, blocks).mean(), metrics

        infer: dict[str, Any] = dict(model.infer())
        if self.tube:
            infer["video"] = self.embed_video
        return System(init, stateless(loss), infer)

    def embed_video(self, params: Params, extras: Extras, batch: Batch) -> Float[Array, "B D"]:
        """Embeddings of clips, batch["video"], by the image encoder inflated to them."""
        assert isinstance(self.image, ImageEncoder)
        encoder = VideoEncoder(self.image, attention="joint", tube=self.tube)
        inflated = inflate(params["image"], batch["video"].shape[1], self.tube, self.image.patch, self.inflation)
        model = Embedder(encoder, self.dim, dtype=jnp.dtype(self.dtype))
        return model.apply({"params": inflated}, *inputs(batch, "video"))[0]


def text_ids(tokens: Int[Array | np.ndarray, "B L"]) -> Int[Array, " B"]:
    """The first row of the batch with the same tokens: equal texts, and they alone, share an id (no hash, no collisions)."""
    tokens = jnp.asarray(tokens)
    return jnp.argmax((tokens[:, None] == tokens[None]).all(-1), axis=1)


def unicl_loss(
    x: Float[Array, "B D"], y: Float[Array, "B D"], scale: Scalar, ids: Int[Array, " B"], blocks: Blocks | None = None
) -> Float[Array, " B"]:
    """L_i2t + L_t2i of unit rows; each row's cross-entropy is the mean over the rows that share its id. Its floor is 2 log of their number."""
    return 2 * symmetric_info_nce(x, y, scale, ids, multi_positive=True, blocks=blocks)


def two_heads_loss(
    x: Float[Array, "B D"], y: Float[Array, "B D"], scale: Scalar, logits: Float[Array, "B C"], named: Int[Array, " B"]
) -> Float[Array, ""]:
    """Both directions of InfoNCE among captions (named == C), plus the classifier's cross-entropy of the others."""
    caption = named >= logits.shape[-1]
    s = scale * similarity(x, y)
    named_columns = jnp.broadcast_to(~caption[None], s.shape)
    contrast = info_nce(s, ignore=named_columns) + info_nce(s.T, ignore=named_columns)
    targets = same_id(named, jnp.arange(logits.shape[-1])).astype(jnp.float32)
    return masked_mean(contrast, caption) + masked_mean(cross_entropy(logits, targets), ~caption)


def inflate(params: Params, frames: int, tube: int, patch: int, how: Literal["centre", "mean"] = "centre") -> Params:
    """An Embedder's parameters over an ImageEncoder as those over VideoEncoder(attention="joint", tube=tube).

    The patch's weights are those of the middle frame of a tube, the others 0 ("centre"), or are divided by its frames ("mean"); positions
    of a patch are repeated over time. So a clip that does not move has the embedding of its picture.
    """
    encoder = dict(params["encoder"])
    kernel = encoder["embed"]["kernel"]
    width = kernel.shape[-1]
    share = jnp.full(tube, 1 / tube) if how == "mean" else (jnp.arange(tube) == tube // 2).astype(jnp.float32)
    kernel = kernel.reshape(patch, patch, 1, -1, width) * share[:, None, None]
    encoder["embed"] = encoder["embed"] | {"kernel": kernel.reshape(-1, width)}
    encoder["space"] = encoder.pop("positions")
    encoder["time"] = {"embedding": jnp.zeros((frames // tube, width), jnp.float32)}
    return params | {"encoder": encoder}
