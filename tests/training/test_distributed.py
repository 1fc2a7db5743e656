"""Two real processes on loopback: the same losses as one, each reading its share; and what happens when one of them dies."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from mmrep import catalogue
from mmrep.errors import ConfigError
from mmrep.training import distributed
from mmrep.training.distributed import Processes
from mmrep.training.metrics import read

# Trains as experiments.train does, and tells how many records it read for training and for evaluation.
COUNTED = """
import json, sys
from experiments import _cli, train
from mmrep.data import pipeline

counts, entry = {"train": 0, "test": 0}, pipeline.Split.entry

def counted(self, i, rng=None, fields=None):
    counts["test" if rng is None else "train"] += 1
    return entry(self, i, rng, fields)

pipeline.Split.entry = counted
_cli.main(train.run)
print(json.dumps(counts))
"""

# A toy run slow enough to be killed in the middle.
SLOW = """
import sys, time, dataclasses
from pathlib import Path
import jax, toy
from mmrep.config import Mesh, Train
from mmrep.training import distributed, loop

class Slow(toy.Points):
    def view(self, record, rng):
        time.sleep(0.0 if rng is None else float(sys.argv[4]))
        return super().view(record, rng)

toy.Slow = Slow
Slow.__module__, Slow.__qualname__ = "toy", "Slow"
port, index, workdir = sys.argv[1:4]
options = dict(coordinator=f"127.0.0.1:{port}", processes=2, process_id=int(index), heartbeat=HEARTBEAT)
with distributed.joined(type("Options", (), options)):
    config = toy.experiment(160, mesh=Mesh(), train=Train(log_every=10, checkpoint_every=20), evals=())
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, source=Slow()))
    loop.train(config, Path(workdir), progress=False)
"""
HEARTBEAT = 10


def start(args, **more):
    env = {k: v for k, v in os.environ.items() if k != "JAX_NUM_CPU_DEVICES"}
    here = os.pathsep.join([str(catalogue.ROOT), str(catalogue.ROOT / "tests")])
    env |= {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "1",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "PYTHONPATH": here,
    } | more
    return subprocess.Popen(
        [sys.executable, *args], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one_and_read_half_each(tmp_path):
    steps, batch = 4, 8
    base = ["-c", COUNTED, "clip", "--size", "tiny", "--train.log-every", "1", "--no-report", "--quiet"]
    base += ["--system.image.transformer.depth", "1", "--system.text.transformer.depth", "1"]
    base += ["--sharding.0.how", "fsdp", "--sharding.0.min-size", "64", "--data.eval-batch-size", "8"]
    joined = ["--coordinator", f"127.0.0.1:{free_port()}", "--processes", "2", "--heartbeat", "30"]
    runs = [start([*base, "--workdir", str(tmp_path / "two"), *joined, "--process-id", str(i)]) for i in (0, 1)]
    said = [p.communicate(timeout=240)[0] for p in runs]
    assert [p.returncode for p in runs] == [0, 0], said
    alone = start([*base, "--workdir", str(tmp_path / "one")])
    out = alone.communicate(timeout=240)[0]
    assert alone.returncode == 0, out
    one, two = (read(tmp_path / name / "metrics.jsonl") for name in ("one", "two"))
    losses = lambda rows: [r["train/loss"] for r in rows if "train/loss" in r]  # noqa: E731
    assert len(losses(two)) == steps
    np.testing.assert_allclose(losses(two), losses(one), atol=1e-5)
    np.testing.assert_allclose(
        [r["train/grad_norm"] for r in two if "train/loss" in r], [r["train/grad_norm"] for r in one if "train/loss" in r], rtol=1e-4
    )  # fmt: skip
    evaluated = [json.loads((tmp_path / name / "evaluation.json").read_text()) for name in ("one", "two")]
    assert evaluated[0].keys() == evaluated[1].keys()
    assert evaluated[1] == pytest.approx(evaluated[0], abs=1 / 16 + 1e-6)  # at most one of 16 ranks tips over
    whole, shares = json.loads(out.splitlines()[-1]), [json.loads(s.splitlines()[-1]) for s in said]
    # The loader reads a few batches ahead of the steps.
    assert all(steps * batch // 2 <= s["train"] <= (whole["train"] + 8 * batch) // 2 for s in shares), (whole, shares)
    assert whole["train"] >= steps * batch and [s["test"] for s in shares] == [whole["test"] // 2] * 2
    assert "R@1" in said[0] and "R@1" not in said[1]  # one of them speaks


@pytest.mark.slow
def test_one_of_two_dies_the_other_ends_and_a_restart_resumes(tmp_path):
    code, run = SLOW.replace("HEARTBEAT", str(HEARTBEAT)), tmp_path / "run"

    def both(pause):
        port = str(free_port())
        return [start(["-c", code, port, str(i), str(run), str(pause)]) for i in (0, 1)]

    pair = both(0.02)
    clock = time.monotonic()
    while not (run / "checkpoints" / "20" / "checksums.json").exists() and all(p.poll() is None for p in pair):
        assert time.monotonic() - clock < 120
        time.sleep(0.05)
    pair[1].send_signal(signal.SIGKILL)
    clock = time.monotonic()
    out = pair[0].communicate(timeout=60)[0]
    ended = time.monotonic() - clock
    pair[1].communicate()
    assert pair[0].returncode != 0, out
    assert ended < HEARTBEAT + 20, (ended, out)
    pair = both(0.0)
    said = [p.communicate(timeout=120)[0] for p in pair]
    assert [p.returncode for p in pair] == [0, 0], said
    assert "resuming" in said[0] and "resuming" not in said[1]
    rows = read(run / "metrics.jsonl")
    assert [r["step"] for r in rows] == list(range(10, 161, 10))
    assert rows[-1]["train/loss"] < 0.25 * rows[0]["train/loss"]  # single batches, whose noise differs


def test_incomplete_flags_are_told():
    for options, sentence in [
        (Processes("a:1"), "--processes, --process-id is missing"),
        (Processes("a:1", 2, 2), r"it must be in \[0, 2\)"),
        (Processes("here", 2, 1), "write HOST:PORT"),
        (Processes(heartbeat=0), "--heartbeat is 0"),
    ]:
        with pytest.raises(ConfigError, match=sentence):
            distributed.initialize(options)
    assert distributed.initialize(Processes(processes=1)) is False


def test_detection_needs_an_environment_of_several_tasks():
    slurm = {
        "SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "n[1-2]", "SLURM_NTASKS": "2", "SLURM_PROCID": "0", "SLURM_LOCALID": "0",
    }  # fmt: skip
    assert distributed.detected(slurm) == "slurm" and distributed.detected(slurm | {"SLURM_NTASKS": "1"}) == ""
    assert distributed.detected({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2"}) == ""
    assert distributed.detected({"TPU_WORKER_HOSTNAMES": "a,b"}) == "tpu"
    assert distributed.detected({"TPU_WORKER_HOSTNAMES": "a,b", "JAX_PLATFORMS": "cpu"}) == ""
