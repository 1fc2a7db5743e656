"""Trains a system, evaluates it on held-out data and writes its report; resumes where the run's folder has a checkpoint."""

from pathlib import Path

from experiments import _cli


def run() -> None:
    p = _cli.parser("train", __doc__)
    p.add_argument("--workdir", type=Path, help="the run's folder (default: runs/SLUG-SIZE)")
    p.add_argument("--no-report", action="store_true", help="leave out report.html")
    p.add_argument("--quiet", action="store_true", help="no progress bar")
    command = _cli.parse(p)
    _cli.enable_compile_cache()
    from experiments._report import print_metrics, write_report
    from mmrep.train.loop import train

    workdir = command.options.workdir or Path("runs") / f"{command.slug}-{command.size}"
    meta = {"slug": command.slug, "size": command.size}
    trained = train(command.experiment, workdir, meta=meta, progress=not command.options.quiet)
    print_metrics(trained.metrics)
    if not command.options.no_report:
        print(f"report: {write_report(command.slug, trained, workdir)}")


if __name__ == "__main__":
    _cli.main(run)
