"""Vision Transformers of others against the numbers of their libraries (the golden file says with which versions)."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

import mmrep
from mmrep.errors import ConfigError, DataError
from mmrep.interop import names, vit

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "vit.npz")
IMAGENET = np.array(vit.IMAGENET[0]), np.array(vit.IMAGENET[1])


def arrays(case):
    start = f"{case}/weights/"
    return {
        k.removeprefix(start): np.array(GOLDEN[k], np.float32, order="C") for k in GOLDEN.files if k.startswith(start)
    }


def load(case, path, **options):
    if f"{case}/config" not in GOLDEN.files:
        np.savez(path / "model.npz", **arrays(case))
        return mmrep.load(path / "model.npz")
    save_file(arrays(case), path / "model.safetensors")
    (path / "config.json").write_text(str(GOLDEN[f"{case}/config"]))
    return mmrep.load(path, **options)


def pixels(case, model):
    """The golden, standardised pixels as [0, 1] (and beyond) for our encoder."""
    found = GOLDEN[f"pixels{int(GOLDEN[f'{case}/size'])}"].astype(np.float32)
    imagenet = case in ("dinov2", "dinov2_giant", "registers", "timm_registers")
    mean, std = IMAGENET if imagenet else (0.5, 0.5)
    return (found * std + mean).astype(np.float32)


CASES = ("vit", "dinov2", "dinov2_giant", "registers", "timm", "timm_registers", "augreg", "big_vision_map")


@pytest.mark.parametrize("case", CASES)
def test_layers_and_outputs_equal_the_library(case, tmp_path):
    size = int(GOLDEN[f"{case}/size"])
    model = load(case, tmp_path, **({"image_size": size} if case in ("dinov2", "registers") else {}))
    batch = {"image": pixels(case, model)}
    assert model.modality("image").shape == batch["image"].shape[1:]
    tokens, valid = model.infer("image_tokens", batch)
    assert valid.all()
    pooled = np.asarray(model.infer("image", batch))
    if f"{case}/last" in GOLDEN.files:
        np.testing.assert_allclose(tokens, GOLDEN[f"{case}/last"], atol=1e-4)
    if f"{case}/block00" in GOLDEN.files:
        module = model.experiment.system.image.module(np.float32)
        _, out = module.apply({"params": model.params["encoder"]}, batch["image"])
        np.testing.assert_allclose(out["block00"], GOLDEN[f"{case}/block00"], atol=1e-4)
    if f"{case}/logits" in GOLDEN.files:
        np.testing.assert_allclose(model.infer("logits", batch), GOLDEN[f"{case}/logits"], atol=1e-4)
    if f"{case}/pooled" in GOLDEN.files:
        np.testing.assert_allclose(pooled, GOLDEN[f"{case}/pooled"], atol=1e-4)
    elif "map" not in case:
        np.testing.assert_allclose(pooled, tokens[:, 0], atol=1e-5)


@pytest.mark.parametrize("kind", ["squash", "crop", "timm"])
def test_pixels_equal_the_library(kind):
    """In grey levels; the pictures have odd sizes, and one has one channel."""
    about = {
        "squash": ({"size": {"height": 16, "width": 16}, "resample": 2}, {}),
        "crop": ({"size": {"shortest_edge": 20}, "crop_size": {"height": 16, "width": 16}, "do_center_crop": True, "resample": 3}, {}),
        "timm": ({}, {"crop_pct": 0.8, "interpolation": "bicubic"}),
    }[kind]  # fmt: skip
    m = vit.picture(*about, patch=8, places=4)
    for name in ("wide", "tall", "grey"):
        found = mmrep.modality.encode(m, Image.fromarray(GOLDEN[f"picture/{name}"]), None)["image"]
        np.testing.assert_allclose(255 * found, GOLDEN[f"{kind}/{name}"], atol=1e-2, err_msg=name)


def test_stacked_blocks_of_big_vision_and_a_network_without_class_token(tmp_path):
    plain, stacked = arrays("big_vision_map"), {}
    for name, value in plain.items():
        head, found, tail = name.partition("encoderblock_0/")
        if found:
            other = plain[f"{head}encoderblock_1/{tail}"]
            stacked[f"{head}encoderblock/{tail}"] = np.stack([value, other])
        elif "encoderblock_1/" not in name and "MAPHead" not in name:
            stacked[name] = value
    np.savez(tmp_path / "model.npz", **stacked)
    model = mmrep.load(tmp_path / "model.npz")
    batch = {"image": pixels("big_vision_map", model)}
    tokens, _ = model.infer("image_tokens", batch)
    np.testing.assert_allclose(tokens, GOLDEN["big_vision_map/last"], atol=1e-4)
    np.testing.assert_allclose(model.infer("image", batch), np.asarray(tokens).mean(1), atol=1e-5)


def test_names_go_both_ways(tmp_path):
    model = load("timm", tmp_path)
    rows = vit.table(model.experiment.system.image, vit.HALF, vit.HALF)
    written = names.to_arrays(rows, model.params)
    given = vit.split_qkv(arrays("timm"))
    for name in ("patch_embed.proj.weight", "patch_embed.proj.bias", "blocks.1.attn.query.weight", "head.weight"):
        np.testing.assert_allclose(written[name], given[name], atol=1e-5, err_msg=name)


def test_what_is_not_supported_is_one_sentence(tmp_path):
    with pytest.raises(DataError, match=r"global_pool 'avg'"):
        vit.read(arrays("timm"), {"global_pool": "avg"})
    with pytest.raises(DataError, match=r"hidden_act 'relu6'"):
        vit.read(arrays("vit"), json.loads(str(GOLDEN["vit/config"])) | {"hidden_act": "relu6"})
    with pytest.raises(DataError, match=r"pre_logits"):
        vit.read(arrays("augreg") | {"pre_logits/kernel": np.ones((2, 2))}, {})
    with pytest.raises(DataError, match=r"pos_embed has 19 rows"):
        vit.read(arrays("timm") | {"pos_embed": np.ones((1, 19, 16))}, {})
    with pytest.raises(DataError, match=r"resample 1"):
        vit.picture({"resample": 1}, {}, 8, 4)
    with pytest.raises(ConfigError, match=r"short 8 is for crop=True"):
        mmrep.modality.image("image", 16, short=8)
