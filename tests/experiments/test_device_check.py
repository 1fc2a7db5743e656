import dataclasses
import json

import pytest

from experiments import device_check
from mmrep.errors import ConfigError
from mmrep.nn.config import TransformerConfig


def test_the_loss_by_blocks_equals_the_whole_with_less_memory():
    found = device_check.contrastive_loss(512, 16)
    assert found["blocks"]["loss"] == pytest.approx(found["whole"]["loss"], rel=1e-5)
    assert found["blocks"]["bytes_temporary"] < found["whole"]["bytes_temporary"]


def test_attention_is_replaced_everywhere():
    changed = device_check.with_attention(device_check.experiment("clip", "tiny"), "xla")
    assert json.dumps(dataclasses.asdict(changed.system), default=str).count('"implementation": "xla"') == 2
    assert changed.system.image.transformer == dataclasses.replace(
        device_check.experiment("clip", "tiny").system.image.transformer, implementation="xla"
    )
    assert isinstance(changed.system.image.transformer, TransformerConfig)


def test_a_piece_that_fails_or_hangs_is_one_sentence(tmp_path):
    assert "stopped after" in device_check.apart("versions", "tiny", 0.01, tmp_path)["error"]
    assert "--piece is 'none'" in device_check.apart("none", "tiny", 60, tmp_path)["error"]


def test_unknown_sizes_are_refused(monkeypatch):
    monkeypatch.setattr("sys.argv", ["device_check", "--size", "huge"])
    with pytest.raises(ConfigError, match="--size is 'huge'"):
        device_check.run()
