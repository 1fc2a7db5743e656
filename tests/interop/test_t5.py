"""T5's encoder against the numbers of transformers, which wrote the weights (the golden file says with which version)."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import mmrep
from mmrep.errors import DataError
from mmrep.interop import t5

GOLDEN = dict(np.load(Path(__file__).parents[1] / "golden" / "t5.npz"))


@pytest.mark.parametrize("kind", ["t5", "flan"])
def test_every_layer_equals_the_library(kind, tmp_path):
    from safetensors.numpy import save_file

    start = f"{kind}.weights/"
    weights = {k[len(start) :]: v for k, v in GOLDEN.items() if k.startswith(start)}
    save_file(weights | {"decoder.final_layer_norm.weight": np.ones(32, np.float32)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(str(GOLDEN[f"{kind}.config"]))
    model = mmrep.load(tmp_path)
    ids, mask = GOLDEN[f"{kind}.ids"].astype(np.int32), GOLDEN[f"{kind}.mask"].astype(bool)
    hidden = GOLDEN[f"{kind}.hidden"]  # of the embedding, of each block but the last, and of the last one normed
    encoder = model.experiment.system.text
    _, out = encoder.module(jnp.float32).apply({"params": model.params}, ids)
    np.testing.assert_allclose(np.asarray(out["block00"])[mask], hidden[1][mask], atol=1e-4)
    np.testing.assert_allclose(np.asarray(out["tokens"])[mask], hidden[2][mask], atol=1e-4)
    expected = (hidden[2] * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
    np.testing.assert_allclose(model.system.infer["text"](model.params, {}, {"text": ids}), expected, atol=1e-4)
    written = t5.n.to_arrays(t5.table(encoder), model.params)
    for name, value in weights.items():
        np.testing.assert_allclose(written[name], value, rtol=1e-6)


def test_another_activation_is_one_sentence():
    about = json.loads(str(GOLDEN["t5.config"]))
    with pytest.raises(DataError, match="feed_forward_proj 'gated-relu'"):
        t5.config_of(about | {"feed_forward_proj": "gated-relu"})
    assert t5.config_of({"model_type": "bert"}) is None
