"""The Vision Transformer (Dosovitskiy et al. 2021). Images are [B,H,W,C] in [0,1]."""

from dataclasses import dataclass
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int

from mmrep.errors import ConfigError, near
from mmrep.nn.config import TransformerConfig
from mmrep.nn.norms import norm_layer
from mmrep.nn.patches import Images, patchify
from mmrep.nn.pooling import AttentionPool
from mmrep.nn.positions import LearnedPositions, sincos_2d
from mmrep.nn.transformer import Transformer


@dataclass(frozen=True)
class ImageEncoder:
    """A Vision Transformer over patches of `patch` x `patch` pixels.

    pool: "cls" (a learned class token), "mean" of the patches, or "map" (AttentionPool).
    positions: "learned" rows, or fixed sines and cosines of the grid ("sincos2d").
    pre_norm: normalise the embedded patches before the first block (CLIP).
    registers: learned tokens without position, behind the class token, that no result is taken from (Darcet et al. 2024).
    Raises ConfigError for an unknown pool or positions, or a patch below 1.
    """

    transformer: TransformerConfig = TransformerConfig()
    patch: int = 8
    pool: Literal["cls", "mean", "map"] = "mean"
    positions: Literal["learned", "sincos2d"] = "learned"
    pre_norm: bool = False
    registers: int = 0

    def __post_init__(self) -> None:
        for name, known in (("pool", ("cls", "mean", "map")), ("positions", ("learned", "sincos2d"))):
            if getattr(self, name) not in known:
                raise ConfigError(f"{name} is {getattr(self, name)!r}{near(getattr(self, name), known)}")
        if self.patch < 1:
            raise ConfigError(f"patch is {self.patch}; it must be at least 1 pixel.")

    def module(self, dtype: Any, name: str | None = None, pooled_only: bool = False) -> "ViT":
        cls_only = pooled_only and self.pool == "cls" and not self.transformer.scan
        return ViT(self, dtype, cls_only, name=name)


class ViT(nn.Module):
    """The module of ImageEncoder.

    Returns (pooled [B,width], out). out["tokens"] are the final normed tokens, with pool="cls" the class token first, then registers; out["patches"] are
    the patch tokens alone. `keep` [B,K] are the indices of the input patches, in that order (MAE); None uses all.
    `cls_only` (pool="cls") computes the last block for the class token alone: the same pooled numbers; out has no tokens.
    Raises ConfigError where `patch` does not divide the image.
    """

    config: ImageEncoder
    dtype: Any = jnp.float32
    cls_only: bool = False

    @nn.compact
    def __call__(
        self, images: Images, keep: Int[Array | np.ndarray, "B K"] | None = None
    ) -> tuple[Float[Array, "B D"], dict[str, Array]]:
        c, t = self.config, self.config.transformer
        if self.cls_only and c.pool != "cls":
            raise ConfigError(f"cls_only is True and pool is {c.pool!r}, which needs all tokens; choose pool='cls'.")
        x = patchify(images, c.patch) * 2 - 1
        x = nn.Dense(t.width, dtype=self.dtype, kernel_init=nn.initializers.xavier_uniform(), name="embed")(x)
        b, n, _ = x.shape
        if c.positions == "learned":
            x = LearnedPositions(n, dtype=self.dtype, name="positions")(x)
        else:
            grid = images.shape[1] // c.patch, images.shape[2] // c.patch
            x = x + sincos_2d(*grid, t.width).astype(self.dtype)
        if keep is not None:
            x = jnp.take_along_axis(x, keep[..., None], axis=1)
        before = c.registers
        if c.registers:
            rows = self.param("registers", nn.initializers.normal(0.02), (1, c.registers, t.width), jnp.float32)
            x = jnp.concatenate([jnp.broadcast_to(rows.astype(self.dtype), (b, c.registers, t.width)), x], axis=1)
        if c.pool == "cls":
            before += 1
            # It needs no position: a learned vector plus a learned vector is one learned vector.
            cls = self.param("cls", nn.initializers.normal(0.02), (1, 1, t.width), jnp.float32)
            x = jnp.concatenate([jnp.broadcast_to(cls.astype(self.dtype), (b, 1, t.width)), x], axis=1)
        if c.pre_norm:
            x = norm_layer(t, self.dtype, "pre_norm")(x)
        at = jnp.zeros(b, jnp.int32) if self.cls_only else None
        x, out = Transformer(t, dtype=self.dtype, name="transformer")(x, at=at)
        if not self.cls_only:
            out["patches"] = x[:, before:]
        if c.pool == "cls":
            pooled = x[:, 0]
        elif c.pool == "mean":
            pooled = x[:, before:].mean(axis=1)
        else:
            pooled = AttentionPool(t, self.dtype, name="pool")(x)
        out["pooled"] = pooled
        return pooled, out
