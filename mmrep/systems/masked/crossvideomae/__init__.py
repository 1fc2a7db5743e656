"""CrossVideoMAE: a masked autoencoder of videos that is also contrasted with frames of the same video (Ahamed et al. 2025, arXiv 2502.07811).

Masked autoencoding of tubes, normalised targets (VideoMAE)   model.tube_targets, model.TubeDecoder
Intra-modal contrast of two views, L_im                       Config.intra, mmrep.losses.contrastive.nt_xent
Cross-modal contrast of prototype and frame, L_cm             model.prototype, Config.cross
Frozen or trained image branch                                Config.train_image, the config's Pretrained

The paper gives no formulas for several terms and no code: the prototype is the mean of both views, as in CrossPoint, and a video's frame is one
drawn at random. Contrast of single frames with a video's tokens of that time is not here.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from mmrep.errors import ConfigError, check_fields
from mmrep.losses.contrastive import nt_xent
from mmrep.losses.masked import over_targets, patch_mse
from mmrep.masking.budgets import Visible, random_masking
from mmrep.nn.config import TransformerConfig
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.nn.encoders.video import VideoEncoder
from mmrep.nn.pooling import layer_features
from mmrep.system import Batch, Extras, Metrics, Params, System, stateless
from mmrep.systems.masked.crossvideomae.model import Head, TubeDecoder, Video, prototype, tube_targets, visible_tokens


@dataclass(frozen=True)
class Config:
    """A batch has video, view and frames, each [B, T, H, W, C] in [0, 1] with an augmentation of its own; the same record's field.

    mask_video, mask_image: shares of hidden tokens, in [0, 1).   dim: of the contrast.   temperature: of NT-Xent, fixed.
    reconstruct, intra, cross: weights of the terms; 0 leaves one out.   reconstruct_view: the second view is reconstructed, too.
    train_image: False: the image branch "frames/" is frozen and encodes whole frames (leave it out of Phase.trainable); True: it is a masked
                 autoencoder itself, and two frames of a video are contrasted in L_im.
    shuffled:    an ablation: the frames are those of a random video of the batch, drawn anew each step. Were its own never among them, that
                 would be learnt, too.
    """

    video: VideoEncoder = VideoEncoder(ImageEncoder(positions="sincos2d"), attention="joint", tube=2)
    image: ImageEncoder = ImageEncoder()
    decoder: TransformerConfig = TransformerConfig(width=48, depth=1)
    mask_video: float = 0.95
    mask_image: float = 0.9
    dim: int = 128
    temperature: float = 0.1
    reconstruct: float = 1.0
    intra: float = 1.0
    cross: float = 1.0
    reconstruct_view: bool = False
    train_image: bool = False
    shuffled: bool = False

    def check(self) -> None:
        weights, masks = (self.reconstruct, self.intra, self.cross), (self.mask_video, self.mask_image)
        check_fields(self, {
            "video": (self.video.attention == "joint", "its attention must be joint, which encodes visible tokens alone"),
            "decoder": (self.decoder.width % 4 == 0, "its width must be a multiple of 4"),
            "temperature": (self.temperature > 0, "it must be positive"),
            "reconstruct": (min(weights) >= 0 and sum(weights) > 0, "weights must not be negative, nor all 0"),
            "mask_video": (all(0 <= m < 1 for m in masks), "shares of hidden tokens must be in [0, 1)"),
        })  # fmt: skip

    def build(self) -> System:
        self.check()
        video, image = self.video.module(jnp.float32), self.image.module(jnp.float32)
        tube, patch = self.video.tube, self.video.image.patch
        both = self.intra > 0 or self.cross > 0

        def modules(batch: Batch) -> dict[str, Any]:
            c = batch["video"].shape[-1]
            found: dict[str, Any] = {"video": video, "frames": image}
            found |= {"decoder": TubeDecoder(self.decoder, tube * patch**2 * c)} if self.reconstruct else {}
            if self.reconstruct and self.train_image:
                found["frame_decoder"] = TubeDecoder(self.decoder, self.image.patch**2 * c)
            found |= {"head": Head(self.dim), "frame_head": Head(self.dim)} if both else {}
            return found

        def apply(params: Params, name: str, module: Any, *inputs: Any, **options: Any) -> Any:
            return module.apply({"params": params[name]}, *inputs, **options)

        def draw(rng: PRNGKeyArray, x: Array, patch: int, steps: int, masked: float) -> Visible:
            n = steps * (x.shape[-3] // patch) * (x.shape[-2] // patch)
            if not (kept := visible_tokens(n, masked)):
                raise ConfigError(
                    f"system.mask_video and mask_image are {self.mask_video}, {self.mask_image}: of {n} tokens none is visible"
                )
            return random_masking(rng, jnp.ones((len(x), 1)), (n,), kept)

        def encode(params: Params, x: Video, rng: PRNGKeyArray) -> tuple[Array, Array, Visible]:
            at = draw(rng, x, patch, x.shape[1] // tube, self.mask_video)
            pooled, out = apply(params, "video", video, x, None, at.ids_keep)
            return pooled, out["tokens"], at

        def rebuild(
            params: Params,
            parts: dict[str, Any],
            name: str,
            tokens: Array,
            at: Visible,
            x: Video,
            patch: int,
            tube: int,
        ) -> Array:
            grid = x.shape[2] // patch, x.shape[3] // patch
            predicted = apply(params, name, parts[name], tokens, at, x.shape[1] // tube, grid)
            return over_targets(patch_mse(predicted, tube_targets(x, patch, tube)), ~at.mask)

        def init(rng: PRNGKeyArray, batch: Batch) -> tuple[Params, Extras]:
            parts, x = modules(batch), jnp.asarray(batch["video"])
            keys = dict(zip(sorted(parts), jax.random.split(rng, len(parts))))
            pooled = {"head": self.video.image.transformer.width, "frame_head": self.image.transformer.width}
            shown = {"decoder": (draw(rng, x, patch, x.shape[1] // tube, self.mask_video), x.shape[1] // tube, patch)}
            shown["frame_decoder"] = (draw(rng, x, self.image.patch, 1, self.mask_image), 1, self.image.patch)

            def inputs(name: str) -> tuple[Any, ...]:
                if name in pooled:
                    return (jnp.zeros((len(x), pooled[name])),)
                if name not in shown:
                    return (x if name == "video" else x[:, 0],)
                (at, steps, p), width = shown[name], pooled["head" if name == "decoder" else "frame_head"]
                return jnp.zeros((*at.ids_keep.shape, width)), at, steps, (x.shape[2] // p, x.shape[3] // p)

            return {name: parts[name].init(keys[name], *inputs(name))["params"] for name in parts}, {}

        def loss(params: Params, batch: Batch, rng: PRNGKeyArray) -> tuple[Array, Metrics]:
            parts, keys = modules(batch), jax.random.split(rng, 6)
            x, view, frames = (jnp.asarray(batch[name]) for name in ("video", "view", "frames"))
            if self.shuffled:
                frames = jax.random.permutation(keys[5], frames)
            pooled, tokens, at = encode(params, x, keys[0])
            terms: Metrics = {}
            keep: Visible | None = None
            if both or self.reconstruct_view:
                other, other_tokens, other_at = encode(params, view, keys[1])
            if self.reconstruct:
                terms["reconstruct"] = rebuild(params, parts, "decoder", tokens, at, x, patch, tube)
                if self.reconstruct_view:
                    terms["reconstruct"] += rebuild(params, parts, "decoder", other_tokens, other_at, view, patch, tube)
            if both or self.train_image:
                pick = lambda key: jnp.take_along_axis(  # noqa: E731
                    frames, jax.random.randint(key, (len(x), 1, 1, 1, 1), 0, x.shape[1]), 1
                )
                frame = pick(keys[2])
                if self.train_image:
                    keep = draw(keys[3], frame, self.image.patch, 1, self.mask_image)
                vector, out = apply(params, "frames", image, frame[:, 0], None if keep is None else keep.ids_keep)
                vector = vector if self.train_image else jax.lax.stop_gradient(vector)
            if self.reconstruct and keep is not None:
                terms["reconstruct"] += rebuild(
                    params, parts, "frame_decoder", out["patches"], keep, frame, self.image.patch, 1
                )
            if both:
                z, z_view = (apply(params, "head", parts["head"], p) for p in (pooled, other))
                z_frame = apply(params, "frame_head", parts["frame_head"], vector)
            if self.intra:
                terms["intra"] = nt_xent(z, z_view, 1 / self.temperature).mean()
                if self.train_image:
                    second = apply(params, "frames", image, pick(keys[4])[:, 0])[0]
                    terms["intra"] += nt_xent(
                        z_frame, apply(params, "frame_head", parts["frame_head"], second), 1 / self.temperature
                    ).mean()
            if self.cross:
                terms["cross"] = nt_xent(prototype(z, z_view), z_frame, 1 / self.temperature).mean()
            return sum((getattr(self, name) * term for name, term in terms.items()), jnp.float32(0)), terms

        def pooled(params: Params, extras: Extras, batch: Batch) -> Float[Array, "B D"]:
            return apply(params, "video", video, jnp.asarray(batch["video"]))[0]

        def frame(params: Params, batch: Batch) -> Float[Array, "B D"]:
            frames = jnp.asarray(batch["frames"])
            return apply(params, "frames", image, frames[:, frames.shape[1] // 2])[0]

        infer: dict[str, Any] = {"video": pooled, "frames": lambda params, extras, batch: frame(params, batch)}
        infer["video_layers"] = lambda params, extras, batch: layer_features(
            apply(params, "video", video, jnp.asarray(batch["video"]))[1]
        )
        if both:
            infer["shared_video"] = lambda params, extras, batch: apply(
                params, "head", Head(self.dim), pooled(params, extras, batch)
            )
            infer["shared_frame"] = lambda params, extras, batch: apply(
                params, "frame_head", Head(self.dim), frame(params, batch)
            )
        return System(init, stateless(loss), infer)
