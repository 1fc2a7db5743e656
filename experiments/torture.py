"""Kills a training run repeatedly, resumes it each time, and compares its end, bit for bit, with an undisturbed run.

SIGKILL comes during start-up, between two steps or during a save. Exit code 1 where the two runs differ.
"""

import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from experiments import _cli
from mmrep import catalogue, paths
from mmrep.errors import ConfigError

KINDS = ("save", "step", "start")
SEAL = "checksums.json"  # the last object of a checkpoint in a bucket


class Run:
    """`experiments.train` in a process of its own, observed from outside."""

    def __init__(self, command: Sequence[str], workdir: paths.Place, log: Path):
        self.folder, self.log = workdir / "checkpoints", log
        self.process = subprocess.Popen(
            [*command, "--workdir", str(workdir)],
            stdout=self.log.open("ab"), stderr=subprocess.STDOUT, cwd=catalogue.ROOT, start_new_session=True,
        )  # fmt: skip

    def names(self) -> list[str]:
        """Finished checkpoints by number, and those being saved with "tmp" in their names."""
        if not paths.is_url(self.folder):
            return paths.names(self.folder)
        files = {*paths.below(self.folder)}
        steps = {name.split("/")[0] for name in files}
        return [s if f"{s}/{SEAL}" in files else f"{s}.tmp" for s in sorted(steps)]

    def step(self) -> int:
        """The newest finished checkpoint, 0 before the first."""
        return max((int(n) for n in self.names() if n.isdigit()), default=0)

    def saving(self) -> bool:
        return any("tmp" in n for n in self.names())

    def until(self, seen: Callable[[], bool]) -> bool:
        """Waits for `seen`; False where the run ended before."""
        while self.process.poll() is None:
            if seen():
                return True
            time.sleep(0.002)
        return False

    def ended(self) -> None:
        """Waits for the end. Raises ConfigError with the run's last output where it failed."""
        if self.process.wait():
            words = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-3:]
            raise ConfigError(f"a run ended with code {self.process.returncode} ({' | '.join(words)}); see {self.log}")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def moment(run: Run, kind: str, rng: random.Random, starting: float, interval: float) -> bool:
    """Waits for a random moment of that kind; False where the run ended before it."""
    before = run.step()
    clock = time.monotonic() + rng.uniform(0, starting)
    if kind == "start":
        return run.until(lambda: time.monotonic() > clock or run.step() > before)
    reached = run.until(lambda: run.step() > before)
    if kind == "step":
        clock = time.monotonic() + rng.uniform(0, 2 * interval)
        return reached and run.until(lambda: time.monotonic() > clock)
    clock = time.monotonic() + rng.uniform(0, 2 * interval)
    reached = reached and run.until(lambda: time.monotonic() > clock) and run.until(run.saving)
    time.sleep(rng.uniform(0, 0.03))
    return reached


def final(workdir: paths.Place, experiment: Any) -> tuple[dict[str, Any], list[tuple[int, float]]]:
    """(the last state by path, (step, loss) of every logged step)."""
    import jax
    import numpy as np

    from mmrep.training import sharding
    from mmrep.training.checkpoint import Checkpoints
    from mmrep.training.loop import abstract_state
    from mmrep.training.metrics import read

    mesh = sharding.make_mesh(type(experiment.mesh)(), jax.devices()[:1])
    with Checkpoints(workdir / "checkpoints", write=False) as saves:
        found = saves.newest(lambda step: abstract_state(experiment, experiment.phase_at(step - 1)[0], mesh))
    assert found is not None and found[0] == experiment.steps, f"{workdir} did not reach its last step"
    leaves = {jax.tree_util.keystr(k): np.asarray(v) for k, v in jax.tree_util.tree_leaves_with_path(found[1])}
    return leaves, [(r["step"], r["train/loss"]) for r in read(workdir / "metrics.jsonl") if "train/loss" in r]


def torture(
    line: Sequence[str],
    experiment: Any,
    home: paths.Place,
    kills: int,
    seed: int = 0,
    say: Callable[[str], None] = print,
    logs: Path | None = None,
) -> dict[str, Any]:
    """The tally of `kills` kills of the command `line` (it gets --workdir), which trains `experiment` in folders under `home`.

    logs: folder of what the runs print (default: `home`).

    "identical" holds where every array of the last state, and every logged loss, is that of the undisturbed run.
    """
    rng, clock = random.Random(seed), time.monotonic()
    logs = logs or Path(home)
    straight = Run(line, home / "straight", logs / "straight.log")
    straight.until(lambda: straight.step() > 0)
    starting = time.monotonic() - clock
    straight.until(lambda: straight.step() >= experiment.steps)
    interval = (time.monotonic() - clock - starting) / max(experiment.steps / experiment.train.checkpoint_every - 1, 1)
    straight.ended()

    tally, resumed = Counter[str](), []
    for number in range(kills):
        kind = KINDS[number % len(KINDS)]
        child = Run(line, home / "killed", logs / "killed.log")
        resumed.append(child.step())
        if not moment(child, kind, rng, starting, interval):
            child.ended()
            kind = "after its end"
        child.kill()
        tally[kind] += 1
        tally["torn saves"] += child.saving()
        torn = ", a save torn" if child.saving() else ""
        say(
            f"kill {number + 1}: {kind}; it had resumed from {resumed[-1]}, its last checkpoint is {child.step()}{torn}"
        )
    Run(line, home / "killed", logs / "killed.log").ended()

    want, losses = final(home / "straight", experiment)
    found, again = final(home / "killed", experiment)
    differ = [k for k in want if k not in found or want[k].tobytes() != found[k].tobytes()]
    return {
        "steps": experiment.steps, "kills": kills, **tally, "identical": not differ and losses == again, "arrays": len(want),
        "different arrays": differ[:3], "same losses": losses == again, "resumed from": resumed,
        "seconds": round(time.monotonic() - clock, 1),
    }  # fmt: skip


@dataclass(frozen=True)
class Options:
    kills: int = 30
    """how often the run is killed"""
    seed: int = 0
    """seed of the moments"""
    workdir: Annotated[Path | None, _cli.FOLDER] = None
    """keep both runs and their logs in this new folder; of a gs:// or s3:// URL the runs"""
    quiet: bool = False
    """only the JSON line"""


def run() -> None:
    from tqdm import tqdm

    command = _cli.parse(Options, __doc__, size="tiny")
    options = command.options
    if options.kills < 1:
        raise ConfigError(f"--kills is {options.kills}: give at least 1")
    if options.workdir and paths.exists(paths.at(options.workdir)):
        raise ConfigError(f"{options.workdir} exists: give a new folder")
    every, phases = 25, command.experiment.phases
    last = max((i for i, phase in enumerate(phases) if phase.run is None), default=-1)
    if last < 0:
        raise ConfigError(
            "this system takes no gradient steps (every phase is a plain function): there is nothing to kill"
        )
    # About three saves a kill: a run that is over cannot be killed.
    steps = max(phases[last].steps, every * (4 * options.kills + 4))
    changes = [f"--phases.{last}.steps", str(steps)]
    changes += ["--train.checkpoint-every", str(every), "--train.log-every", str(every // 5)]
    changes += command.overrides
    experiment = _cli.experiment(command.slug, command.size, changes, command.variant)
    line = [
        sys.executable,
        "-m",
        "experiments.train",
        command.slug,
        "--size",
        command.size,
        "--variant",
        command.variant,
    ]
    line += ["--quiet", "--no-report"]
    far = options.workdir is not None and paths.is_url(options.workdir)
    logs = Path(tempfile.mkdtemp(prefix="torture-")) if far or not options.workdir else options.workdir.resolve()
    logs.mkdir(parents=True, exist_ok=True)
    home = paths.at(options.workdir) if far and options.workdir else logs
    with tqdm(total=options.kills, unit="kill", disable=options.quiet, dynamic_ncols=True) as bar:

        def say(text: str) -> None:
            bar.update()
            if not options.quiet:
                bar.write(text, file=sys.stderr)

        row = torture([*line, *changes], experiment, home, options.kills, options.seed, say, logs)
    _cli.dump({"slug": command.slug, "size": command.size, "variant": command.variant} | row)
    if not row["identical"]:
        raise SystemExit(1)
    if far or not options.workdir:
        shutil.rmtree(logs)


if __name__ == "__main__":
    _cli.main(run)
