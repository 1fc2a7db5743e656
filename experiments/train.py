"""Trains a system, evaluates it on held-out data and writes its report; resumes where the run's folder has a checkpoint."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from experiments import _cli
from mmrep.errors import DataError
from mmrep.training import distributed

if TYPE_CHECKING:
    from collections.abc import Callable

    from mmrep.config import Experiment, Pretrained


@dataclass(frozen=True)
class Options:
    workdir: Annotated[Path | None, _cli.FOLDER] = None
    """the run's folder, or its gs:// or s3:// URL (default: runs/SLUG-SIZE)"""
    init_from: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None
    """start from these parameters: a run's folder, a file of Model.save, or published weights"""
    overfit_one_batch: bool = False
    """train on one fixed batch, without augmentation and evaluation: a loss that stays up there is an error of the model, not of the data"""
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

    workdir, experiment = command.workdir(command.options.workdir), command.experiment
    if command.options.init_from:
        experiment = started_from(experiment, command.options.init_from)
    overfit = command.options.overfit_one_batch
    if overfit:
        from mmrep.data.first import one_batch

        experiment = one_batch(experiment)
        if command.options.workdir is None:
            workdir = workdir.with_name(f"{workdir.name}-one-batch")
    meta = {"slug": command.slug, "size": command.size, "variant": command.variant}
    quiet = command.options.quiet or not distributed.leads()
    with guarded(command.options.watchdog) as guard:
        model = train(
            experiment, workdir, evaluate=evaluate, meta=meta, progress=not quiet, guard=guard,
            wandb=command.options.wandb,
        )  # fmt: skip
    if guard.signal or not distributed.leads():
        return
    print_metrics(model.metrics)
    losses = [row["train/loss"] for row in model.rows if "train/loss" in row]
    if overfit and losses:
        print(f"one batch: loss {losses[0]:.4g} at the first log point, {losses[-1]:.4g} at the last")
    if command.options.report and not overfit:
        print(f"report: {write_report(command.slug, model, workdir)}")


def started_from(experiment: "Experiment", path: Path) -> "Experiment":
    """`experiment` whose first phase starts from the parameters in `path`: all of them must have a place of their shape in it.

    Raises DataError where there is no such file or folder.
    """
    from mmrep import paths
    from mmrep.training.restore import restore

    place = paths.at(path)
    if not paths.exists(place):
        raise DataError(f"--init-from: no file or folder {place}")
    file = place if paths.is_url(place) else path.resolve()
    if paths.is_dir(place / "checkpoints"):
        steps = paths.names(place / "checkpoints")
        name = hashlib.sha256(f"{file} {steps}".encode()).hexdigest()[:16]
        file = paths.make_cache("donors") / f"{name}.safetensors"
        with distributed.leader_first():
            if not paths.exists(file):
                restore(place).save(file)
    part, fits = covering(experiment, str(file))
    first, *rest = experiment.phases
    first = replace(first, start=(*(p for p in first.start if not fits(p)), part))
    return replace(experiment, phases=(first, *rest))


def covering(experiment: "Experiment", file: str) -> "tuple[Pretrained, Callable[[Pretrained], bool]]":
    """(the file as a pretrained part, whether another part brings nothing that the file does not hold and so need not be trained).

    The file's extras, such as trained tokenizers, belong to the part where all of them have a place of their shape here.
    """
    import jax

    from mmrep.config import Pretrained, flatten
    from mmrep.training.loop import initial, pretrained_params

    params, extras = jax.eval_shape(lambda: initial(experiment))
    here = {path: leaf.shape for path, leaf in flatten(params | {"extras": extras}).items()}
    given = {path: value.shape for path, value in flatten(pretrained_params(Pretrained(file=file))).items()}
    given_extras = {path: shape for path, shape in given.items() if path.startswith("extras/")}
    fit = all(here.get(path) == shape for path, shape in given_extras.items())
    if not fit:
        print("--init-from: not all of the file's extras have a place here, they are left out")
    taken = given if fit else given.keys() - given_extras.keys()
    extra = (("extras/", "extras/"),) if given_extras and fit else ()

    def fits(part: Pretrained) -> bool:
        for _, place in part.parts:
            mine = (p for p in here if p.startswith(place) and p.startswith("extras/") == place.startswith("extras/"))
            if not all(path in taken for path in mine):
                return False
        return True

    return Pretrained(file=file, parts=(("", ""), *extra)), fits


if __name__ == "__main__":
    _cli.main(run)
