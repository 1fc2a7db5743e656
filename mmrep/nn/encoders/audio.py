"""Log-mel spectrograms and a convolution-plus-transformer encoder. Waveforms are [B,T] in [-1,1], zero padded."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int

from mmrep.errors import ConfigError
from mmrep.nn.attention import padding_mask
from mmrep.nn.config import TransformerConfig
from mmrep.nn.pooling import mean_pool
from mmrep.nn.positions import sincos_1d
from mmrep.nn.transformer import Transformer

Waveform = Float[Array | np.ndarray, "B T"]


@dataclass(frozen=True)
class AudioEncoder:
    """Log-mel frames, a convolution over time for each of `strides`, a transformer, the mean over valid tokens (cf. Whisper's encoder).

    sample_rate: in Hz.   n_fft, hop: window and step of the spectrogram, in samples.   n_mels: mel bands.
    """

    transformer: TransformerConfig = TransformerConfig(depth=2)
    sample_rate: int = 16_000
    n_fft: int = 400
    hop: int = 160
    n_mels: int = 64
    strides: tuple[int, ...] = (2, 2)

    def module(self, dtype: Any, name: str | None = None, pooled_only: bool = False) -> "AudioTransformer":
        return AudioTransformer(self, dtype, name=name)


class AudioTransformer(nn.Module):
    """The module of AudioEncoder.

    `length` [B] is the number of real samples of each waveform; samples behind it are set to zero and frames centred at or behind it are
    masked everywhere, so the result does not depend on the padding.
    Returns (pooled [B,width], out); out["tokens"] has one token per hop * prod(strides) samples, out["valid"] marks the real ones.
    """

    config: AudioEncoder
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, waveform: Waveform, length: Int[Array | np.ndarray, " B"]
    ) -> tuple[Float[Array, "B D"], dict[str, Array]]:
        c, width = self.config, self.config.transformer.width
        waveform, length = jnp.asarray(waveform), jnp.asarray(length)
        waveform = waveform * (jnp.arange(waveform.shape[1]) < length[:, None])
        x = log_mel(waveform, c.sample_rate, c.n_fft, c.hop, c.n_mels, pad_mode="constant")
        # Natural-log mel power of sound in [-1, 1] is about within -23 (the floor) and 7: scaled to about +-1.5.
        x = ((x + 8) / 10).astype(self.dtype)
        valid = jnp.arange(x.shape[1]) * c.hop < length[:, None]
        for i, stride in enumerate(c.strides):
            x = x * valid[..., None]
            # Explicit padding on both sides: "SAME" would shift the grid with the parity of the number of frames.
            x = nn.Conv(width, (3,), (stride,), padding=((1, 1),), dtype=self.dtype, name=f"conv{i}")(x)
            x = nn.gelu(x, approximate=False)
            valid = valid[:, ::stride]
        x = x + sincos_1d(x.shape[1], width).astype(self.dtype)
        x, out = Transformer(c.transformer, dtype=self.dtype, name="transformer")(x, padding_mask(valid))
        out["valid"] = valid
        out["pooled"] = pooled = mean_pool(x, valid)
        return pooled, out


def _hz_to_mel(hz: np.ndarray) -> np.ndarray:
    # Slaney's Auditory Toolbox: linear below 1 kHz (3 mel per 200 Hz), above it 27 mel per factor of 6.4.
    return np.where(hz < 1000, hz * 3 / 200, 15 + 27 * np.log(np.maximum(hz, 1000) / 1000) / np.log(6.4))


def _mel_to_hz(mel: np.ndarray) -> np.ndarray:
    return np.where(mel < 15, mel * 200 / 3, 1000 * 6.4 ** ((mel - 15) / 27))


def mel_filters(
    sample_rate: int, n_fft: int, n_mels: int, fmin: float = 0.0, fmax: float | None = None
) -> Float[np.ndarray, "F {n_mels}"]:
    """Triangles on Slaney's mel scale, each scaled to unit area in Hz; F = n_fft // 2 + 1."""
    fmax = sample_rate / 2 if fmax is None else fmax
    if not 0 <= fmin < fmax <= sample_rate / 2:
        raise ConfigError(f"fmin is {fmin} and fmax is {fmax}; they must rise within 0 and {sample_rate / 2} Hz.")
    bins = np.arange(n_fft // 2 + 1) * sample_rate / n_fft
    lowest, highest = _hz_to_mel(np.array([fmin, fmax]))
    edges = _mel_to_hz(np.linspace(lowest, highest, n_mels + 2))
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    up, down = (bins[:, None] - low) / (centre - low), (high - bins[:, None]) / (high - centre)
    return (np.maximum(0, np.minimum(up, down)) * 2 / (high - low)).astype(np.float32)


def log_mel(
    waveform: Waveform,
    sample_rate: int = 16_000,
    n_fft: int = 400,
    hop: int = 160,
    n_mels: int = 64,
    fmin: float = 0.0,
    fmax: float | None = None,
    pad_mode: str = "reflect",
    floor: float = 1e-10,
) -> Float[Array, "B frames {n_mels}"]:
    """`log(max(mel, floor))`, natural logarithm, of the power spectrogram in Slaney's mel bands.

    Frame t is centred on sample t * hop under a periodic Hann window; there are 1 + T // hop of them. The ends are padded by n_fft // 2
    ("reflect", or "constant" zeros). The mel power equals librosa.feature.melspectrogram(center=True).
    Raises ConfigError where `pad_mode` is unknown or a waveform too short to reflect.
    """
    if pad_mode not in ("reflect", "constant"):
        raise ConfigError(f"pad_mode is {pad_mode!r}; choose 'reflect' or 'constant'.")
    half, length = n_fft // 2, waveform.shape[1]
    if pad_mode == "reflect" and length <= half:
        raise ConfigError(f"A waveform of {length} samples cannot be reflected by {half}; use pad_mode='constant'.")
    x = jnp.pad(jnp.asarray(waveform, jnp.float32), ((0, 0), (half, half)), mode=pad_mode)
    starts = np.arange(1 + length // hop) * hop
    frames = x[:, starts[:, None] + np.arange(n_fft)]
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)).astype(np.float32)
    spectrum = jnp.fft.rfft(frames * window)
    power = spectrum.real**2 + spectrum.imag**2
    mel = power @ mel_filters(sample_rate, n_fft, n_mels, fmin, fmax)
    return jnp.log(jnp.maximum(mel, jnp.float32(floor)))
