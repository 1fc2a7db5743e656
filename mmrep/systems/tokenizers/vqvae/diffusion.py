"""A diffusion decoder with x0-prediction and a small U-Net (4M's DiVAE, arXiv 2312.06647).

signal = alphas_cumprod(1000)
loss: x0 = denoise(add_noise(x, noise, t, signal), t)        against x
sample: ddim(denoise, noise, signal, steps=25)            deterministic, given the noise
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int

from mmrep.errors import ConfigError
from mmrep.nn.attention import Attention, flat_dense
from mmrep.nn.config import TransformerConfig
from mmrep.nn.patches import patchify, unpatchify


def alphas_cumprod(steps: int = 1000, first: float = 1e-4, last: float = 0.02, zero_end: bool = True) -> np.ndarray:
    """alpha-bar of t = 0 .. steps - 1 for linear betas, the signal's part of the variance (Ho et al. 2020, DDPM).

    zero_end: shifted and scaled to 0 at the last step (zero terminal SNR, Lin et al. 2023), since sampling starts at pure noise.
    Raises ConfigError for fewer than 2 steps or betas outside (0, 1).
    """
    if steps < 2 or not 0 < first <= last < 1:
        raise ConfigError(
            f"diffusion of {steps} steps, betas {first} to {last}: give at least 2 steps, 0 < first <= last < 1"
        )
    kept = np.cumprod(1 - np.linspace(first, last, steps))
    if zero_end:
        root = np.sqrt(kept)
        kept = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
    return kept.astype(np.float32)


def _at(values: Array, like: Array) -> Array:
    return values.reshape(-1, *(1,) * (like.ndim - 1))


def add_noise(
    x: Float[Array, "B *n"], noise: Float[Array, "B *n"], t: Int[Array, " B"], signal: Float[Array | np.ndarray, " T"]
) -> Float[Array, "B *n"]:
    """sqrt(signal[t]) x + sqrt(1 - signal[t]) noise."""
    share = _at(jnp.asarray(signal)[t], x)
    return jnp.sqrt(share) * x + jnp.sqrt(1 - share) * noise


def sampling_times(total: int, steps: int) -> np.ndarray:
    """`steps` + 1 time steps from the last one evenly down to -1, the clean map ("trailing" spacing)."""
    if not 1 <= steps <= total:
        raise ConfigError(f"sampling takes {steps} steps of a diffusion of {total}: give 1 to {total}")
    return np.round(total * (1 - np.arange(steps + 1) / steps)).astype(np.int32) - 1


def ddim(
    denoise: Callable[[Array, Array], Array],
    noise: Float[Array, "B *n"],
    signal: Float[Array | np.ndarray, " T"],
    steps: int,
    bounds: tuple[Array | float, Array | float] | None = None,
) -> Float[Array, "B *n"]:
    """DDIM sampling from `noise` with eta 0 (Song et al. 2021, equation 12), as one compiled step in a scan.

    denoise: (noisy, t [B]) -> the predicted clean map.   bounds: its values are clipped to them before use.
    """
    times = jnp.asarray(sampling_times(len(signal), steps))
    share = jnp.concatenate([jnp.asarray(signal, jnp.float32), jnp.ones(1, jnp.float32)])  # at -1: all signal

    def step(x: Array, pair: Array) -> tuple[Array, None]:
        now, then = share[pair[0]], share[pair[1]]
        clean = denoise(x, jnp.full(len(x), pair[0])).astype(x.dtype)
        # As in the authors' scheduler, the noise is computed from the prediction before clipping.
        left = (x - jnp.sqrt(now) * clean) * jax.lax.rsqrt(1 - now)
        clean = clean if bounds is None else jnp.clip(clean, *bounds)
        return jnp.sqrt(then) * clean + jnp.sqrt(1 - then) * left, None

    return jax.lax.scan(step, noise, jnp.stack([times[:-1], times[1:]], axis=1))[0]


def resize_nearest(x: Float[Array, "B R S K"], rows: int, columns: int) -> Float[Array, "B {rows} {columns} K"]:
    """Nearest-neighbour resizing."""
    at_row, at_column = (np.arange(n) * old // n for n, old in ((rows, x.shape[1]), (columns, x.shape[2])))
    return x[:, at_row][:, :, at_column]


def timestep_embedding(t: Int[Array, " B"], width: int) -> Float[Array, "B {width}"]:
    """Cosines, then sines, of t at frequencies 10000^(-2k/width)."""
    angles = t.astype(jnp.float32)[:, None] * jnp.asarray(
        10_000.0 ** (-np.arange(width // 2) / (width // 2)), jnp.float32
    )
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def _norm(width: int, dtype: Any, name: str) -> nn.GroupNorm:
    groups = next(g for g in (32, 16, 8, 4, 2, 1) if (width % g == 0 and width // g >= 4) or g == 1)
    return nn.GroupNorm(groups, epsilon=1e-5, dtype=dtype, name=name)


class TimedBlock(nn.Module):
    """A residual block of two 3 x 3 convolutions; the time embedding scales and shifts the normalised features between them."""

    width: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], time: Float[Array, "B T"]) -> Float[Array, "B H W D"]:
        conv = {"kernel_size": (3, 3), "dtype": self.dtype}
        y = nn.Conv(self.width, **conv, name="conv1")(nn.silu(_norm(x.shape[-1], self.dtype, "norm1")(x)))
        scale, shift = jnp.split(
            nn.Dense(2 * self.width, dtype=self.dtype, name="time")(time)[:, None, None], 2, axis=-1
        )
        y = _norm(self.width, self.dtype, "norm2")(y) * (1 + scale) + shift
        y = nn.Conv(self.width, **conv, name="conv2")(nn.silu(y))
        return y + (x if x.shape[-1] == self.width else nn.Dense(self.width, dtype=self.dtype, name="skip")(x))


class GridAttention(nn.Module):
    """Self-attention over all positions, with a residual."""

    head: int = 64
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        b, h, w, c = x.shape
        y = _norm(c, self.dtype, "norm")(x).reshape(b, h * w, c)
        attend = Attention(TransformerConfig(width=c, heads=max(1, c // self.head)), self.dtype, name="attn")
        return x + attend(y)[0].reshape(x.shape)


class Denoiser(nn.Module):
    """A U-Net on patches (pixels moved to channels), conditioned on latents that are resized and concatenated to the noisy patches.

    channels: of the map.   widths: of each level, at half the resolution of the one before.   blocks: per level.
    attend: the first level with attention.
    """

    channels: int
    patch: int = 4
    widths: tuple[int, ...] = (256, 512, 512, 512)
    blocks: int = 3
    attend: int = 2
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, latents: Float[Array, "B R S K"], noisy: Float[Array, "B H W C"], t: Int[Array, " B"]
    ) -> Float[Array, "B H W C"]:
        rows, columns = noisy.shape[1] // self.patch, noisy.shape[2] // self.patch
        halvings = 2 ** (len(self.widths) - 1)
        if rows % halvings or columns % halvings:
            raise ConfigError(
                f"a grid of {rows} x {columns} patches is not halved {len(self.widths) - 1} times: give fewer widths"
            )
        settings = {"dtype": self.dtype}
        time = nn.Dense(4 * self.widths[0], **settings, name="time1")(timestep_embedding(t, self.widths[0]))
        time = nn.silu(nn.Dense(4 * self.widths[0], **settings, name="time2")(nn.silu(time)))
        patches = patchify(noisy, self.patch).reshape(len(noisy), rows, columns, -1)
        x = jnp.concatenate([patches, resize_nearest(latents, rows, columns)], axis=-1).astype(self.dtype)
        x = nn.Conv(self.widths[0], (3, 3), **settings, name="in")(x)

        def level(x: Array, i: int, side: str) -> Array:
            for k in range(self.blocks):
                x = TimedBlock(self.widths[i], **settings, name=f"{side}{i}_{k}")(x, time)
            return GridAttention(**settings, name=f"{side}{i}_attend")(x) if i >= self.attend else x

        kept = []
        for i in range(len(self.widths)):
            if i:
                x = nn.Conv(self.widths[i], (3, 3), (2, 2), **settings, name=f"halve{i}")(x)
            x = level(x, i, "down")
            kept.append(x)
        for i in reversed(range(len(self.widths) - 1)):
            x = resize_nearest(x, *kept[i].shape[1:3])
            x = level(jnp.concatenate([x, kept[i]], axis=-1), i, "up")
        x = nn.silu(_norm(x.shape[-1], jnp.float32, "norm_out")(x))
        y = flat_dense(nn.Dense(self.channels * self.patch**2, name="out"), x.reshape(len(x), rows * columns, -1))
        return unpatchify(y, self.patch, (rows, columns))
