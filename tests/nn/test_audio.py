from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrep.errors import ConfigError
from mmrep.nn.config import TransformerConfig
from mmrep.nn.encoders.audio import AudioEncoder, AudioTransformer, log_mel, mel_filters

KEY = jax.random.key(0)
LIBROSA = np.load(Path(__file__).parents[1] / "golden" / "librosa.npz")


def sound(n, seed=0):
    t = np.arange(n) / 16_000
    noise = np.random.default_rng(seed).normal(size=n)
    return (0.4 * np.sin(2 * np.pi * (300 + 1500 * t) * t) + 0.05 * noise).astype(np.float32)


@pytest.mark.parametrize(
    "rate, n_fft, hop, n_mels, pad_mode, n",
    [(16_000, 400, 160, 64, "reflect", 4000), (22_050, 512, 200, 40, "constant", 3333)],
)
def test_log_mel_equals_librosa(rate, n_fft, hop, n_mels, pad_mode, n):
    """Stored: librosa 0.11.0, melspectrogram(y=waves, sr=rate, n_fft=..., hop_length=hop, n_mels=..., center=True, pad_mode=...)."""
    waves, power = np.stack([sound(n), sound(n, 1)]), LIBROSA[pad_mode]
    ours = jax.jit(lambda w: log_mel(w, rate, n_fft, hop, n_mels, pad_mode=pad_mode))(waves)
    np.testing.assert_allclose(jnp.exp(ours), power, rtol=1e-4)
    np.testing.assert_allclose(ours, np.log(np.maximum(power, 1e-10)), atol=1e-4)


def test_log_mel_golden_numbers():
    """Literals of librosa 0.11.0: melspectrogram(sr=16000, n_fft=400, hop_length=160, n_mels=8, pad_mode="reflect"), then log."""
    t = np.arange(1600) / 16_000
    wave = (0.5 * np.sin(2 * np.pi * 440 * t)).astype(np.float32)
    wave[790] += 0.2
    expected = [2.02939, 1.24244, -6.91905, -6.92086, -6.92001, -6.91999, -6.92011, -6.92017]
    np.testing.assert_allclose(log_mel(wave[None], n_mels=8)[0, 5], expected, atol=1e-4)


def test_silence_is_the_floor():
    np.testing.assert_allclose(log_mel(np.zeros((1, 800), np.float32)), np.full((1, 6, 64), np.log(1e-10)), rtol=1e-6)


def test_mel_filters_equal_librosa_with_limits():
    """Stored: librosa 0.11.0, filters.mel(sr=16000, n_fft=512, n_mels=30, fmin=50, fmax=7000)."""
    np.testing.assert_allclose(mel_filters(16_000, 512, 30, 50.0, 7000.0), LIBROSA["filters"], rtol=1e-4, atol=1e-8)


def test_padding_has_no_effect():
    """Lengths at and around the edges of frames and of strides; the padding is zeros or noise."""
    lengths = np.array([1600, 1601, 1760, 1761, 1921])
    module = AudioTransformer(AudioEncoder(TransformerConfig(width=16, depth=1, heads=2), n_mels=8))
    rubbish = np.stack([sound(3000, seed) for seed in range(5)])
    waves = rubbish * (np.arange(3000) < lengths[:, None])
    params = jax.jit(module.init)(KEY, waves, lengths)
    run = jax.jit(module.apply)
    pooled, out = run(params, waves[:, :1921], lengths)
    for padded in (waves, rubbish):
        again, padded_out = run(params, padded, lengths)
        np.testing.assert_allclose(again, pooled, atol=2e-6)
        valid = out["valid"]
        np.testing.assert_array_equal(padded_out["valid"].sum(1), valid.sum(1))
        n = valid.shape[1]
        np.testing.assert_allclose(padded_out["tokens"][:, :n][valid], out["tokens"][valid], atol=1e-5)
    alone, _ = run(params, waves[:1, :1600], lengths[:1])
    np.testing.assert_allclose(alone[0], pooled[0], atol=2e-6)


def test_last_samples_have_an_effect_and_tokens_have_the_stride():
    module = AudioTransformer(AudioEncoder(TransformerConfig(width=32, depth=1, heads=2), n_mels=16))
    wave = sound(6400)[None]
    params = jax.jit(module.init)(KEY, wave, np.array([6400]))
    run = jax.jit(module.apply)
    pooled, out = run(params, wave, np.array([6400]))
    assert out["tokens"].shape == (1, 11, 32)
    np.testing.assert_array_equal(out["valid"][0], [True] * 10 + [False])  # the last frame is centred behind the end
    changed = wave.copy()
    changed[0, -100:] = 0
    assert np.abs(run(params, changed, np.array([6400]))[0] - pooled).max() > 1e-4


def test_an_empty_waveform_is_finite_with_finite_gradient():
    module = AudioTransformer(AudioEncoder(TransformerConfig(width=32, depth=1, heads=2), n_mels=16))
    wave, length = np.zeros((1, 1600), np.float32), np.array([0])
    params = jax.jit(module.init)(KEY, wave, length)
    value, gradient = jax.jit(jax.value_and_grad(lambda p: module.apply(p, wave, length)[0].sum()))(params)
    assert value == 0 and all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_errors_name_the_field():
    with pytest.raises(ConfigError, match="pad_mode"):
        log_mel(np.zeros((1, 800), np.float32), pad_mode="edge")
    with pytest.raises(ConfigError, match="pad_mode='constant'"):
        log_mel(np.zeros((1, 100), np.float32))
    with pytest.raises(ConfigError, match="fmax"):
        mel_filters(16_000, 400, 8, fmax=9000.0)
