"""The README's code runs."""

import re

import numpy as np
from PIL import Image

from mmrep import catalogue


def test_your_own_data_in_ten_lines(tmp_path, monkeypatch):
    text = (catalogue.ROOT / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"<!-- own data -->\n```python\n(.*?)```", text, re.DOTALL)
    assert len([line for line in code.splitlines() if line and not line.startswith(("from", "import"))]) <= 10
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
