"""Weights & Biases is used where asked for, not because it is installed."""

import sys
import types

import pytest

from mmrep.errors import ConfigError
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
