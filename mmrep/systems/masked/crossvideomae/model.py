"""CrossVideoMAE's targets, decoder, projection head and prototype."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from mmrep.losses.masked import normalise_patches
from mmrep.masking.budgets import Visible
from mmrep.nn.adapters import place
from mmrep.nn.config import TransformerConfig
from mmrep.nn.heads import l2_normalise
from mmrep.nn.norms import layer_norm
from mmrep.nn.patches import patchify
from mmrep.nn.positions import sincos_1d, sincos_2d
from mmrep.nn.transformer import Transformer

Video = Float[Array, "B T H W C"]


def tube_patches(video: Video, patch: int, tube: int) -> Float[Array, "B N P C"]:
    """Tubes of `tube` frames and patch x patch pixels, in the order of time, row, column; P = patch * patch * tube pixels (row, column, frame)."""
    b, t, h, w, c = video.shape
    frames = (
        jnp.asarray(video).reshape(b * t // tube, tube, h, w, c).transpose(0, 2, 3, 1, 4).reshape(-1, h, w, tube * c)
    )
    return patchify(frames, patch).reshape(b, -1, patch * patch * tube, c)


def tube_targets(video: Video, patch: int, tube: int) -> Float[Array, "B N P"]:
    """The pixels of each tube, each channel with mean 0 and variance 1 (over P - 1 pixels; VideoMAE). A constant channel is 0."""
    x = normalise_patches(tube_patches(video, patch, tube).swapaxes(2, 3)).swapaxes(2, 3)
    return x.reshape(*x.shape[:2], -1)


def visible_tokens(tokens: int, masked: float) -> int:
    """int(tokens * (1 - masked)): 25 of 256 at 0.9."""
    return int(tokens * (1 - masked) + 1e-6)


def prototype(x: Float[Array, "B D"], y: Float[Array, "B D"]) -> Float[Array, "B D"]:
    """The mean of a video's two views, of unit length."""
    return l2_normalise(0.5 * (x + y))


class TubeDecoder(nn.Module):
    """MAE's decoder over `steps` times the patches of a frame: `values` numbers for every token, from the visible ones and a mask token."""

    config: TransformerConfig
    values: int

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "B K D"], visible: Visible, steps: int, grid: tuple[int, int]
    ) -> Float[Array, "B N P"]:
        width, init = self.config.width, nn.initializers.xavier_uniform()
        x = nn.Dense(width, kernel_init=init, name="embed")(tokens)
        fill = jnp.asarray(self.param("mask_token", nn.initializers.normal(0.02), (width,), jnp.float32))
        x = place(x, fill.astype(x.dtype), visible.ids_keep, visible.ids_restore, jnp.int32(0))
        x = x + (sincos_1d(steps, width)[:, None] + sincos_2d(*grid, width)).reshape(-1, width)
        return nn.Dense(self.values, kernel_init=init, name="out")(Transformer(self.config, name="transformer")(x)[0])


class Head(nn.Module):
    """A linear map, LayerNorm in the place of BatchNorm, GELU, and a linear map to a vector of unit length."""

    dim: int

    @nn.compact
    def __call__(self, x: Float[Array, "B D"]) -> Float[Array, "B E"]:
        x = nn.gelu(layer_norm(jnp.float32, "norm")(nn.Dense(x.shape[-1], name="hidden")(x)))
        return l2_normalise(nn.Dense(self.dim, name="out")(x))
