"""Whisper's audio encoder (Radford et al. 2023). Waveforms are [B,T] in [-1,1] at 16 kHz, of one fixed length, zero padded."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int

from mmrep.errors import ConfigError
from mmrep.nn.config import TransformerConfig
from mmrep.nn.encoders.audio import Waveform, log_mel
from mmrep.nn.pooling import mean_pool
from mmrep.nn.positions import LearnedPositions
from mmrep.nn.transformer import Transformer, gelu

HOP = 160


@dataclass(frozen=True)
class WhisperEncoder:
    """Two convolutions over log-mel frames, the second of stride 2, then a transformer over `length` tokens of 20 ms each.

    n_mels: mel bands.   The transformer attends to the silence behind a sound, as Whisper does; the pooled mean is over the sound alone.
    """

    transformer: TransformerConfig = TransformerConfig(depth=2)
    n_mels: int = 80
    length: int = 1500

    @property
    def samples(self) -> int:
        """Of a waveform."""
        return 2 * HOP * self.length

    def module(self, dtype: Any, name: str | None = None, pooled_only: bool = False) -> "WhisperTransformer":
        return WhisperTransformer(self, dtype, name=name)


class WhisperTransformer(nn.Module):
    """The module of WhisperEncoder; `length` [B] is the number of real samples of each waveform.

    Returns (pooled [B,width], out) with out["tokens"], out["valid"] and the blocks. Raises ConfigError for a waveform of another length.
    """

    config: WhisperEncoder
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, waveform: Waveform, length: Int[Array | np.ndarray, " B"]
    ) -> tuple[Float[Array, "B D"], dict[str, Array]]:
        c, width = self.config, self.config.transformer.width
        if waveform.shape[1] != c.samples:
            raise ConfigError(f"a waveform has {waveform.shape[1]} samples; pad or cut it to {c.samples}.")
        x = features(waveform, c.n_mels).astype(self.dtype)
        for i, stride in enumerate((1, 2)):
            x = gelu(nn.Conv(width, (3,), (stride,), padding=((1, 1),), dtype=self.dtype, name=f"conv{i}")(x))
        x = LearnedPositions(c.length, dtype=self.dtype, name="positions")(x)
        x, out = Transformer(c.transformer, dtype=self.dtype, name="transformer")(x)
        out["valid"] = valid = jnp.arange(c.length) * 2 * HOP < jnp.asarray(length)[:, None]
        out["pooled"] = pooled = mean_pool(x, valid)
        return pooled, out


def features(waveform: Waveform, n_mels: int) -> Float[Array, "B frames {n_mels}"]:
    """The base-10 log-mel spectrogram, cut at 8 below its greatest value (80 dB), plus 4, over 4; without the last frame."""
    x = log_mel(waveform, n_mels=n_mels)[:, :-1] / jnp.log(10.0)
    return (jnp.maximum(x, x.max(axis=(1, 2), keepdims=True) - 8) + 4) / 4
