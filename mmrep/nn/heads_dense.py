"""Heads that turn a plain ViT's tokens into a class or a value for every pixel, whatever the encoder: ConvNeXt blocks or DPT.

Tokens are [B, N, D] of one grid of patches in reading order (global and class tokens cut off); maps are [B, H, W, C].
"""

from collections.abc import Sequence
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from mmrep.errors import ConfigError
from mmrep.nn.transformer import Mlp, layer_norm

EPS = 1e-6


def as_grid(tokens: Float[Array, "B N D"], grid: tuple[int, int]) -> Float[Array, "B h w D"]:
    """Tokens where their patches lie. Raises ConfigError where their number is not that of the grid's places."""
    if tokens.shape[1] != grid[0] * grid[1]:
        raise ConfigError(f"a dense head got {tokens.shape[1]} tokens for a grid of {grid}: give one map's tokens")
    return tokens.reshape(tokens.shape[0], *grid, tokens.shape[-1])


def spread(x: Float[Array, "B h w E"], side: int) -> Float[Array, "B _ _ _"]:
    """Every place as side x side places of fewer channels: E is read as (row, column, channel)."""
    b, h, w, e = x.shape
    x = x.reshape(b, h, w, side, side, e // side**2).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, h * side, w * side, e // side**2)


def resize(x: Float[Array, "B H W C"], size: tuple[int, int]) -> Float[Array, "B _ _ C"]:
    """Bilinear between pixel centres, without antialiasing."""
    return jax.image.resize(x, (x.shape[0], *size, x.shape[3]), "bilinear", antialias=False)


def resize_aligned(x: Float[Array, "B H W C"], size: tuple[int, int]) -> Float[Array, "B _ _ C"]:
    """Bilinear with corner pixels laid on corner pixels, as DPT does."""

    def weights(old: int, new: int) -> Array:
        at = np.linspace(0, old - 1, new)
        return jnp.asarray(np.maximum(0, 1 - np.abs(at[:, None] - np.arange(old))), x.dtype)

    return jnp.einsum("rh,bhwc,sw->brsc", weights(x.shape[1], size[0]), x, weights(x.shape[2], size[1]))


def depthwise(x: Float[Array, "B H W C"], kernel: Float[Array, "K K 1 C"], shifted: bool) -> Float[Array, "B H W C"]:
    """Each channel convolved with a square of its own, zeros around. shifted: as a sum of moved pictures, else as a convolution."""
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
    """A depthwise convolution of an odd `side`. XLA's CPU backend has no fast one: there the slow twin is the convolution."""

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
        return x + Mlp(4 * x.shape[-1], self.dtype, name="mlp")(y)


class ConvNeXtHead(nn.Module):
    """Scores of `classes` for every pixel: a linear map of each token to a block of `side` x `side` places of width / side^2 channels,
    `depth` ConvNeXt blocks, a 1x1 convolution, and bilinear enlargement to `size` (MultiMAE, section 4.1).
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
        x = spread(nn.Dense(self.width, dtype=self.dtype, kernel_init=init, name="spread")(x), self.side)
        for i in range(self.depth):
            x = ConvNeXtBlock(self.dtype, name=f"block{i:02d}")(x)
        x = nn.Dense(self.classes, dtype=self.dtype, name="out")(x)
        return resize(x.astype(jnp.float32), self.size)


class Refine(nn.Module):
    """x + conv(relu(conv(relu(x)))), convolutions 3x3."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        y = x
        for name in ("conv1", "conv2"):
            y = nn.Conv(x.shape[-1], (3, 3), padding=1, dtype=self.dtype, name=name)(nn.relu(y))
        return x + y


class DPTHead(nn.Module):
    """`channels` numbers for every pixel out of four of an encoder's layers, from early to late (Ranftl et al. 2021, arXiv 2103.13413).

    Each layer is laid out at 4, 2, 1 and 1/2 times the grid with `dims` channels, brought to `features`, and fused from the coarsest
    on, doubling each time; the result has 16 times the grid's sides (8 times where `size` is no more), brought to `size` where that is another.
    """

    channels: int
    grid: tuple[int, int]
    size: tuple[int, int]
    dims: tuple[int, int, int, int] = (96, 192, 384, 768)
    features: int = 256
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, layers: Sequence[Float[Array, "B N D"]]) -> Float[Array, "B H W C"]:
        if len(layers) != 4:
            raise ConfigError(f"hooks name {len(layers)} layers: a DPT head reads four, from early to late")

        def conv(width: int, kernel: int, name: str, **options: Any) -> nn.Conv:
            return nn.Conv(
                width, (kernel, kernel), padding=kernel // 2, dtype=self.dtype, name=name, **options
            )  # fmt: skip

        laid = []
        for i, (tokens, width) in enumerate(zip(layers, self.dims)):
            x = conv(width, 1, f"project{i}")(as_grid(tokens, self.grid).astype(self.dtype))
            if i < 2:
                times = 4 >> i
                up = nn.ConvTranspose(width, (times, times), (times, times), "VALID", dtype=self.dtype, name=f"lay{i}")
                x = up(x)
            if i == 3:
                x = conv(width, 3, f"lay{i}", strides=(2, 2))(x)
            laid.append(conv(self.features, 3, f"bring{i}", use_bias=False)(x))
        fused: Array | None = None
        for i in (3, 2, 1, 0):
            x = laid[i] if fused is None else fused + Refine(self.dtype, name=f"take{i}")(laid[i])
            x = Refine(self.dtype, name=f"refine{i}")(x)
            # The next layer's sides: twice these, or one less where the grid is odd.
            sides = laid[i - 1].shape[1:3] if i else (2 * x.shape[1], 2 * x.shape[2])
            fused = conv(self.features, 1, f"fuse{i}")(resize_aligned(x, (sides[0], sides[1])))
        assert fused is not None
        x = conv(self.features // 2, 3, "head1")(fused)
        if x.shape[1] < self.size[0] or x.shape[2] < self.size[1]:
            x = resize_aligned(x, (2 * x.shape[1], 2 * x.shape[2]))
        x = nn.relu(conv(32, 3, "head2")(x))
        x = conv(self.channels, 1, "out")(x).astype(jnp.float32)
        return x if x.shape[1:3] == self.size else resize(x, self.size)


class TokenHead(nn.Module):
    """Scores of `classes` from the mean of all tokens: LayerNorm, then a linear map begun small."""

    classes: int
    scale: float = 1e-3
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, tokens: Float[Array, "B N D"]) -> Float[Array, "B C"]:
        init = nn.initializers.truncated_normal(0.02 * self.scale)
        x = layer_norm(self.dtype, "norm", EPS)(tokens.astype(jnp.float32).mean(1))
        return nn.Dense(self.classes, dtype=self.dtype, kernel_init=init, name="out")(x).astype(jnp.float32)
