"""The README's code runs."""

import re

import numpy as np
import pytest
from PIL import Image
from tiny_weights import clip_folder, vit_folder

from mmrep import catalogue


def block(mark):
    text = (catalogue.ROOT / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(rf"<!-- {mark} -->\n```python\n(.*?)```", text, re.DOTALL)
    assert len([line for line in code.splitlines() if line and not line.startswith(("from", "import"))]) <= 10
    return code


@pytest.mark.slow
def test_a_notebook_in_ten_lines(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = block("notebook").replace('("clip", "runs/clip-small")', '("clip", "runs/clip-small", size="tiny")')
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    assert len(names["x"]) == 8 and names["scores"].shape == (8, 2) and names["probabilities"].shape == (8, 3)
    assert (tmp_path / "clip.safetensors").exists()


def test_your_own_data_in_ten_lines(tmp_path, monkeypatch):
    code = block("own data")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    rng = np.random.default_rng(0)
    for i in range(120):
        colour = ("red", "green", "blue")[i % 3]
        pixels = np.zeros((40, 40, 3), np.uint8)
        pixels[..., i % 3] = rng.integers(100, 255)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{i}.png")
        (tmp_path / "photos" / f"{i}.txt").write_text(f"a {colour} picture number {i % 7}")
    exec(compile(code.replace('"small"', '"tiny"'), "README.md", "exec"), {})
    assert (tmp_path / "runs" / "photos" / "evaluation.json").exists()


def test_published_weights_and_a_locked_encoder(tmp_path, monkeypatch):
    pytest.importorskip("tokenizers")
    monkeypatch.chdir(tmp_path)
    clip_folder(tmp_path / "clip-vit-base-patch32")
    vit_folder(tmp_path / "vit-base-patch16-224")
    rng = np.random.default_rng(0)
    for name, row in (("red circle", 0), ("star", 1)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(60):
            pixels = np.zeros((40, 36, 3), np.uint8)
            pixels[..., row] = rng.integers(100, 255)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{i}.jpg")
    names = {}
    exec(compile(block("published weights").replace("steps=500", "steps=20"), "README.md", "exec"), names)
    assert names["corpus"].shape == (120, 16) and sorted(names["found"]) == list(range(120))
    assert names["probe"].metrics
    code = block("locked").replace("steps=1000", "steps=2").replace('"small"', '"tiny"')
    exec(compile(code, "README.md", "exec"), names)
    given, trained = names["vit"].params["encoder"], names["lit"].params["image"]["encoder"]
    np.testing.assert_array_equal(trained["embed"]["kernel"], given["embed"]["kernel"])
    assert "image->text R@1" in names["lit"].metrics
