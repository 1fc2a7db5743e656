import sys

import pytest
import toy

from experiments import torture
from mmrep.config import Train

RUN = """
import sys
from pathlib import Path
sys.path[:0] = [".", "tests"]
import toy
from mmrep.config import Train
from mmrep.training.loop import train
train(toy.experiment(120, evals=(), train=Train(log_every=2, checkpoint_every=4, ema=0.9)), Path(sys.argv[-1]), progress=False)
"""


@pytest.mark.slow
def test_killed_runs_end_like_an_undisturbed_run(tmp_path):
    said = []
    config = toy.experiment(120, evals=(), train=Train(log_every=2, checkpoint_every=4, ema=0.9))
    row = torture.torture([sys.executable, "-c", RUN], config, tmp_path, 3, say=said.append)
    assert row["identical"] and row["same losses"] and row["arrays"] > 8 and row["kills"] == len(said) == 3
    assert row["save"] == row["step"] == row["start"] == 1, said
    assert row["resumed from"][0] == 0 < row["resumed from"][1] <= row["resumed from"][2] < 120
    left = [f.name for f in (tmp_path / "killed" / "checkpoints").iterdir()]
    assert sorted(left) == ["116", "120"], "torn saves are cleaned up"


def test_wrong_options_are_one_sentence(tmp_path, run_command):
    code, _, err = run_command("torture", "align", "--kills", "0")
    assert code == 2 and "--kills is 0" in err
    code, _, err = run_command("torture", "align", "--workdir", str(tmp_path))
    assert code == 2 and "give a new folder" in err
