"""Published tokenizers give the ids of the libraries that wrote them, on texts in 15 scripts (the golden file says with which versions)."""

import dataclasses
import json
import pickle
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import mmrep
from mmrep.data import published
from mmrep.errors import ConfigError, DataError
from mmrep.interop import bert, names
from mmrep.nn.config import TransformerConfig
from mmrep.nn.encoders.text import TextEncoder

GOLDEN = np.load(Path(__file__).parents[1] / "golden/published_tokenizers.npz")
TEXTS = json.loads(str(GOLDEN["texts"]))
CASES = ("bert", "bert_cased", "bert_json", "clip", "clip_json", "gpt2", "llama", "open_clip", "qwen2", "roberta", "siglip", "t5", "xlm-roberta")  # fmt: skip
PADS = {"gpt2": 0, "llama": 2}
"""The library has no padding there; the golden ids have the end of a text."""


def folder(case, path):
    path.mkdir(exist_ok=True)
    # SigLIP's has T5's pieces.
    start = f"{'t5' if case == 'siglip' else case}/files/"
    for key in GOLDEN.files:
        if key.startswith(start):
            (path / key.removeprefix(start)).write_bytes(GOLDEN[key].tobytes())
    return path


def kind(case):
    return case if case == "open_clip" else case.partition("_")[0]


@pytest.mark.parametrize("case", CASES)
def test_ids_equal_the_library(case, tmp_path):
    pytest.importorskip("tokenizers")
    if case == "open_clip":
        pytest.importorskip("ftfy")
    packed = published.pack(folder(case, tmp_path), kind(case), PADS.get(case))
    tokens = pickle.loads(pickle.dumps(published.Published(packed)))
    length, expected = int(GOLDEN[f"{case}/length"]), GOLDEN[f"{case}/ids"]
    for text, ids in zip(TEXTS, expected):
        if case == "siglip" and "</s>" in text:
            continue  # the library puts no space behind a special token that a text itself contains
        np.testing.assert_array_equal(tokens(text, length), ids, err_msg=repr(text))
    # Another length, and back.
    assert len(tokens(TEXTS[0], 9)) == 9
    np.testing.assert_array_equal(tokens(TEXTS[1], length), expected[1])
    assert tokens.decode(tokens("a cat", length)).strip().lower() == "a cat"
    assert expected.max() < tokens.vocab and isinstance(tokens.piece(5), str)


def bert_folder(path, vocab=700):
    """A sentence encoder of random weights with the golden tokenizer."""
    from safetensors.numpy import save_file

    transformer = TransformerConfig(16, 1, 2, mlp_dim=32, norm="post", epsilon=1e-12)
    config = bert.Config(TextEncoder(transformer, vocab, 64, pool="mean"), normalise=True)
    params = config.build().init(jax.random.key(0), {"text": np.ones((1, 4), np.int32)})[0]
    arrays = names.to_arrays(bert.table(config), params)
    arrays["embeddings.position_embeddings.weight"] = arrays.pop("positions")
    save_file({k: np.array(v, order="C") for k, v in arrays.items()}, folder("bert", path) / "model.safetensors")
    about = {
        "model_type": "bert",
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    (path / "config.json").write_text(json.dumps(about | {"vocab_size": vocab, "max_position_embeddings": 64}))
    modules = [{"path": "", "type": f"models.{k}"} for k in ("Transformer", "Pooling", "Normalize")]
    modules[1] |= {"pooling_mode_mean_tokens": True}
    (path / "modules.json").write_text(json.dumps(modules))
    return path


def test_a_folder_embeds_texts_and_keeps_its_tokenizer(tmp_path):
    pytest.importorskip("tokenizers")
    model = mmrep.load(bert_folder(tmp_path / "model"))
    texts, ids = TEXTS[:6], GOLDEN["bert/ids"][:6].astype(np.int32)
    np.testing.assert_array_equal(model.tokenizer(texts), ids)  # 48 of the tokenizer's settings, 64 of the model's
    expected = np.asarray(model.infer("text", {"text": ids}))
    found = model.embed(text=texts)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    # Rows are as long as the longest text needs.
    tokens, valid = model.encode_tokens(text=["a cat"])
    assert tokens.shape == (1, *valid.shape[1:], 16) and valid.shape[1] <= 8
    again = mmrep.load(model.save(tmp_path / "saved.safetensors"))
    np.testing.assert_array_equal(again.embed(text=texts), found)
    # Training on one's own texts starts from the folder's tokenizer.
    phase = mmrep.config.Phase(start=(mmrep.Pretrained(file=str(tmp_path / "saved.safetensors")),))
    from mmrep.interop import foreign

    experiment = dataclasses.replace(model.experiment, phases=(phase,))
    assert foreign.tokenizer_of_phases(experiment) == model.sentencepiece
    phase = dataclasses.replace(phase, start=(mmrep.Pretrained(file=str(tmp_path / "model")),))
    experiment = dataclasses.replace(experiment, phases=(phase,))
    assert foreign.tokenizer_of_phases(experiment) == model.sentencepiece


def test_what_cannot_work_is_one_sentence(tmp_path, monkeypatch):
    model = mmrep.load(bert_folder(tmp_path / "model", vocab=300))
    if "tokenizers" in sys.modules or pytest.importorskip("tokenizers"):
        with pytest.raises(DataError, match=r"the tokenizer gives id \d+, the model's table has 300 rows"):
            model.embed(text=TEXTS[:15])
        with pytest.raises(ConfigError, match=r"a text of 2 ids has no room: this tokenizer adds 2 special tokens"):
            model.tokenize("a", 2)
    assert published.pack(tmp_path, "bert") is None
    (tmp_path / "vocab.json").write_text("{}")
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\n")
    with pytest.raises(ConfigError, match=r"do not say how 'phi' splits words"):
        published.Published(published.pack(tmp_path, "phi"))("a", 8)
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(DataError, match=r"tokenizer_config\.json cannot be read"):
        published.pack(tmp_path, "gpt2")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(
        ConfigError, match=r"needs the tokenizers library: pip install --no-deps -r requirements-pretrained\.txt"
    ):
        mmrep.load(bert_folder(tmp_path / "other")).embed(text=["a cat"])


def test_a_language_model_continues_texts(tmp_path):
    pytest.importorskip("tokenizers")
    from tiny_weights import gpt2_folder

    model = mmrep.load(gpt2_folder(tmp_path / "gpt2"))
    prompts = ["A red circle", "Съешь ещё"]
    found = model.generate("text", text=prompts, length=6)["text"]
    assert len(found) == 2 and all(isinstance(text, str) for text in found)
    again = mmrep.load(model.save(tmp_path / "saved.safetensors"))
    assert again.generate("text", text=prompts[1:], length=6)["text"] == found[1:]
    several = model.generate("text", text=prompts[:1], length=6, samples=2, temperature=1.0, seed=3)["text"]
    assert len(several) == 2
