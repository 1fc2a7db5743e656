"""The Audio Spectrogram Transformer against the numbers of transformers, which wrote its weights (the golden file says with which version)."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import mmrep
from mmrep.errors import ConfigError, DataError
from mmrep.interop import names, spectrogram
from mmrep.nn.encoders.spectrogram import SpectrogramEncoder, kaldi_mel

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "ast.npz")


def test_features_layers_and_logits_equal_the_library(tmp_path):
    weights = {
        k.partition("/")[2]: np.array(GOLDEN[k], np.float32, order="C")
        for k in GOLDEN.files
        if k.startswith("weights/")
    }
    save_file(weights, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(str(GOLDEN["config"]))
    model = mmrep.load(tmp_path)
    encoder = model.experiment.system.audio
    t = np.arange(encoder.samples) / 16_000
    chirp, tone = (
        0.3 * np.sin(2 * np.pi * 440 * t * (1 + 3 * t)),
        0.1 * np.sin(2 * np.pi * 1000 * t) * (np.arange(len(t)) < 4000),
    )
    wave = np.stack([chirp, tone]).astype(np.float32)
    mel = (np.asarray(kaldi_mel(wave[:1], 32)) + 4.2677393) / (2 * 4.5689974)
    np.testing.assert_allclose(mel[0], GOLDEN["mel"][0], atol=1e-4)
    batch = {"audio": wave, "audio_length": np.array([len(t), 4000], np.int32)}
    module = encoder.module(np.float32)
    _, out = module.apply({"params": model.params["encoder"]}, *batch.values())
    np.testing.assert_allclose(out["block00"], GOLDEN["block00"], atol=1e-4)
    np.testing.assert_allclose(model.infer("logits", batch), GOLDEN["logits"], atol=1e-4)
    tokens, _ = model.infer("audio_tokens", batch)
    np.testing.assert_allclose(model.infer("audio", batch), np.asarray(tokens)[:, :2].mean(1), atol=1e-5)
    assert model.embed(audio=[chirp[:5000].astype(np.float32)]).shape == (1, 16)
    written = names.to_arrays(spectrogram.table(encoder), model.params)
    np.testing.assert_array_equal(written["patch_embed.proj.weight"].shape, (16, 1, 16, 16))


def test_what_is_not_supported_is_one_sentence():
    with pytest.raises(DataError, match="hidden_act 'relu6'"):
        spectrogram.read({}, json.loads(str(GOLDEN["config"])) | {"hidden_act": "relu6"})
    assert spectrogram.read({}, {"model_type": "vit"}) is None
    with pytest.raises(ConfigError, match="patch is 16"):
        SpectrogramEncoder(n_mels=8)
