"""Encoders of videos: frames [B,T,H,W,C] in [0,1], or codes [B,T,E], the vectors of another model's frames."""

from dataclasses import dataclass
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from mmrep.errors import ConfigError, near
from mmrep.nn.attention import Attention, padding_mask
from mmrep.nn.config import TransformerConfig
from mmrep.nn.encoders.image import ImageEncoder, ViT
from mmrep.nn.norms import norm_layer
from mmrep.nn.patches import patchify
from mmrep.nn.pooling import AttentionPool, mean_pool
from mmrep.nn.positions import LearnedPositions
from mmrep.nn.transformer import Block, Transformer

Video = Float[Array | np.ndarray, "B T H W C"]
Length = Int[Array | np.ndarray, " B"]


@dataclass(frozen=True)
class VideoEncoder:
    """Patches of frames, and how they attend to one another.

    image:     the Vision Transformer of a frame: its transformer and its patch are used by every kind of attention.
    attention: "frame": each frame alone, by `image` whole (its pool, positions, class token).   "joint": all patches of all frames.
               "divided": the same place over time, then the patches of a frame with its class token (Bertasius et al. 2021, TimeSformer).
    tube:      frames in a token, for "joint" and "divided" (Arnab et al. 2021, ViViT); it divides the number of frames.
    temporal:  a transformer over the vectors of the frames, with learned positions; None: frames keep to themselves after `attention`.
    pool:      of the frames: their "mean", or "map" (AttentionPool).
    Raises ConfigError for an unknown attention or pool, or a tube that cannot work.
    """

    image: ImageEncoder = ImageEncoder()
    attention: Literal["frame", "joint", "divided"] = "frame"
    tube: int = 1
    temporal: TransformerConfig | None = None
    pool: Literal["mean", "map"] = "mean"

    def __post_init__(self) -> None:
        for name, known in (("attention", ("frame", "joint", "divided")), ("pool", ("mean", "map"))):
            if getattr(self, name) not in known:
                raise ConfigError(f"{name} is {getattr(self, name)!r}{near(getattr(self, name), known)}")
        if self.tube < 1 or (self.tube > 1 and self.attention == "frame"):
            raise ConfigError(f"tube is {self.tube}; attention 'frame' has tubes of 1 frame, the others of 1 or more.")
        if self.temporal is not None and self.temporal.width != self.image.transformer.width:
            raise ConfigError(f"temporal.width is {self.temporal.width}; choose {self.image.transformer.width}.")
        if self.attention == "divided" and self.image.transformer.scan:
            raise ConfigError("scan is True, but the blocks of attention 'divided' are not scanned; set scan=False.")

    def module(self, dtype: Any, name: str | None = None, pooled_only: bool = False) -> "VideoTransformer":
        return VideoTransformer(self, dtype, name=name)


@dataclass(frozen=True)
class CodesEncoder:
    """The vectors of another model's frames: a linear map to `width`, then, with `temporal`, learned positions and a transformer over them."""

    width: int = 64
    temporal: TransformerConfig | None = None
    pool: Literal["mean", "map"] = "mean"

    def __post_init__(self) -> None:
        if self.pool not in ("mean", "map"):
            raise ConfigError(f"pool is {self.pool!r}; choose 'mean' or 'map'.")
        if self.width < 1 or (self.temporal is not None and self.temporal.width != self.width):
            raise ConfigError(f"width is {self.width}; it must be at least 1 and equal to temporal.width.")

    def module(self, dtype: Any, name: str | None = None, pooled_only: bool = False) -> "CodesTower":
        return CodesTower(self, dtype, name=name)


class OverFrames(nn.Module):
    """What both encoders do with the vectors of frames: (their pooled vector, the vectors after `temporal`)."""

    temporal: TransformerConfig | None
    pool: str
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, frames: Float[Array, "B T D"], valid: Bool[Array, "B T"]
    ) -> tuple[Float[Array, "B D"], Float[Array, "B T D"]]:
        if self.temporal is not None:
            frames = LearnedPositions(frames.shape[1], dtype=self.dtype, name="positions")(frames)
            frames = Transformer(self.temporal, dtype=self.dtype, name="temporal")(frames, padding_mask(valid))[0]
        if self.pool == "mean":
            return mean_pool(frames, valid), frames
        config = self.temporal or TransformerConfig(frames.shape[-1], heads=1)
        return AttentionPool(config, self.dtype, name="pool")(frames, padding_mask(valid)), frames


class VideoTransformer(nn.Module):
    """The module of VideoEncoder.

    length [B]: the number of real frames; those behind it have no effect on the others. None: all are real.
    keep [B,K] (attention "joint"): indices of the input tokens, in that order (MAE); None uses all.
    Returns (pooled [B,D], out). out["frames"] [B,T/tube,D] is one vector a frame (or tube); out["tokens"] and out["valid"]: with attention
    "frame" these vectors, else all patches [B,T/tube*N,D], frame by frame. With `keep` there are no frames, and `pooled` is the mean token.
    """

    config: VideoEncoder
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, video: Video, length: Length | None = None, keep: Int[Array | np.ndarray, "B K"] | None = None
    ) -> tuple[Float[Array, "B D"], dict[str, Any]]:
        c, t = self.config, self.config.image.transformer
        if keep is not None and c.attention != "joint":
            raise ConfigError(f"keep was given and attention is {c.attention!r}; choose 'joint'.")
        if video.shape[1] % c.tube:
            raise ConfigError(f"tube is {c.tube} and the video has {video.shape[1]} frames; choose a divisor.")
        b, steps = video.shape[0], video.shape[1] // c.tube
        real = jnp.full(b, steps) if length is None else -(-jnp.asarray(length) // c.tube)
        valid = jnp.arange(steps) < real[:, None]
        out: dict[str, Any] = {}
        if c.attention == "frame":
            folded = jnp.asarray(video).reshape(-1, *video.shape[2:])
            frames, _ = ViT(c.image, self.dtype, name="frames")(folded)
            frames = frames.reshape(b, steps, -1)
        else:
            x = self._embed(video, steps)
            if c.attention == "joint":
                seen = jnp.repeat(valid, x.shape[2], axis=1)
                tokens = x.reshape(b, -1, t.width)
                if keep is not None:
                    tokens = jnp.take_along_axis(tokens, jnp.asarray(keep)[..., None], axis=1)
                    seen = jnp.take_along_axis(seen, jnp.asarray(keep), axis=1)
                tokens, out = Transformer(t, dtype=self.dtype, name="transformer")(tokens, padding_mask(seen))
                out |= {"tokens": tokens, "valid": seen, "pooled": mean_pool(tokens, seen)}
                if keep is not None:
                    return out["pooled"], out
                frames = tokens.reshape(b, steps, -1, t.width).mean(2)
            else:
                frames, tokens = self._divided(x, valid)
                out = {"tokens": tokens, "valid": jnp.repeat(valid, x.shape[2], axis=1)}
        pooled, frames = OverFrames(c.temporal, c.pool, self.dtype, name="over_frames")(frames, valid)
        out |= {"frames": frames, "frames_valid": valid, "pooled": pooled}
        if c.attention == "frame":
            out |= {"tokens": frames, "valid": valid}
        return pooled, out

    def _embed(self, video: Video, steps: int) -> Float[Array, "B _ N D"]:
        c, width = self.config, self.config.image.transformer.width
        b, _, h, w, channels = video.shape
        # A tube is a picture whose channels are those of its frames.
        tubes = jnp.asarray(video).reshape(b * steps, c.tube, h, w, channels)
        tubes = tubes.transpose(0, 2, 3, 1, 4).reshape(b * steps, h, w, -1)
        x = patchify(tubes, c.image.patch) * 2 - 1
        x = nn.Dense(width, dtype=self.dtype, kernel_init=nn.initializers.xavier_uniform(), name="embed")(x)
        x = LearnedPositions(x.shape[1], dtype=self.dtype, name="space")(x).reshape(b, steps, -1, width)
        places = x.swapaxes(1, 2)
        moved = LearnedPositions(steps, dtype=self.dtype, name="time")(places.reshape(-1, steps, width))
        return moved.reshape(places.shape).swapaxes(1, 2)

    def _divided(
        self, x: Float[Array, "B T N D"], valid: Bool[Array, "B T"]
    ) -> tuple[Float[Array, "B T D"], Float[Array, "B _ D"]]:
        t = self.config.image.transformer
        b, steps, _, width = x.shape
        cls = self.param("cls", nn.initializers.normal(0.02), (1, steps, 1, width), jnp.float32).astype(self.dtype)
        x = jnp.concatenate([jnp.broadcast_to(cls, (b, steps, 1, width)), x], axis=2)
        n = x.shape[2]
        block = nn.remat(DividedBlock) if t.remat else DividedBlock
        for i in range(t.depth):
            x = block(t, self.dtype, name=f"block{i:02d}")(x, valid)
        x = norm_layer(t, self.dtype, "norm")(x) if t.norm == "pre" else x
        return x[:, :, 0], x[:, :, 1:].reshape(b, steps * (n - 1), width)


class DividedBlock(nn.Module):
    """Attention of each place over time, then a Block within each frame (Bertasius et al. 2021, section 3, "divided space-time")."""

    config: TransformerConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B T N D"], valid: Bool[Array, "B T"]) -> Float[Array, "B T N D"]:
        c = self.config
        b, steps, n, width = x.shape
        places = x.swapaxes(1, 2).reshape(b * n, steps, width)
        normed = norm_layer(c, self.dtype, "norm_time")(places)
        mask = padding_mask(jnp.repeat(valid, n, axis=0))
        places = places + Attention(c, self.dtype, name="time")(normed, None, mask)[0]
        frames = places.reshape(b, n, steps, width).swapaxes(1, 2).reshape(b * steps, n, width)
        return Block(c, dtype=self.dtype, name="space")(frames)[0].reshape(b, steps, n, width)


class CodesTower(nn.Module):
    """The module of CodesEncoder: (pooled [B,D], out) with out["frames"] [B,T,D], the same as "tokens", and "valid"; `length` as in VideoTransformer."""

    config: CodesEncoder
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, codes: Float[Array | np.ndarray, "B T E"], length: Length | None = None
    ) -> tuple[Float[Array, "B D"], dict[str, Any]]:
        c = self.config
        b, steps, _ = codes.shape
        valid = jnp.arange(steps) < (jnp.full(b, steps) if length is None else jnp.asarray(length))[:, None]
        frames = nn.Dense(c.width, dtype=self.dtype, name="embed")(jnp.asarray(codes))
        pooled, frames = OverFrames(c.temporal, c.pool, self.dtype, name="over_frames")(frames, valid)
        return pooled, {"frames": frames, "frames_valid": valid, "tokens": frames, "valid": valid, "pooled": pooled}
