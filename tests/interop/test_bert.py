"""BERT's and RoBERTa's weights against the numbers of transformers, which wrote them (the golden file says with which version)."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mmrep
from mmrep.errors import ConfigError, DataError
from mmrep.interop import bert

GOLDEN = dict(np.load(Path(__file__).parents[1] / "golden" / "bert.npz"))
MODULES = "sentence_transformers.models."


def write_folder(kind, folder, prefix="", sentence=False):
    from safetensors.numpy import save_file

    folder.mkdir()
    start = f"{kind}.weights/"
    save_file(
        {prefix + k[len(start) :]: v for k, v in GOLDEN.items() if k.startswith(start)}, folder / "model.safetensors"
    )
    (folder / "config.json").write_text(str(GOLDEN[f"{kind}.config"]))
    if sentence:
        names = ("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")
        (folder / "modules.json").write_text(
            json.dumps([{"path": path, "type": MODULES + name} for name, path in names])
        )
        (folder / "1_Pooling").mkdir()
        mode = {"word_embedding_dimension": 32, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(mode))
    return folder


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_every_layer_and_the_sentence_embedding_equal_the_library(kind, tmp_path):
    model = mmrep.load(write_folder(kind, tmp_path / "sentence", sentence=True))
    ids, mask = GOLDEN[f"{kind}.ids"].astype(np.int32), GOLDEN[f"{kind}.mask"].astype(bool)
    config = model.experiment.system
    _, out = config.text.module(jnp.float32).apply({"params": model.params}, bert.swapped(jnp.asarray(ids), config.pad))
    np.testing.assert_array_equal(out["valid"], mask)
    for i, expected in enumerate(GOLDEN[f"{kind}.hidden"][1:]):
        np.testing.assert_allclose(np.asarray(out[f"block{i:02d}"])[mask], expected[mask], atol=1e-4)
    infer = model.system.infer
    np.testing.assert_allclose(infer["text"](model.params, {}, {"text": ids}), GOLDEN[f"{kind}.sentence"], atol=1e-4)
    # Without the sentence encoder's files, and under the names of a model with a head: the first token.
    plain = mmrep.load(write_folder(kind, tmp_path / "plain", prefix=f"{kind}."))
    found = plain.system.infer["text"](plain.params, {}, {"text": ids})
    np.testing.assert_allclose(found, GOLDEN[f"{kind}.hidden"][-1][:, 0], atol=1e-4)
    with pytest.raises(ConfigError, match="has no loss"):
        plain.system.loss(plain.params, {}, {"text": ids}, jax.random.key(0))


def test_what_is_not_supported_is_one_sentence(tmp_path):
    about = json.loads(str(GOLDEN["bert.config"]))
    with pytest.raises(DataError, match=r"hidden_act 'silu'"):
        bert.config_of(about | {"hidden_act": "silu"})
    with pytest.raises(DataError, match=r"relative positions"):
        bert.config_of(about | {"position_embedding_type": "relative_key"})
    with pytest.raises(DataError, match=r"module 'Dense'"):
        bert.config_of(about | {"modules": [{"type": MODULES + "Dense"}]})
    with pytest.raises(DataError, match=r"pools by \['pooling_mode_max_tokens'\]"):
        bert.config_of(about | {"modules": [{"type": MODULES + "Pooling", "pooling_mode_max_tokens": True}]})
    assert bert.config_of({"model_type": "gpt2"}) is None
    folder = write_folder("bert", tmp_path / "broken")
    (folder / "modules.json").write_text("{")
    with pytest.raises(DataError, match="list of modules"):
        mmrep.load(folder)
