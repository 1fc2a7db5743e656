"""Trains a system, evaluates it on held-out data and writes its report; resumes where the run's folder has a checkpoint."""

from pathlib import Path

from experiments import _cli
from mmrep.train import distributed


def run() -> None:
    p = _cli.parser("train", __doc__)
    p.add_argument("--workdir", type=Path, help="the run's folder (default: runs/SLUG-SIZE)")
    p.add_argument("--no-report", action="store_true", help="leave out report.html")
    p.add_argument("--quiet", action="store_true", help="no progress bar")
    p.add_argument("--watchdog", type=float, default=0.0, metavar="SECONDS",
                   help="a step that takes longer is taken for hung: dump all stacks and exit with code 1 (default: off)")  # fmt: skip
    distributed.add_arguments(p)
    command = _cli.parse(p)
    with distributed.joined(command.options):
        run_on(command)


def run_on(command: _cli.Command) -> None:
    """The command in one of the run's processes: all train, the first one writes and prints."""
    _cli.enable_compile_cache()
    from experiments._report import print_metrics, write_report
    from mmrep.train.faults import guarded
    from mmrep.train.loop import train

    workdir = command.options.workdir or Path("runs") / f"{command.slug}-{command.size}"
    meta = {"slug": command.slug, "size": command.size}
    quiet = command.options.quiet or not distributed.leads()
    with guarded(command.options.watchdog) as guard:
        trained = train(command.experiment, workdir, meta=meta, progress=not quiet, guard=guard)
    if guard.signal or not distributed.leads():
        return
    print_metrics(trained.metrics)
    if not command.options.no_report:
        print(f"report: {write_report(command.slug, trained, workdir)}")


if __name__ == "__main__":
    _cli.main(run)
