"""Language models of others against the numbers of transformers, which wrote them (the golden file says with which version)."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mmrep
from mmrep.config import experiment_from_json, to_json
from mmrep.errors import ConfigError, DataError
from mmrep.interop import decoder_lm
from mmrep.nn.encoders.decoder_lm import generate
from mmrep.nn.positions import rotary_frequencies


@pytest.fixture(scope="module")
def golden():
    return dict(np.load(Path(__file__).parents[1] / "golden" / "decoder_lm.npz"))


def write_folder(golden, kind, folder, shards=1):
    from safetensors.numpy import save_file

    folder.mkdir()
    (folder / "config.json").write_text(str(golden[f"{kind}.config"]))
    names = sorted(k for k in golden if k.startswith(f"{kind}.weights/"))
    index = {}
    for i in range(shards):
        file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        part = {k.partition("/")[2]: golden[k] for k in names[i::shards]}
        save_file(part, folder / file, {"format": "pt"})
        index |= dict.fromkeys(part, file)
    if shards > 1:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return folder


@pytest.fixture(scope="module", params=["gpt2", "llama", "qwen2"])
def loaded(request, golden, tmp_path_factory):
    """(kind, model) of a folder; Llama's is in two shards with an index."""
    place = tmp_path_factory.mktemp("lm") / request.param
    return request.param, mmrep.load(write_folder(golden, request.param, place, 2 if request.param == "llama" else 1))


def test_logits_and_every_layer_equal_the_library(loaded, golden):
    kind, model = loaded
    ids = jnp.asarray(golden[f"{kind}.ids"], jnp.int32)
    config = model.experiment.system.lm
    logits, out = jax.jit(config.module().apply)({"params": model.params}, ids)
    np.testing.assert_allclose(logits, golden[f"{kind}.logits"], atol=1e-4)
    hidden = golden[f"{kind}.hidden"]  # of the embedding, of each block but the last, and of the last one normed
    np.testing.assert_allclose(out["block00"], hidden[1], atol=1e-4)
    np.testing.assert_allclose(out["tokens"], hidden[2], atol=1e-4)
    batch = {"text": ids}
    np.testing.assert_allclose(model.system.infer["logits"](model.params, {}, batch), logits, atol=1e-5)
    np.testing.assert_allclose(model.system.infer["text"](model.params, {}, batch), out["tokens"][:, -1], atol=1e-5)


def test_cached_greedy_generation_equals_the_library(loaded, golden):
    kind, model = loaded
    config, ids = model.experiment.system.lm, golden[f"{kind}.ids"].astype(np.int32)

    @jax.jit
    def run(params, ids, valid):
        return generate(config, params, ids, 8, jax.random.key(0), valid=valid, ends=lambda ids: ids < 0).ids

    found = run(model.params, ids, np.ones(ids.shape, bool))
    np.testing.assert_array_equal(found, golden[f"{kind}.generated"])
    # Padding in front changes nothing, whatever its ids.
    padded = np.pad(ids, ((0, 0), (3, 0)), constant_values=7)
    found = run(model.params, padded, np.pad(np.ones(ids.shape, bool), ((0, 0), (3, 0))))
    np.testing.assert_array_equal(found, golden[f"{kind}.generated"])
    with pytest.raises(ConfigError, match=r"together at most 24"):
        generate(config, model.params, ids, 20, jax.random.key(0), ends=lambda ids: ids < 0)


def test_the_model_continues_prompts_of_unequal_lengths(loaded, golden):
    kind, model = loaded
    ids, pad = golden[f"{kind}.ids"].astype(np.int32), model.experiment.system.pad
    writer = decoder_lm.Writer(dataclasses.replace(model.experiment.system, ends=()), model.params)
    found = writer.generate({"text": np.pad(ids, ((0, 0), (0, 7)), constant_values=pad)}, ["text"], length=8)["text"]
    np.testing.assert_array_equal(found, golden[f"{kind}.generated"])
    alone = writer.generate({"text": ids[:1, :5]}, ["text"], length=8)["text"]
    mixed = ids.copy()
    mixed[0, 5:] = pad
    together = writer.generate({"text": mixed}, ["text"], length=8)["text"]
    np.testing.assert_array_equal(together, [alone[0], found[1]])
    # A token that ends a text is the last but for padding.
    ended = decoder_lm.Writer(dataclasses.replace(model.experiment.system, ends=(int(found[0, 2]),)), model.params)
    cut = ended.generate({"text": ids}, ["text"], length=8)["text"][0]
    first = int(np.argmax(found[0] == found[0, 2]))
    assert cut.tolist() == [*found[0, : first + 1].tolist(), *[pad] * (7 - first)]
    drawn = [
        writer.generate({"text": ids}, ["text"], length=8, temperature=5.0, seed=s)["text"].tolist() for s in (0, 0, 1)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    with pytest.raises(ConfigError, match="continues texts"):
        model.generate("text")
    with pytest.raises(ConfigError, match="length is 0"):
        writer.generate({"text": ids}, ["text"], length=0)
    with pytest.raises(ConfigError, match=r"together at most 24"):
        writer.generate({"text": ids}, ["text"], length=20)


def test_a_prefix_of_token_vectors_equals_its_tokens(loaded, golden):
    kind, model = loaded
    module, ids = model.experiment.system.lm.module(), jnp.asarray(golden[f"{kind}.ids"], jnp.int32)
    prefix = model.params["embed"]["embedding"][ids[:, :4]]
    logits, _ = module.apply({"params": model.params}, ids[:, 4:], prefix)
    np.testing.assert_allclose(logits, golden[f"{kind}.logits"], atol=1e-4)


def test_padding_behind_a_row_has_no_effect(loaded, golden):
    kind, model = loaded
    ids, pad = jnp.asarray(golden[f"{kind}.ids"], jnp.int32), model.experiment.system.pad
    batch = {"text": jnp.pad(ids, ((0, 0), (0, 3)), constant_values=pad)}
    tokens, valid = model.system.infer["text_tokens"](model.params, {}, batch)
    assert valid.sum(1).tolist() == [9, 9]
    np.testing.assert_allclose(tokens[:, :9], golden[f"{kind}.hidden"][-1], atol=1e-4)
    loss, _ = model.system.loss(model.params, {}, batch, jax.random.key(0))
    short, _ = model.system.loss(model.params, {}, {"text": ids}, jax.random.key(0))
    np.testing.assert_allclose(loss, short, atol=1e-5)


def test_names_go_both_ways(loaded, golden):
    kind, model = loaded
    lm = model.experiment.system.lm
    written = decoder_lm.n.to_arrays(decoder_lm.table(lm), model.params)
    for key in (k for k in golden if k.startswith(f"{kind}.weights/")):
        name = key.partition("/")[2].removeprefix("transformer.").removeprefix("model.")
        if not name.endswith("attn.c_attn.bias"):  # a key bias has no effect in GPT-2, and ours has none
            np.testing.assert_array_equal(written[name], golden[key])


@pytest.mark.parametrize("kind", ["llama3", "linear"])
def test_stretched_rotary_positions_equal_the_library(golden, tmp_path, kind):
    stretched = dict(np.load(Path(__file__).parents[1] / "golden" / "decoder_lm_rotary.npz"))
    rope = json.loads(str(stretched[f"{kind}.rope"]))
    about = json.loads(str(golden["llama.config"])) | {"rope_parameters": rope}
    changed = golden | {"llama.config": np.array(json.dumps(about))}
    model = mmrep.load(write_folder(changed, "llama", tmp_path / "lm"))
    config = model.experiment.system.lm
    frequencies = rotary_frequencies(config.transformer.key_dim, config.transformer.rotary)
    np.testing.assert_allclose(frequencies, stretched[f"{kind}.frequencies"], rtol=1e-6)
    logits, _ = jax.jit(config.module().apply)({"params": model.params}, jnp.asarray(stretched["ids"], jnp.int32))
    np.testing.assert_allclose(logits, stretched[f"{kind}.logits"], atol=1e-4)
    assert experiment_from_json(to_json(model.experiment)) == model.experiment


def test_what_is_not_supported_is_one_sentence(golden):
    about = json.loads(str(golden["llama.config"]))
    with pytest.raises(DataError, match=r"scales its rotary positions by 'yarn'"):
        decoder_lm.config_of(about | {"rope_parameters": {"rope_type": "yarn", "rope_theta": 5e5}})
    with pytest.raises(DataError, match=r"config.json has attention_bias True: only False"):
        decoder_lm.config_of(about | {"attention_bias": True})
    assert decoder_lm.config_of({"model_type": "bert"}) is None
