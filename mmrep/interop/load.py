"""A trained system in one call: `mmrep.load("align").infer["text"](["a red circle"])`."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from mmrep.config import Experiment, from_json
from mmrep.errors import ConfigError, DataError
from mmrep.evals.view import View, view_of
from mmrep.interop import safetensors
from mmrep.system import Extras, Params


class Model(NamedTuple):
    """infer[name](values) takes raw values of the modality `name`; infer[name](image=[...], text=[...]) names them.

    Raw values are what a record holds: pictures (uint8 HWC), text, waveforms. Results are numpy arrays [N, ...].
    """

    experiment: Experiment
    params: Params
    extras: Extras
    tokenizer: bytes | None
    view: View
    infer: dict[str, Callable[..., Any]]


def load(what: str | Path, size: str = "small") -> Model:
    """A model from a system's last run here (a slug), a run's folder, or an exported .safetensors file.

    Raises ConfigError where there is no such run, DataError for a damaged file.
    """
    path = Path(what)
    if path.suffix == ".safetensors":
        return model(*safetensors.read(path))
    if not (path / "config.json").exists():
        path = Path("runs") / f"{what}-{size}"
    if not (path / "config.json").exists():
        raise ConfigError(
            f"no run in {path}: train it first (python -m experiments.train {what} --size {size}), or give a run's folder"
        )
    return model(*read_run(path))


def read_run(folder: Path) -> safetensors.Weights:
    """The evaluated parameters of a run's newest checkpoint."""
    from mmrep.train import sharding, state
    from mmrep.train.checkpoint import Checkpoints
    from mmrep.train.loop import abstract_state

    experiment = from_json(json.loads((folder / "config.json").read_text(encoding="utf-8"))["experiment"])
    mesh = sharding.make_mesh(type(experiment.mesh)(), jax.devices()[:1])
    with Checkpoints(folder / "checkpoints", experiment.train.keep_checkpoints, write=False) as saves:
        found = saves.newest(lambda step: abstract_state(experiment, experiment.phase_at(step - 1)[0], mesh))
    if found is None:
        raise DataError(f"{folder} has no finished checkpoint yet: train on, or set train.checkpoint_every")
    _, current = found
    tokenizer = folder / "tokenizer.model"
    return safetensors.Weights(
        experiment, state.evaluated(current), current["extras"], tokenizer.read_bytes() if tokenizer.exists() else None
    )


def model(experiment: Experiment, params: Params, extras: Extras, tokenizer: bytes | None) -> Model:
    """Parameters as a model with its preprocessing."""
    view = view_of(experiment, params, extras, tokenizer)

    def bind(name: str) -> Callable[..., Any]:
        def infer(values: Sequence[Any] | None = None, **named: Sequence[Any]) -> Any:
            return view.embed_raw(name, named if values is None else {name: values, **named})

        return infer

    names = (experiment.phases[-1].system or experiment.system).build().infer
    return Model(experiment, params, extras, tokenizer, view, {name: bind(name) for name in names})


def export(trained: Any, path: str | Path) -> Path:
    """Writes a Model or a Trained (anything with experiment, params, extras, tokenizer) to one safetensors file."""
    path = Path(path)
    safetensors.write(path, safetensors.Weights(trained.experiment, trained.params, trained.extras, trained.tokenizer))
    return path
