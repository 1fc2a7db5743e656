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
from mmrep.nn.patches import unpatchify

EPS = 1e-6
SIDE = 4  # cells per side of a token's patch in ConvNeXtHead


@dataclass(frozen=True)
class Linear:
    """LayerNorm (unless off) and a linear layer.   scale: its initial weights have standard deviation 0.02 * scale."""

    norm: bool = True
    scale: float = 1e-3


@dataclass(frozen=True)
class Mlp:
    """LayerNorm, a hidden layer with GELU, a linear layer."""

    hidden: int = 256


@dataclass(frozen=True)
class ConvNeXt:
    """width: channels of a token before they are laid out over its patch.   depth: blocks."""

    width: int = 6144
    depth: int = 4


class VectorHead(nn.Module):
    """Scores of `classes` from one vector."""

    config: Linear | Mlp
    classes: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B D"]) -> Float[Array, "B C"]:
        c, init = self.config, nn.initializers.lecun_normal()
        if isinstance(c, Mlp) or c.norm:
            x = layer_norm(self.dtype, "norm", EPS)(x.astype(jnp.float32))
        if isinstance(c, Mlp):
            x = nn.gelu(nn.Dense(c.hidden, dtype=self.dtype, name="hidden")(x), approximate=False)
        else:
            init = nn.initializers.truncated_normal(0.02 * c.scale)
        return nn.Dense(self.classes, dtype=self.dtype, kernel_init=init, name="out")(x).astype(jnp.float32)


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

    A linear layer makes of each token a block of 4 x 4 places with width / 16 channels; ConvNeXt blocks, a 1x1 convolution and bilinear
    upsampling to `size` follow.
    """

    config: ConvNeXt
    classes: int
    grid: tuple[int, int]
    size: tuple[int, int]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, tokens: Float[Array, "B N D"]) -> Float[Array, "B H W C"]:
        width, init = self.config.width, nn.initializers.truncated_normal(0.02)
        if width % SIDE**2:
            raise ConfigError(f"system.head.width is {width}: it must be a multiple of {SIDE**2}, the places per token")
        spread = nn.Dense(width, dtype=self.dtype, kernel_init=init, name="spread")
        x = unpatchify(spread(tokens.astype(self.dtype)), SIDE, self.grid)
        for i in range(self.config.depth):
            x = ConvNeXtBlock(self.dtype, name=f"block{i:02d}")(x)
        x = nn.Dense(self.classes, dtype=self.dtype, name="out")(x)
        return resize(x.astype(jnp.float32), self.size)
