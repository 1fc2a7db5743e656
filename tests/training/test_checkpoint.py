import dataclasses
import json
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import toy

from mmrep.config import Mesh, Rule, Train
from mmrep.errors import DataError
from mmrep.evals.suite import evaluate
from mmrep.training import checkpoint, loop
from mmrep.training.checkpoint import SEAL, Checkpoints
from mmrep.training.restore import restore

# A restore that fails leaves coroutines of orbax and tensorstore unawaited.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
ROOT = Path(__file__).resolve().parents[2]
CONFIG = toy.experiment(12, evals=(), train=Train(log_every=2, checkpoint_every=4))


def quiet(experiment, workdir=None, **kw):
    return loop.train(experiment, workdir, progress=False, evaluate=evaluate, **({"say": lambda _: None} | kw))


def equal(a, b):
    return jax.tree.all(jax.tree.map(lambda x, y: bool(np.array_equal(np.asarray(x), np.asarray(y))), a, b))


@pytest.fixture(scope="module")
def straight():
    return quiet(CONFIG).params


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run with the checkpoints 8 and 12, to be copied."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    quiet(CONFIG, folder)
    return folder


def largest(step):
    return max((f for f in (step / "state").rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)


def flip(step):
    data = bytearray(largest(step).read_bytes())
    data[len(data) // 2] ^= 1
    largest(step).write_bytes(data)


def cut(step):
    largest(step).write_bytes(largest(step).read_bytes()[:-1])


def lose(step):
    (step / "_CHECKPOINT_METADATA").unlink()


def spoil_seal(step):
    (step / SEAL).write_text((step / SEAL).read_text()[:-30])


def cut_unsealed(step):
    (step / SEAL).unlink()
    for f in (step / "state").rglob("*"):
        if f.is_file():
            f.write_bytes(f.read_bytes()[: f.stat().st_size // 2])


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (flip, "has other bytes than were written"), (cut, r"has [\d,]+ bytes, not [\d,]+"), (lose, "_CHECKPOINT_METADATA is missing"),
        (spoil_seal, "checksums.json or a file cannot be read"), (cut_unsealed, "cannot be restored"),
    ],
)  # fmt: skip
def test_a_damaged_checkpoint_is_named_and_the_one_before_used(tmp_path, trained, straight, harm, says):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    harm(run / "checkpoints" / "12")
    read = restore(run).params  # a reader passes it over and leaves it where it is
    assert equal(read, quiet(CONFIG, stop=8).params) and (run / "checkpoints" / "12").exists()
    said = []
    again = quiet(CONFIG, run, say=said.append)
    assert equal(again.params, straight)
    assert said[1:] == [f"resuming {run} at step 8 of 12"]
    assert said[0].startswith(f"checkpoint {run}/checkpoints/12 is damaged: ")
    import re

    assert re.search(says, said[0])
    left = sorted(f.name.split("-")[0] for f in (run / "checkpoints").iterdir())
    assert left == ["12", "12.damaged", "8"]
    assert checkpoint.damage(run / "checkpoints" / "12") is None and (run / "checkpoints" / "12" / SEAL).exists()


def test_where_none_is_whole_nothing_is_overwritten(tmp_path, trained):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    for step in ("8", "12"):
        flip(run / "checkpoints" / step)
    with pytest.raises(DataError, match=r"no checkpoint in .*run/checkpoints is whole \(12: .*; 8: .*start anew"):
        quiet(CONFIG, run)
    assert sorted(f.name for f in (run / "checkpoints").iterdir()) == ["12", "8"]


def test_the_seal_covers_every_file(trained):
    step = trained / "checkpoints" / "12"
    files = json.loads((step / SEAL).read_text())["files"]
    assert set(files) == {str(f.relative_to(step)) for f in step.rglob("*") if f.is_file()} - {SEAL}


def test_a_whole_checkpoint_of_another_tree_is_an_error_not_damage(trained):
    other = dataclasses.replace(CONFIG, system=toy.Line(width=6))
    mesh = loop.sharding.make_mesh(CONFIG.mesh)
    with (
        Checkpoints(trained / "checkpoints", write=False) as saves,
        pytest.raises(DataError, match="cannot be restored into this config"),
    ):
        saves.newest(lambda step: loop.abstract_state(other, 0, mesh))


def test_a_full_disk_leaves_the_last_checkpoint_and_says_so(tmp_path, capfd, caplog):
    state = {"x": jax.random.normal(jax.random.key(0), (4096,))}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    saves = Checkpoints(tmp_path / "checkpoints")
    saves.save(1, state)
    saves.wait()
    try:
        resource.setrlimit(
            resource.RLIMIT_FSIZE, (2048, hard)
        )  # no file may grow beyond: what a full disk does to a write
        with pytest.raises(DataError) as error:
            saves.save(2, state)
            saves.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(error.value) == (
        f"checkpoint {tmp_path}/checkpoints/2 could not be saved (File too large); step 1, saved before it, is whole: "
        "make room, and the same command resumes"
    )
    assert not caplog.records and "Traceback" not in capfd.readouterr().err
    with pytest.raises(RuntimeError), saves:
        raise RuntimeError  # closing a failed one hides no other error
    target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
    with Checkpoints(tmp_path / "checkpoints") as saves:
        step, found = saves.newest(lambda step: target)
        assert step == 1 and equal(found, state)
        saves.save(2, state)
    assert sorted(f.name for f in (tmp_path / "checkpoints").iterdir()) == ["1", "2"]


def test_a_log_that_cannot_be_written_is_a_sentence(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    quiet(CONFIG, tmp_path / "run", stop=4)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
        with pytest.raises(DataError, match=r"run cannot be written \(File too large\): make room"):
            quiet(CONFIG, tmp_path / "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [r["step"] for r in quiet(CONFIG, tmp_path / "run").rows] == [2, 4, 6, 8, 10, 12]


KILL = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = [".", "tests"]
import toy
from mmrep.config import Train
from mmrep.training import checkpoint, loop

moment, folder = sys.argv[1:]
def die(*args, **kw):
    os.kill(os.getpid(), signal.SIGKILL)
if moment == "before the seal":
    checkpoint.seal = lambda where: die() if where.name == "8" else None
else:  # in the middle of the save: its files are written, its name is not
    rename = Path.rename
    Path.rename = lambda self, target: die() if Path(target).name == "8" else rename(self, target)
    old = os.rename
    os.rename = os.replace = lambda a, b, **kw: die() if Path(b).name == "8" else old(a, b, **kw)
loop.train(toy.experiment(12, evals=(), train=Train(log_every=2, checkpoint_every=4)), Path(folder), progress=False)
"""


@pytest.mark.parametrize(("moment", "resumes"), [("before the seal", 8), ("before the commit", 4)])
def test_a_kill_in_the_middle_of_a_save(tmp_path, straight, moment, resumes):
    run = tmp_path / "run"
    done = subprocess.run([sys.executable, "-c", KILL, moment, str(run)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    torn = [f.name for f in (run / "checkpoints").iterdir() if "tmp" in f.name]
    assert bool(torn) == (moment == "before the commit")
    said = []
    again = quiet(CONFIG, run, say=said.append)
    assert said == [f"resuming {run} at step {resumes} of 12"] and equal(again.params, straight)
    assert not [f for f in (run / "checkpoints").iterdir() if not f.name.isdigit()]
    assert [r["step"] for r in again.rows] == [2, 4, 6, 8, 10, 12]


def test_a_reader_leaves_a_running_save_alone(tmp_path, trained):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    torn = run / "checkpoints" / "16.orbax-checkpoint-tmp"
    shutil.copytree(run / "checkpoints" / "12", torn)
    restore(run)
    assert torn.exists()
    quiet(CONFIG, run)
    assert not torn.exists()


@pytest.mark.mesh
@pytest.mark.parametrize("first", [Mesh(4, 1), Mesh(1, 1)])
def test_a_run_goes_on_with_another_number_of_devices(tmp_path, first):
    rules = (Rule("a/.*", "fsdp", min_size=1), Rule("b/.*", "shard_dim", "model", 0))
    base = dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, ema=0.5, log_every=1), sharding=rules)
    want = quiet(base)
    for stop, mesh in ((4, first), (8, Mesh(1, 1)), (12, Mesh(2, 2))):
        found = quiet(dataclasses.replace(base, mesh=mesh), tmp_path / "run", stop=stop)
    # The toy's loss is that of its own batch and key: other data or another order would show in every row.
    losses = [[r["train/loss"] for r in t.rows] for t in (want, found)]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), want.params, found.params)
    assert len(losses[0]) == 12


def test_checkpoints_are_saved_by_time(tmp_path, monkeypatch):
    kept = []
    save = Checkpoints.save
    monkeypatch.setattr(Checkpoints, "save", lambda self, step, state: (kept.append(step), save(self, step, state))[1])
    for minutes, steps in ((1e-9, [1, 2, 3]), (0.0, [3]), (5.0, [3])):
        kept.clear()
        loop.train(
            toy.experiment(3, evals=(), train=Train(checkpoint_minutes=minutes)),
            tmp_path / str(minutes),
            progress=False,
        )
        assert kept == steps
