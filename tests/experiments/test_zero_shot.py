"""The command classifies a folder of class sub-folders as the library's functions do."""

import json

import numpy as np
import pytest
from PIL import Image
from tiny_weights import clip_folder

import mmrep
from experiments import _templates
from mmrep.errors import ConfigError


def photos(path):
    rng = np.random.default_rng(0)
    for name, n in (("red_circle", 3), ("star", 2)):
        (path / name).mkdir(parents=True)
        for i in range(n):
            Image.fromarray(rng.integers(0, 255, (40, 37, 3), np.uint8)).save(path / name / f"{i}.png")
    return path


def test_the_command_equals_the_library(run_command, tmp_path):
    pytest.importorskip("tokenizers")
    folder, data = clip_folder(tmp_path / "clip"), photos(tmp_path / "photos")
    out = tmp_path / "out.csv"
    arguments = ["zero_shot", str(folder), "--data", str(data), "--templates", "openai", "--out", str(out)]
    code, said, err = run_command(*arguments, "--json")
    assert code == 0, err
    found = json.loads(said)
    files = [str(p) for p in sorted(data.rglob("*.png"))]
    classifier = mmrep.zero_shot(mmrep.load(folder), ("red circle", "star"), _templates.OPENAI)
    odds = classifier(files)
    right = odds.argmax(1) == np.array([0, 0, 0, 1, 1])
    assert found["top-1"] == pytest.approx(right.mean()) and found["pictures"] == 5 and found["templates"] == 80
    assert found["classes"] == {"red circle": pytest.approx(right[:3].mean()), "star": pytest.approx(right[3:].mean())}
    rows = out.read_text().splitlines()
    assert len(rows) == 6 and rows[1].startswith(f"{files[0]},red circle,")
    assert float(rows[1].split(",")[-1]) == pytest.approx(odds[0].max(), abs=1e-3)
    assert "of 5 pictures; chance 50.0%" in run_command(*arguments)[1]


def test_what_cannot_work_is_one_sentence(run_command, tmp_path):
    assert "it needs one for each of at least two classes" in run_command("zero_shot", "x", "--data", str(tmp_path))[2]
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    assert "has no picture: fill or remove it" in run_command("zero_shot", "x", "--data", str(tmp_path))[2]
    assert len({*_templates.OPENAI}) == 80
    with pytest.raises(ConfigError, match=r"'opena' is no file \(did you mean 'openai'"):
        _templates.templates("opena")
    (tmp_path / "t.txt").write_text("a {}\nno name\n")
    with pytest.raises(ConfigError, match=r"each line needs \{\} once"):
        _templates.templates(str(tmp_path / "t.txt"))
