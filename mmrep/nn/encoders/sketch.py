"""Convolutional features beside histograms of oriented gradients, for small sets of drawings. Images are [B,H,W,C] in [0,1]."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from mmrep.errors import ConfigError
from mmrep.nn.encoders.conv import ConvEncoder
from mmrep.nn.patches import Images


@dataclass(frozen=True)
class SketchEncoder:
    """A ConvNet's last feature map, oriented gradients in n x n cells for each n of `cells`, and 8 x 8 mean colours, concatenated.

    For a few thousand drawings, where learned filters alone overfit the training images.
    widths, stem_stride: of the ConvNet.   bins: angles of the gradients.
    """

    widths: tuple[int, ...] = (64, 128)
    stem_stride: int = 4
    cells: tuple[int, ...] = (4, 8)
    bins: int = 9

    def module(self, dtype: Any, name: str | None = None, pooled_only: bool = False) -> "SketchNet":
        return SketchNet(self, dtype, name=name)


class SketchNet(nn.Module):
    """The module of SketchEncoder.

    Returns (pooled [B,D], out) with the ConvNet's `out`; the fixed features follow the learned map in pooled, each of unit variance.
    Raises ConfigError where 8 does not divide the image.
    """

    config: SketchEncoder
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Images) -> tuple[Float[Array, "B D"], dict[str, Array]]:
        c = self.config
        conv = ConvEncoder(c.widths, stem_stride=c.stem_stride, pool="flat")
        pooled, out = conv.module(self.dtype, "net")(images)
        b, h, w, channels = images.shape
        if h % 8 or w % 8:
            raise ConfigError(f"the image is {h}x{w}; SketchEncoder needs sides that 8 divides.")
        colours = jnp.asarray(images).reshape(b, 8, h // 8, 8, w // 8, channels).mean((2, 4)).reshape(b, -1)
        fixed = [oriented_gradients(images, n, c.bins) for n in c.cells] + [colours]
        pooled = jnp.concatenate([pooled] + [_standardise(x).astype(self.dtype) for x in fixed], axis=-1)
        return pooled, out | {"pooled": pooled}


def oriented_gradients(images: Images, cells: int = 8, bins: int = 9) -> Float[Array, "B D"]:
    """Histograms of oriented gradients (Dalal and Triggs 2005): cells x cells, `bins` angles in [0, pi), D = cells * cells * bins.

    The gradient of the channel that changes most votes for its two nearest angles; votes are divided by the energy of 2 x 2 cells and clipped at 0.4.
    Raises ConfigError where the image is smaller than its cells.
    """
    b, h, w, _ = images.shape
    if cells < 1 or min(h, w) < cells:
        raise ConfigError(f"cells is {cells} and the image is {h}x{w}; choose fewer cells, at least 1.")
    x = jnp.asarray(images, jnp.float32)
    dy, dx = jnp.gradient(x, axis=(1, 2))
    strongest = jnp.argmax(dx**2 + dy**2, axis=-1)[..., None]
    dy, dx = (jnp.take_along_axis(d, strongest, axis=-1)[..., 0] for d in (dy, dx))
    angle = jnp.mod(jnp.arctan2(dy, dx), jnp.pi) / jnp.pi * bins
    away = jnp.abs(angle[..., None] - jnp.arange(bins))
    votes = jnp.hypot(dx, dy)[..., None] * jnp.maximum(0.0, 1.0 - jnp.minimum(away, bins - away))
    rows, columns = h // cells, w // cells
    votes = votes[:, : cells * rows, : cells * columns].reshape(b, cells, rows, cells, columns, bins).sum((2, 4))
    energy = jnp.pad((votes**2).sum(-1), ((0, 0), (0, 1), (0, 1)), mode="edge")
    around = energy[:, :-1, :-1] + energy[:, 1:, :-1] + energy[:, :-1, 1:] + energy[:, 1:, 1:]
    return jnp.minimum(votes / jnp.sqrt(around + 1e-3)[..., None], 0.4).reshape(b, -1)


def _standardise(x: Float[Array, "B D"]) -> Float[Array, "B D"]:
    """Each row with mean 0 and variance 1; a row without variance is 0."""
    x = x - x.mean(-1, keepdims=True)
    return x * jax.lax.rsqrt((x**2).mean(-1, keepdims=True) + 1e-6)
