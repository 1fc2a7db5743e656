"""What train and evaluate show at the end: the metrics on the console and the run's page."""

from collections.abc import Mapping
from typing import Any

from mmrep import catalogue, paths


def print_metrics(metrics: Mapping[str, float]) -> None:
    """One line a metric, aligned."""
    width = max((len(k) for k in metrics), default=0)
    for name, value in metrics.items():
        print(f"{name:{width}}  {value:.4g}")


def write_report(slug: str, model: Any, workdir: paths.Place) -> paths.Place:
    """Writes workdir/report.html and returns its path."""
    from mmrep.report import experiment
    from mmrep.training.loop import versions

    entry = catalogue.find(slug)
    lead = f"System {slug}, {model.experiment.steps:,} steps of {model.experiment.data.batch_size} examples. All numbers come from this run."
    return experiment.write(workdir / "report.html", entry.title, lead, model, versions())
