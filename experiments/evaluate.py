"""Evaluates the newest checkpoint of a run on its held-out data and rewrites its report.

Overrides of evals are taken, and those of data.source: for data that has moved, or for other data, which does not change the report.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from experiments import _cli, _results
from mmrep import paths
from mmrep.errors import ConfigError


@dataclass(frozen=True)
class Options:
    workdir: Annotated[Path | None, _cli.FOLDER] = None
    """the run's folder (default: runs/SLUG-SIZE)"""
    split: str = ""
    """another split than the evaluators name, e.g. val"""
    record: bool = False
    """also store the metrics in results/trained/SLUG.json, which the generated pages show"""
    json: bool = False
    """print the metrics as one JSON line"""


def run() -> None:
    command = _cli.parse(Options, __doc__)
    workdir = command.run_folder(command.options.workdir)
    _cli.enable_compile_cache()
    from experiments._report import print_metrics, write_report
    from mmrep.data import contents
    from mmrep.evals import suite
    from mmrep.training.restore import restore
    from mmrep.training.workdir import read_config

    if command.options.record and (command.options.split or command.overrides):
        raise ConfigError("--record stores the metrics of an unchanged config: leave out --split and the overrides")
    model, changed = restore(workdir), []
    data = command.run_data(model.experiment, ("evals.",))
    # The command line's evaluators, so that a run can be given others than it was trained with.
    evals = command.experiment.evals
    evals = suite.on_split(evals, command.options.split) if command.options.split else evals
    if data != model.data:
        model = model.on(data)
        now = {s: contents.contents(model.split(s).records) for s in {e.split for e in evals if hasattr(e, "split")}}
        changed = contents.changes(read_config(workdir).get("contents", {}), now)
        if changed:
            print(
                f"note: this is not the data of the run ({'; '.join(changed)}): its report stays as it is",
                file=sys.stderr,
            )
    metrics = suite.run_all(evals, model)
    if command.options.json:
        _cli.dump(metrics)
    else:
        print_metrics(metrics)
    if command.options.record:
        about = {
            "size": command.size,
            "variant": command.variant,
            "seed": model.experiment.train.seed,
            "steps": model.experiment.steps,
        }
        row = about | {"metrics": {k: round(v, 4) for k, v in metrics.items()}, "commit": _results.commit()}
        print(f"written: {_results.write_row(command.slug, 'trained', row)}", file=sys.stderr)
    if not command.options.split and not changed:
        paths.replace(workdir / "evaluation.json", json.dumps(metrics, indent=1, ensure_ascii=False))
        model.metrics = metrics
        write_report(command.slug, model, workdir)


if __name__ == "__main__":
    _cli.main(run)
