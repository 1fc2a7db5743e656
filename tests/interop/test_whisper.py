"""Whisper's encoder against the numbers of transformers, which wrote the weights (the golden file says with which version)."""

from pathlib import Path

import numpy as np

import mmrep
from mmrep.nn.encoders.whisper import features

GOLDEN = dict(np.load(Path(__file__).parents[1] / "golden" / "whisper.npz"))


def test_spectrogram_and_every_layer_equal_the_library(tmp_path):
    from safetensors.numpy import save_file

    save_file(
        {k.partition("/")[2]: v for k, v in GOLDEN.items() if k.startswith("weights/")}, tmp_path / "m.safetensors"
    )
    (tmp_path / "config.json").write_text(str(GOLDEN["config"]))
    model = mmrep.load(tmp_path)
    t = np.arange(32_000) / 16_000
    chirp, tone = 0.3 * np.sin(2 * np.pi * 440 * t * (1 + t)), 0.1 * np.sin(2 * np.pi * 1000 * t) * (t < 1)
    wave = np.stack([chirp, tone]).astype(np.float32)
    np.testing.assert_allclose(features(wave, 16), GOLDEN["mel"].transpose(0, 2, 1), atol=1e-4)
    module = model.experiment.system.audio.module(np.float32)
    _, out = module.apply({"params": model.params}, wave, np.array([32_000, 16_000], np.int32))
    hidden = GOLDEN["hidden"]  # before the first block, of each block but the last, and of the last one normed
    np.testing.assert_allclose(out["block00"], hidden[1], atol=1e-4)
    np.testing.assert_allclose(out["tokens"], hidden[2], atol=1e-4)
    assert out["valid"].sum(1).tolist() == [100, 50]
    batch = {"audio": wave, "audio_length": np.array([32_000, 16_000], np.int32)}
    found = model.system.infer["audio"](model.params, {}, batch)
    np.testing.assert_allclose(found[1], hidden[2][1, :50].mean(0), atol=1e-4)
