"""A run's folder -> its model."""

import json
from typing import Any

import jax

from mmrep import paths
from mmrep.config import experiment_from_json
from mmrep.errors import DataError
from mmrep.model import Model
from mmrep.training import sharding, state
from mmrep.training.checkpoint import Checkpoints
from mmrep.training.loop import abstract_state
from mmrep.training.metrics import read
from mmrep.training.workdir import read_config


def restore(folder: paths.Place, system: Any = None) -> Model:
    """The model of the newest checkpoint of the run in `folder`, on one device.

    system: in place of the stored one, for a system whose code is not part of mmrep.   Raises DataError where there is no checkpoint.
    """
    stored = read_config(folder)
    experiment = experiment_from_json(stored["experiment"], system)
    mesh = sharding.make_mesh(type(experiment.mesh)(), jax.devices()[:1])
    with Checkpoints(folder / "checkpoints", experiment.train.keep_checkpoints, write=False) as saves:
        found = saves.newest(lambda step: abstract_state(experiment, experiment.phase_at(step - 1)[0], mesh))
    if found is None:
        raise DataError(f"{folder} has no finished checkpoint yet: train on, or set train.checkpoint_every")
    _, current = found
    tokenizer, evaluation, log = folder / "tokenizer.model", folder / "evaluation.json", folder / "metrics.jsonl"
    return Model(
        experiment,
        state.evaluated(current),
        current["extras"],
        paths.read(tokenizer) if paths.exists(tokenizer) else None,
        metrics=_metrics(evaluation),
        rows=read(log) if paths.exists(log) else [],
    )


def _metrics(path: paths.Place) -> dict[str, float]:
    """Those of the last evaluation; none where it is missing or damaged, since it can be repeated."""
    try:
        return dict(json.loads(paths.text(path)))
    except (OSError, ValueError, TypeError):
        return {}
