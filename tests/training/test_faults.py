import dataclasses
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from mmrep.config import Phase, Train
from mmrep.data import pipeline
from mmrep.errors import ConfigError
from mmrep.evals.suite import evaluate
from mmrep.system import System
from mmrep.training import faults, loop, state

ROOT = Path(__file__).resolve().parents[2]


def quiet(experiment, workdir=None, **kw):
    return loop.train(experiment, workdir, progress=False, evaluate=evaluate, **({"say": lambda _: None} | kw))


def equal(a, b):
    return jax.tree.all(jax.tree.map(lambda x, y: bool(np.array_equal(np.asarray(x), np.asarray(y))), a, b))


# --- signals ---


def signal_after(monkeypatch, batches, number):
    """The signal arrives while batch number `batches` is made."""
    made = pipeline.train_batches

    def train_batches(*args, **kw):
        for i, batch in enumerate(made(*args, **kw), 1):
            if i == batches:
                os.kill(os.getpid(), number)
            yield batch

    monkeypatch.setattr(pipeline, "train_batches", train_batches)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_finishes_the_step_and_saves(tmp_path, monkeypatch, capfd, number):
    config = toy.experiment(20, train=Train(log_every=1))
    straight = quiet(config)
    before = signal.getsignal(number)
    said = []
    with monkeypatch.context() as patch, faults.guarded() as guard:
        signal_after(patch, 5, number)
        cut = quiet(config, tmp_path / "run", guard=guard, say=said.append)
    done = len(cut.rows)
    assert guard.signal == number.name and 3 <= done <= 5 and not cut.metrics
    assert said == [
        f"{number.name}: stopped after step {done} of 20, saved in {tmp_path / 'run'}: the same command resumes there"
    ]
    assert f"{number.name}: finishing the step, then saving; a second signal kills" in capfd.readouterr().err
    assert signal.getsignal(number) is before, "the handlers are put back"
    assert equal(quiet(config, tmp_path / "run").params, straight.params)


def test_the_command_exits_with_0(tmp_path, monkeypatch, run_command):
    signal_after(monkeypatch, 3, signal.SIGTERM)
    code, out, err = run_command(
        "train", "align", "--size", "tiny", "--workdir", str(tmp_path / "run"), "--quiet", "--no-report"
    )
    assert code == 0 and not out and "SIGTERM: stopped after step" in err and "the same command resumes there" in err


RUN = """
import sys, time
from dataclasses import dataclass
from pathlib import Path
sys.path[:0] = [".", "tests"]
import toy
from mmrep.config import Data
from mmrep.modality import vector
from mmrep.training import faults, loop

@dataclass(frozen=True)
class Stuck(toy.Points):
    def view(self, record, rng):
        if record["number"] == 17 and rng is not None:
            print("stuck", flush=True)
            time.sleep(600)
        return super().view(record, rng)

config = toy.experiment(100, data=Data(Stuck(), (vector("x", 2),), batch_size=2, prefetch=1))
with faults.guarded(watchdog=float(sys.argv[1])) as guard:
    loop.train(config, Path(sys.argv[2]), progress=False, guard=guard)
"""


@pytest.mark.parametrize("seconds", [-1.0, math.nan, math.inf])
def test_a_watchdog_that_cannot_be_set_is_refused(seconds):
    with pytest.raises(ConfigError, match=f"watchdog is {seconds}: give the seconds"):
        faults.Guard(seconds)


def test_a_hung_step_dumps_all_stacks_and_fails(tmp_path):
    run = subprocess.run(
        [sys.executable, "-c", RUN, "2", str(tmp_path / "run")], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 1 and "Timeout (0:00:02)!" in run.stderr
    assert run.stderr.count("most recent call first") > 1, "all threads are shown"
    assert "in view" in run.stderr and "_steps" in run.stderr


def test_a_second_signal_kills(tmp_path):
    run = subprocess.Popen(
        [sys.executable, "-c", RUN, "0", str(tmp_path / "run")], cwd=ROOT, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip
    assert run.stdout.readline() == "stuck\n"
    run.send_signal(signal.SIGTERM)
    assert "a second signal kills" in run.stderr.readline() + run.stderr.readline()
    run.send_signal(signal.SIGTERM)
    assert run.wait(60) == -signal.SIGTERM


def test_library_calls_are_not_watched_and_not_caught():
    guard = faults.Guard()
    guard.heartbeat()
    guard.pause()
    before = signal.getsignal(signal.SIGINT)
    quiet(toy.experiment(2))
    assert not guard.stopping(1) and signal.getsignal(signal.SIGINT) is before


# --- numbers ---


@dataclasses.dataclass(frozen=True)
class Broken:
    """Two kernels; from step `bad_from` on the gradient of b is not finite, or (`loss_only`) the loss alone."""

    bad_from: int = 2
    loss_only: bool = False

    def build(self):
        def init(rng, batch):
            return {"a": {"kernel": jnp.ones((2,))}, "b": {"kernel": jnp.zeros((2,))}}, {
                "seen": jnp.zeros((), jnp.float32)
            }

        def loss(params, extras, batch, rng):
            late = extras["seen"] >= self.bad_from - 1
            # The square root's slope at 0 is infinite.
            steep = 0.0 if self.loss_only else jnp.where(late, 1.0, 0.0) * jnp.sqrt(params["b"]["kernel"]).sum()
            shift = jnp.where(late & self.loss_only, jnp.inf, 0.0)
            value = jnp.mean((batch["x"] @ params["a"]["kernel"]) ** 2) + steep + shift
            return value, ({"seen": extras["seen"] + jnp.where(late, 0.0, 1.0)}, {})

        return System(init, loss, {"x": lambda params, extras, batch: batch["x"] @ params["a"]["kernel"]})


@pytest.mark.parametrize(
    ("system", "says"), [(Broken(), "first the gradient of b/kernel"), (Broken(loss_only=True), "first the loss alone")]
)
def test_what_is_not_finite_is_named(system, says):
    config = toy.experiment(30, system=system, train=Train(log_every=1, max_skips=3), evals=())
    with pytest.raises(ConfigError, match=f"not finite for 3 steps in a row up to step [3-5], {says}; lower optim.lr"):
        quiet(config)


def test_a_parameter_that_is_not_finite_is_named_first():
    config = toy.experiment(
        phases=(Phase(steps=20, begin=poison),), train=Train(log_every=1, max_skips=2), evals=()
    )  # fmt: skip
    with pytest.raises(ConfigError, match="first parameter b/kernel"):
        quiet(config)


def poison(params, extras):
    return params | {"b": jax.tree.map(lambda x: x.at[0].set(jnp.nan), params["b"])}, extras


def test_skipped_steps_are_counted_told_and_keep_their_number(tmp_path):
    said = []
    config = toy.experiment(6, system=toy.Line(bad_from=3), train=Train(log_every=1, max_skips=100))
    found = quiet(config, tmp_path / "run", say=said.append)
    assert said == ["3 of 6 steps were skipped: loss or gradient not finite, or a spike"]
    assert [r["train/skips"] for r in found.rows if "train/skips" in r] == [0, 0, 0, 1, 2, 3]
    assert not any("bad" in k for r in found.rows for k in r)


def test_running_statistics_are_those_of_numpy_and_spikes_stand_out():
    losses = np.random.default_rng(0).normal(2.0, 0.1, 60).astype(np.float32)
    step = jax.jit(state.spiked, static_argnums=2)
    running = {k: jnp.float32(0) for k in ("mean", "var", "count")}
    for value in losses:
        high, running = step(running, value, 6.0)
        assert not high
    np.testing.assert_allclose(running["mean"], losses.mean(), rtol=1e-5)
    np.testing.assert_allclose(running["var"], losses.var(), rtol=1e-4)
    high, after = step(running, jnp.float32(3.0), 6.0)
    assert high and float(after["mean"] - running["mean"]) < 0.02
    assert not step(running, jnp.float32(0.0), 6.0)[0], "a low loss is no spike"
    for bad in (jnp.nan, jnp.inf):
        assert equal(step(running, jnp.float32(bad), 6.0)[1], running)
    highs = []
    for _ in range(60):  # a new level is taken in
        high, running = step(running, jnp.float32(3.0), 6.0)
        highs.append(bool(high))
    assert highs[0] and not highs[-1]


@dataclasses.dataclass(frozen=True)
class Spiky:
    """A linear map whose loss is a million times as high in the steps whose draw is below `share`."""

    share: float

    def build(self):
        plain = toy.Line().build()

        def loss(params, extras, batch, rng):
            value, rest = plain.loss(params, extras, batch, rng)
            return value * jnp.where(jax.random.uniform(rng) < self.share, 1e6, 1.0), rest

        return plain._replace(loss=loss)


@pytest.mark.slow
def test_a_spike_is_skipped_and_the_run_still_resumes_bit_for_bit(tmp_path):
    draw = jax.jit(jax.vmap(lambda i: jax.random.uniform(jax.random.fold_in(jax.random.key(1), i))))
    draws = [float(x) for x in draw(jnp.arange(60))]
    share = min(draws[:30])
    spikes = [i + 1 for i, d in enumerate(draws) if d < share]
    train = Train(seed=1, log_every=1, spike=8.0, checkpoint_every=10)
    config = toy.experiment(60, system=Spiky(share), train=train, evals=())
    said = []
    skipping = quiet(config, say=said.append)
    assert spikes and said == [f"{len(spikes)} of 60 steps were skipped: loss or gradient not finite, or a spike"]
    assert skipping.rows[spikes[0] - 1]["train/loss"] > 1000 * skipping.rows[spikes[0] - 2]["train/loss"]
    before, at = (quiet(config, stop=s).params for s in (spikes[0] - 1, spikes[0]))
    assert equal(before, at) and not equal(at, quiet(config, stop=spikes[0] + 1).params)
    off = dataclasses.replace(config, train=dataclasses.replace(train, spike=0.0))
    assert not equal(quiet(off).params, skipping.params)
    quiet(config, tmp_path / "run", stop=spikes[0])
    assert equal(quiet(config, tmp_path / "run").params, skipping.params)
    assert skipping.compilations == 1


def test_spike_is_checked():
    with pytest.raises(ConfigError, match=r"train.spike is -1: it must be finite and at least 0"):
        toy.experiment(train=Train(spike=-1))
