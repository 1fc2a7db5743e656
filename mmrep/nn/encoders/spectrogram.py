"""The Audio Spectrogram Transformer (Gong et al. 2021, arXiv 2104.01778). Waveforms are [B,T] in [-1,1] at 16 kHz, zero padded."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int

from mmrep.errors import ConfigError
from mmrep.nn.config import TransformerConfig
from mmrep.nn.encoders.audio import Waveform
from mmrep.nn.positions import LearnedPositions
from mmrep.nn.transformer import Transformer

RATE, WINDOW, HOP, FFT = 16_000, 400, 160, 512
FLOOR = 1.192092955078125e-07


@dataclass(frozen=True)
class SpectrogramEncoder:
    """A Vision Transformer over overlapping patches of `frames` log-mel frames of 10 ms, with two class tokens.

    patch, strides: side of a patch, and its steps along frequency and time.   mean, std: the spectrogram enters as (x - mean) / (2 std).
    Raises ConfigError where a patch is larger than the spectrogram.
    """

    transformer: TransformerConfig = TransformerConfig(epsilon=1e-12)
    n_mels: int = 128
    frames: int = 1024
    patch: int = 16
    strides: tuple[int, int] = (10, 10)
    mean: float = -4.2677393
    std: float = 4.5689974

    def __post_init__(self) -> None:
        if not 1 <= self.patch <= min(self.n_mels, self.frames):
            raise ConfigError(
                f"patch is {self.patch} and the spectrogram {self.n_mels} x {self.frames}; choose a smaller one."
            )

    @property
    def samples(self) -> int:
        """Of a waveform."""
        return WINDOW + (self.frames - 1) * HOP

    def module(self, dtype: Any, name: str | None = None, pooled_only: bool = False) -> "SpectrogramTransformer":
        return SpectrogramTransformer(self, dtype, name=name)


class SpectrogramTransformer(nn.Module):
    """The module of SpectrogramEncoder; `length` [B] is the number of real samples of each waveform.

    Returns (pooled [B,width], out): the mean of both class tokens; out["tokens"] has them first, then the patches, all of a frequency band
    together. Raises ConfigError for a waveform of another length.
    """

    config: SpectrogramEncoder
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, waveform: Waveform, length: Int[Array | np.ndarray, " B"]
    ) -> tuple[Float[Array, "B D"], dict[str, Array]]:
        c, width = self.config, self.config.transformer.width
        if waveform.shape[1] != c.samples:
            raise ConfigError(f"a waveform has {waveform.shape[1]} samples; pad or cut it to {c.samples}.")
        x = kaldi_mel(waveform, c.n_mels)
        # Frames whose window is not all sound are padding, which is 0 before it is standardised.
        real = jnp.arange(c.frames) * HOP + WINDOW <= jnp.asarray(length)[:, None]
        x = (jnp.where(real[..., None], x, 0.0) - c.mean) / (2 * c.std)
        x = jnp.swapaxes(x, 1, 2)[..., None].astype(self.dtype)
        x = nn.Conv(width, (c.patch, c.patch), c.strides, "VALID", dtype=self.dtype, name="embed")(x)
        x = x.reshape(x.shape[0], -1, width)
        x = LearnedPositions(x.shape[1], dtype=self.dtype, name="positions")(x)
        cls = self.param("cls", nn.initializers.normal(0.02), (1, 2, width), jnp.float32)
        x = jnp.concatenate([jnp.broadcast_to(cls.astype(self.dtype), (x.shape[0], 2, width)), x], axis=1)
        x, out = Transformer(c.transformer, dtype=self.dtype, name="transformer")(x)
        out["pooled"] = pooled = x[:, :2].mean(axis=1)
        return pooled, out


def kaldi_mel(waveform: Waveform, n_mels: int) -> Float[Array, "B frames {n_mels}"]:
    """Log-mel power as Kaldi computes it: frames of 25 ms every 10 ms from the first sample on, without their mean, with preemphasis 0.97,
    under a symmetric Hann window; triangles on the mel scale 1127 ln(1 + f / 700) from 20 Hz to 8 kHz."""
    x = jnp.asarray(waveform, jnp.float32)
    starts = np.arange(1 + (x.shape[1] - WINDOW) // HOP) * HOP
    frames = x[:, starts[:, None] + np.arange(WINDOW)]
    frames = frames - frames.mean(-1, keepdims=True)
    before = jnp.concatenate([frames[..., :1], frames[..., :-1]], axis=-1)
    spectrum = jnp.fft.rfft((frames - 0.97 * before) * jnp.asarray(np.hanning(WINDOW), jnp.float32), FFT)
    mel = (spectrum.real**2 + spectrum.imag**2) @ kaldi_filters(n_mels)
    return jnp.log(jnp.maximum(mel, jnp.float32(FLOOR)))


def kaldi_filters(n_mels: int) -> Float[np.ndarray, "_ {n_mels}"]:
    """The triangles of `kaldi_mel`, each of height 1, for FFT // 2 + 1 frequencies."""

    def mel(hz: Any) -> Any:
        return 1127.0 * np.log(1.0 + np.asarray(hz) / 700.0)

    edges = np.linspace(mel(20.0), mel(RATE / 2), n_mels + 2)
    at = mel(np.arange(FFT // 2 + 1) * RATE / FFT)[:, None]
    up, down = (at - edges[:-2]) / (edges[1:-1] - edges[:-2]), (edges[2:] - at) / (edges[2:] - edges[1:-1])
    return np.maximum(0, np.minimum(up, down)).astype(np.float32)
