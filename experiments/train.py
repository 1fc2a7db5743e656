"""Trains a system, evaluates it on held-out data and writes its report; resumes where the run's folder has a checkpoint."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from experiments import _cli
from mmrep.training import distributed


@dataclass(frozen=True)
class Options:
    workdir: Annotated[Path | None, _cli.FOLDER] = None
    """the run's folder (default: runs/SLUG-SIZE)"""
    report: bool = True
    """leave out report.html"""
    quiet: bool = False
    """no progress bar"""
    wandb: bool = False
    """log to Weights & Biases as well"""
    watchdog: float = 0.0
    """seconds after which a step counts as hung: dump all stacks and exit with code 1 (0: off)"""
    processes: Annotated[distributed.Processes, _cli.FLAT] = distributed.Processes()


def run() -> None:
    command = _cli.parse(Options, __doc__)
    with distributed.joined(command.options.processes):
        run_on(command)


def run_on(command: _cli.Command[Options]) -> None:
    """The command in one of the run's processes: all train, the first one writes and prints."""
    _cli.enable_compile_cache()
    from experiments._report import print_metrics, write_report
    from mmrep.evals.suite import evaluate
    from mmrep.training.faults import guarded
    from mmrep.training.loop import train

    workdir = command.workdir(command.options.workdir)
    meta = {"slug": command.slug, "size": command.size, "variant": command.variant}
    quiet = command.options.quiet or not distributed.leads()
    with guarded(command.options.watchdog) as guard:
        model = train(
            command.experiment, workdir, evaluate=evaluate, meta=meta, progress=not quiet, guard=guard,
            wandb=command.options.wandb,
        )  # fmt: skip
    if guard.signal or not distributed.leads():
        return
    print_metrics(model.metrics)
    if command.options.report:
        print(f"report: {write_report(command.slug, model, workdir)}")


if __name__ == "__main__":
    _cli.main(run)
