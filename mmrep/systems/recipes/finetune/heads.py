"""Heads on an encoder's features: linear and MLP on one vector, ConvNeXt on tokens for classes at every pixel (DPT: see dpt.py).

Tokens are [B, N, D] of one grid of patches in reading order, without global and class tokens; maps are [B, H, W, C].
"""

from dataclasses import dataclass
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from mmrep.errors import ConfigError
from mmrep.nn import transformer
from mmrep.nn.norms import layer_norm

EPS = 1e-6


@dataclass(frozen=True)
class Linear:
    """LayerNorm (unless off) and a linear layer.   scale: its initial weights have standard deviation 0.02 * scale."""

    norm: bool = True
    scale: float = 1e-3

    def module(self, classes: int, dtype: Any) -> nn.Module:
        return LinearHead(classes, self.norm, self.scale, dtype)


@dataclass(frozen=True)
class Mlp:
    """LayerNorm, a hidden layer with GELU, a linear layer."""

    hidden: int = 256

    def module(self, classes: int, dtype: Any) -> nn.Module:
        return MlpHead(classes, self.hidden, dtype)


@dataclass(frozen=True)
class ConvNeXt:
    """width: channels of a token before they are laid out over its patch.   depth: blocks."""

    width: int = 6144
    depth: int = 4

    def module(self, channels: int, grid: tuple[int, int], size: tuple[int, int], dtype: Any) -> nn.Module:
        return ConvNeXtHead(channels, grid, size, self.width, 4, self.depth, dtype)


def as_grid(tokens: Float[Array, "B N D"], grid: tuple[int, int]) -> Float[Array, "B h w D"]:
    """Tokens laid out on their grid. Raises ConfigError where their number is not that of its places."""
    if tokens.shape[1] != grid[0] * grid[1]:
        raise ConfigError(f"a dense head got {tokens.shape[1]} tokens for a grid of {grid}: give the tokens of one map")
    return tokens.reshape(tokens.shape[0], *grid, tokens.shape[-1])


def pixel_shuffle(x: Float[Array, "B h w E"], side: int) -> Float[Array, "B _ _ _"]:
    """Each place as side x side places with fewer channels; E is laid out as (row, column, channel)."""
    b, h, w, e = x.shape
    x = x.reshape(b, h, w, side, side, e // side**2).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, h * side, w * side, e // side**2)


def resize(x: Float[Array, "B H W C"], size: tuple[int, int]) -> Float[Array, "B _ _ C"]:
    """Bilinear between pixel centres, without antialiasing."""
    return jax.image.resize(x, (x.shape[0], *size, x.shape[3]), "bilinear", antialias=False)


def depthwise(x: Float[Array, "B H W C"], kernel: Float[Array, "K K 1 C"], shifted: bool) -> Float[Array, "B H W C"]:
    """Each channel convolved with its own kernel, zero padded. shifted: as a sum of shifted images, otherwise as a convolution."""
    side, (rows, columns) = kernel.shape[0], x.shape[1:3]
    if not shifted:
        axes = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=axes, feature_group_count=x.shape[-1]
        )
    around = jnp.pad(x, ((0, 0), (side // 2, side // 2), (side // 2, side // 2), (0, 0)))
    moved = [around[:, i : i + rows, j : j + columns] * kernel[i, j, 0] for i in range(side) for j in range(side)]
    return reduce(jnp.add, moved)


class Depthwise(nn.Module):
    """A depthwise convolution of an odd `side`; on a CPU as a sum of shifted images, since XLA has no fast one there."""

    side: int = 7
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        c = x.shape[-1]
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (self.side, self.side, 1, c))
        bias = self.param("bias", nn.initializers.zeros_init(), (c,))
        x, kernel, bias = (v.astype(self.dtype) for v in (x, kernel, bias))
        summed, convolved = partial(depthwise, shifted=True), partial(depthwise, shifted=False)
        return jax.lax.platform_dependent(x, kernel, cpu=summed, default=convolved) + bias


class ConvNeXtBlock(nn.Module):
    """x + MLP(LN(depthwise 7x7(x))), the MLP four times as wide, without layer scale (Liu et al. 2022, arXiv 2201.03545)."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        y = Depthwise(7, self.dtype, name="depthwise")(x)
        y = layer_norm(self.dtype, "norm", EPS)(y)
        return x + transformer.Mlp(4 * x.shape[-1], self.dtype, name="mlp")(y)


class ConvNeXtHead(nn.Module):
    """Scores of `classes` for every pixel (MultiMAE, section 4.1).

    A linear layer makes of each token a block of `side` x `side` places with width / side^2 channels; `depth` ConvNeXt blocks, a 1x1
    convolution and bilinear upsampling to `size` follow.
    """

    classes: int
    grid: tuple[int, int]
    size: tuple[int, int]
    width: int = 6144
    side: int = 4
    depth: int = 4
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, tokens: Float[Array, "B N D"]) -> Float[Array, "B H W C"]:
        if self.width % self.side**2:
            raise ConfigError(
                f"head_width is {self.width}: it must be a multiple of {self.side**2}, the places a token"
            )
        init = nn.initializers.truncated_normal(0.02)
        x = as_grid(tokens, self.grid).astype(self.dtype)
        x = pixel_shuffle(nn.Dense(self.width, dtype=self.dtype, kernel_init=init, name="spread")(x), self.side)
        for i in range(self.depth):
            x = ConvNeXtBlock(self.dtype, name=f"block{i:02d}")(x)
        x = nn.Dense(self.classes, dtype=self.dtype, name="out")(x)
        return resize(x.astype(jnp.float32), self.size)


class LinearHead(nn.Module):
    """Scores of `classes` from one vector: LayerNorm, then a linear layer with small initial weights."""

    classes: int
    norm: bool = True
    scale: float = 1e-3
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B D"]) -> Float[Array, "B C"]:
        init = nn.initializers.truncated_normal(0.02 * self.scale)
        x = layer_norm(self.dtype, "norm", EPS)(x.astype(jnp.float32)) if self.norm else x
        return nn.Dense(self.classes, dtype=self.dtype, kernel_init=init, name="out")(x).astype(jnp.float32)


class MlpHead(nn.Module):
    """Scores of `classes` from one vector: LayerNorm, a hidden layer with GELU, a linear layer."""

    classes: int
    hidden: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B D"]) -> Float[Array, "B C"]:
        x = layer_norm(self.dtype, "norm", EPS)(x.astype(jnp.float32))
        x = nn.gelu(nn.Dense(self.hidden, dtype=self.dtype, name="hidden")(x), approximate=False)
        return nn.Dense(self.classes, dtype=self.dtype, name="out")(x).astype(jnp.float32)
