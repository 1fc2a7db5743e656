"""Reading metrics.jsonl, and Weights & Biases only where asked for."""

import json
import math
import sys
import types

import pytest

from mmrep.errors import ConfigError, DataError
from mmrep.training.metrics import Writer, read


def test_wandb_is_used_only_when_asked_for(tmp_path, monkeypatch):
    runs, logged = [], []
    run = types.SimpleNamespace(log=lambda values, step: logged.append((step, values)), finish=lambda: None)
    fake = types.ModuleType("wandb")
    fake.__spec__ = types.SimpleNamespace(name="wandb")
    fake.init = lambda **options: (runs.append(options["mode"]), run)[1]
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for asked in (False, True):
        writer = Writer(tmp_path, wandb=asked)
        writer.write(1, {"train/loss": 2.0})
        writer.close()
        assert (runs, logged) == ((["offline"], [(1, {"train/loss": 2.0})]) if asked else ([], []))
    assert [r["step"] for r in read(tmp_path / "metrics.jsonl")] == [1]
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match="wandb is not installed"):
        Writer(tmp_path, wandb=True)


def test_a_last_line_cut_by_a_crash_is_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    whole = [{"step": 1, "train/loss": 2.5, "name": "緑"}, {"step": 2, "train/loss": "nan"}]
    text = "\n".join(json.dumps(r, ensure_ascii=False) for r in whole) + "\n"
    path.write_bytes(text.encode() + '{"step": 3, "name": "緑'.encode()[:-1])
    rows = read(path)
    assert [r["step"] for r in rows] == [1, 2] and rows[0] == whole[0] and math.isnan(rows[1]["train/loss"])


def test_a_broken_line_elsewhere_and_a_missing_file_are_errors(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(DataError, match="line 2"):
        read(path)
    with pytest.raises(DataError, match="does not exist"):
        read(tmp_path / "none.jsonl")
