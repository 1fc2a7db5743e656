"""The README's code runs."""

import re

import numpy as np
import pytest
from PIL import Image

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
