"""Models written for other libraries: the golden file has what these libraries computed from the same folders."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import mmrep
from mmrep.errors import ConfigError

FOLDER = Path(__file__).parents[1] / "golden"
GOLDEN = np.load(FOLDER / "export.npz")
CLIP, VIT, BERT = (np.load(FOLDER / f"{name}.npz") for name in ("clip", "vit", "bert"))


def arrays(golden, start):
    return {
        k.removeprefix(start): np.array(golden[k], np.float32, order="C") for k in golden.files if k.startswith(start)
    }


def load(folder, weights, config, name="config.json"):
    folder.mkdir()
    save_file(weights, folder / "model.safetensors")
    if config is not None:
        (folder / name).write_text(str(config))
    return mmrep.load(folder)


def check(folder, case):
    """The arrays of a written folder are those from which the golden numbers were computed."""
    (file,) = folder.glob("*.safetensors")
    found = load_file(file)
    assert sorted(found) == str(GOLDEN[f"{case}/names"]).split(" ")
    for name, sums in zip(sorted(found), GOLDEN[f"{case}/sums"]):
        value = found[name].astype(np.float64)
        np.testing.assert_allclose([value.sum(), np.abs(value).sum()], sums, rtol=1e-4, atol=1e-3, err_msg=name)


def clip(case, path):
    kind, name = ("hf", "config.json") if case.startswith("hf") else ("open_clip", "open_clip_config.json")
    model = load(path, arrays(CLIP, f"{kind}/weights/"), CLIP[f"{case}/config"], name)
    embed = model.params["image"]["encoder"]["embed"]
    # The bias of the patches, which CLIP has not, as training would change it.
    embed["bias"] = embed["bias"] + np.linspace(-1, 1, len(embed["bias"]), dtype=np.float32)
    return model


@pytest.mark.parametrize("form", ["hf", "open_clip"])
@pytest.mark.parametrize("case", ["hf_quick_gelu", "open_clip_gelu"])
def test_clip_has_equal_outputs_in_both_libraries(case, form, tmp_path):
    model = clip(case, tmp_path / "given")
    written = model.save(tmp_path / "written", format=form)
    check(written, f"{case}-{form}")
    again = mmrep.load(written)
    batch = {"image": CLIP["pixels"], "text": CLIP["ids" if case.startswith("hf") else "ids_zero"]}
    for name in ("image", "text"):
        found = model.infer(name, batch)
        np.testing.assert_allclose(found, GOLDEN[f"{case}-{form}/{name}"], atol=1e-5)
        np.testing.assert_allclose(again.infer(name, batch), found, atol=1e-5)
    assert again.data.modalities == model.data.modalities


@pytest.mark.parametrize("case", ["vit", "dinov2", "augreg"])
def test_vit_has_equal_outputs_in_the_library(case, tmp_path):
    config = VIT[f"{case}/config"] if f"{case}/config" in VIT.files else None
    if config is None:
        np.savez(tmp_path / "given.npz", **arrays(VIT, f"{case}/weights/"))
        model = mmrep.load(tmp_path / "given.npz")
    else:
        model = load(tmp_path / "given", arrays(VIT, f"{case}/weights/"), config)
    written = model.save(tmp_path / "written", format="hf")
    check(written, case)
    batch = {"image": np.random.default_rng(0).random((2, 32, 32, 3), np.float32)}
    found = model.infer("logits", batch) if case != "dinov2" else model.infer("image_tokens", batch)[0]
    np.testing.assert_allclose(found, GOLDEN[f"{case}/{'last' if case == 'dinov2' else 'logits'}"], atol=1e-5)
    again = mmrep.load(written)
    np.testing.assert_allclose(again.infer("image", batch), model.infer("image", batch), atol=1e-5)


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_sentence_encoders_have_equal_outputs_in_the_library(kind, tmp_path):
    spec = importlib.util.spec_from_file_location("bert_folders", Path(__file__).with_name("test_bert.py"))
    folders = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(folders)
    model = mmrep.load(folders.write_folder(kind, tmp_path / "given", sentence=True))
    written = model.save(tmp_path / "written", format="hf")
    check(written, kind)
    batch = {"text": BERT[f"{kind}.ids"].astype(np.int32)}
    found = model.infer("text", batch)
    np.testing.assert_allclose(found, GOLDEN[f"{kind}/sentence"], atol=1e-5)
    again = mmrep.load(written)
    assert again.experiment.system == model.experiment.system
    np.testing.assert_allclose(again.infer("text", batch), found, atol=1e-6)


def test_what_has_no_such_form_is_one_sentence(tmp_path):
    model = clip("hf_gelu", tmp_path / "given")
    with pytest.raises(ConfigError, match=r"format is 'hff'"):
        model.save(tmp_path / "x", format="hff")
    with pytest.raises(ConfigError, match=r"must be a folder"):
        model.save(tmp_path / "x.safetensors", format="hf")
    with pytest.raises(ConfigError, match=r"pools a causal encoder at a token that ends a text"):
        mmrep.create("clip", "tiny").save(tmp_path / "x", format="hf")
    with pytest.raises(ConfigError, match=r"has no form in the format 'open_clip'"):
        mmrep.create("align", "tiny").save(tmp_path / "x", format="open_clip")
