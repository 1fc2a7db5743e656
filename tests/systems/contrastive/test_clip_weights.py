"""CLIP weights of others give the numbers of their own library (golden files of tiny random models)."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

import mmrep
from mmrep.errors import ConfigError, DataError
from mmrep.interop import names
from mmrep.systems.contrastive.clip import weights

PIXELS = np.load(Path(__file__).parents[2] / "golden/clip_pixels.npz")
GOLDEN = np.load(Path(__file__).parents[2] / "golden/clip.npz")
CASES = ("hf_quick_gelu", "hf_gelu", "open_clip_quick_gelu", "open_clip_gelu")


def arrays(case: str) -> dict[str, np.ndarray]:
    prefix = f"{'hf' if case.startswith('hf') else 'open_clip'}/weights/"
    return {k.removeprefix(prefix): GOLDEN[k].astype(np.float32) for k in GOLDEN.files if k.startswith(prefix)}


def folder(case: str, path: Path) -> Path:
    config = "config.json" if case.startswith("hf") else "open_clip_config.json"
    (path / config).write_text(str(GOLDEN[f"{case}/config"]))
    save_file({k: np.array(v, order="C") for k, v in arrays(case).items()}, path / "model.safetensors")
    return path


@pytest.mark.parametrize("case", CASES)
def test_features_and_logits_equal_the_reference(case, tmp_path):
    model = mmrep.load(folder(case, tmp_path))
    ids = GOLDEN["ids" if case.startswith("hf") else "ids_zero"]
    batch = {"image": GOLDEN["pixels"], "text": ids}
    image, text = (np.asarray(model.infer(name, batch)) for name in ("image", "text"))
    np.testing.assert_allclose(image, GOLDEN[f"{case}/image"], atol=1e-4)
    np.testing.assert_allclose(text, GOLDEN[f"{case}/text"], atol=1e-4)
    scale = np.exp(model.params["scale"]["log_scale"])
    np.testing.assert_allclose(scale * image @ text.T, GOLDEN[f"{case}/logits"], atol=1e-4 * scale)


def test_pixels_equal_the_reference(tmp_path):
    """Odd sizes, transparency and one channel, in grey levels."""
    model = mmrep.load(folder("hf_gelu", tmp_path))
    for name in ("rgb_wide", "rgb_tall", "alpha", "grey", "small"):
        found = model.preprocess("image", Image.fromarray(PIXELS[f"{name}/picture"]))
        np.testing.assert_allclose(255 * found, PIXELS[f"{name}/pixels"], atol=1e-2, err_msg=name)


def test_raw_text_without_a_tokenizer_is_one_sentence(tmp_path):
    with pytest.raises(
        ConfigError, match=r"'text' is text and the model has no tokenizer: .* token ids to model\.infer"
    ):
        mmrep.load(folder("hf_gelu", tmp_path)).embed(text=["a star"])


def test_a_folder_with_both_names_of_one_model_loads(tmp_path):
    folder("hf_gelu", tmp_path)
    save_file(arrays("open_clip_gelu"), tmp_path / "open_clip_model.safetensors")
    (tmp_path / "open_clip_config.json").write_text(str(GOLDEN["open_clip_gelu/config"]))
    image = mmrep.load(tmp_path).infer("image", {"image": GOLDEN["pixels"]})
    np.testing.assert_allclose(image, GOLDEN["hf_gelu/image"], atol=1e-4)


def test_parameters_are_written_back_under_their_names(tmp_path):
    given = arrays("open_clip_gelu")
    config = json.loads(str(GOLDEN["open_clip_gelu/config"]))
    found = weights.read(given, config)
    assert found is not None
    rows = weights.table(8)
    written = names.to_arrays(rows, found[1])
    again = names.to_params(rows, written, found[1])
    assert {*written} == {*given} and all(written[k].shape == given[k].shape for k in given)
    np.testing.assert_allclose(written["visual.conv1.weight"], given["visual.conv1.weight"], atol=1e-6)
    np.testing.assert_allclose(again["image"]["encoder"]["cls"], found[1]["image"]["encoder"]["cls"], atol=1e-6)
    found[1]["image"]["encoder"]["embed"]["bias"] += 1
    with pytest.raises(ConfigError, match="bias of the patch embedding"):
        names.to_arrays(rows, found[1])


def test_what_the_config_lacks_or_asks_for_is_one_sentence():
    with pytest.raises(DataError, match=r"CLIPModel without its config\.json"):
        weights.read(arrays("hf_gelu"), {})
    with pytest.raises(DataError, match=r"without open_clip_config\.json"):
        weights.read(arrays("open_clip_gelu"), {})
    config = json.loads(str(GOLDEN["open_clip_gelu/config"]))
    config["model_cfg"]["text_cfg"]["embed_cls"] = True
    with pytest.raises(DataError, match=r"model_cfg\.text_cfg\.embed_cls is True"):
        weights.read(arrays("open_clip_gelu"), config)
    config = json.loads(str(GOLDEN["hf_gelu/config"]))
    config["text_config"]["hidden_act"] = "gelus"
    with pytest.raises(DataError, match=r"hidden_act is 'gelus'"):
        weights.read(arrays("hf_gelu"), config)
