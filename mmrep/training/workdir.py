"""A run's folder: whose it is, and what stands in it before the first step."""

import json
import platform
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import jax

from mmrep import paths
from mmrep.config import Experiment, differences, fingerprint, timeless, to_json
from mmrep.data import contents, pipeline
from mmrep.errors import ConfigError, DataError
from mmrep.interop import foreign

# Fields that may change between the parts of one run: they do not change what is learnt.
FREE = ("evals", "mesh", "sharding", "train.log_every", "train.eval_every", "train.checkpoint_every", "train.checkpoint_minutes",
        "train.keep_checkpoints", "data.workers", "data.prefetch", "data.eval_batch_size", "data.max_bad_records", "system.large_batch")  # fmt: skip


def versions() -> dict[str, str]:
    """What ran: Python, the libraries that decide numbers, and the devices."""
    names = (
        "jax",
        "jaxlib",
        "flax",
        "optax",
        "orbax-checkpoint",
        "grain",
        "numpy",
        "sentencepiece",
        "tensorflow-datasets",
    )
    device = jax.devices()[0]
    return {"python": platform.python_version(), "devices": f"{jax.device_count()} x {device.device_kind}"} | {
        n: version(n) for n in names
    }


def read_config(folder: paths.Place) -> dict[str, Any]:
    """The content of a run's config.json: {"experiment", "fingerprint", "versions", "contents", ...}.

    Raises DataError where it is missing, damaged, or not one of mmrep's.
    """
    path = folder / "config.json"
    try:
        stored = json.loads(paths.text(path))
        if not isinstance(stored["experiment"], dict):
            raise ValueError("its experiment is no object")
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}): give the folder of a run") from None
    except (ValueError, KeyError, TypeError) as error:
        why = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise DataError(
            f"{path} is damaged ({why}): bring it back from a copy, or start anew in another folder"
        ) from None
    return stored


def open_workdir(
    experiment: Experiment,
    workdir: paths.Place | None,
    meta: Mapping[str, Any] | None,
    sentencepiece: bytes | None = None,
) -> bytes | None:
    """Checks that `workdir` is new or holds this experiment, and returns its tokenizer: `sentencepiece`, or one fitted on the first run.

    A kill at any moment leaves a folder that the next run takes up: config.json comes first, and every file whole. The config's places of
    data may change where the data has the same digest.

    Raises ConfigError where the folder holds something else, DataError where the data changed since the run began.
    """

    def fitted() -> bytes | None:
        given = sentencepiece or foreign.tokenizer_of_phases(experiment)
        return given or pipeline.fit_tokenizer(experiment.data, experiment.sources, paths.cache() / "tokenizers")

    if workdir is None:
        return fitted()
    stored, now = to_json(experiment), contents.of_run(experiment)
    path, model_path = workdir / "config.json", workdir / "tokenizer.model"
    if paths.exists(path):
        _check_same(workdir, read_config(workdir), stored, now)
    elif any(not name.startswith(".") for name in paths.names(workdir)):
        raise ConfigError(f"{workdir} is not empty and holds no run (no config.json): give another --workdir")
    kept = paths.exists(model_path)
    model = paths.read(model_path) if kept else fitted()
    if jax.process_index() == 0:
        paths.make(workdir, "give another --workdir")
        about = {**(meta or {}), "experiment": stored, "fingerprint": fingerprint(experiment), "versions": versions()}
        paths.replace(path, json.dumps(about | {"contents": now}, indent=1, ensure_ascii=False))
        if model is not None and not kept:
            paths.replace(model_path, model)
    return model


def _check_same(workdir: paths.Place, before: Mapping[str, Any], stored: Any, now: Mapping[str, Any]) -> None:
    """Raises ConfigError where the config differs from the run's in what is learnt, DataError where the data does."""
    held = before.get("contents", {})
    other = contents.changes(held, now)
    # A run that began before a field was added has none of it, which is the same config.
    changed = [d for d in differences(timeless(before["experiment"]), timeless(stored)) if not d.startswith(FREE)]
    moved = [d for d in changed if contents.is_place(d)]
    if moved == changed and other:
        raise DataError(
            f"the data changed since the run in {workdir} began ({'; '.join([*moved, *other])}): bring it back, or train anew in another "
            f'--workdir; to go on with it as it is now, remove "contents" from {workdir / "config.json"}'
        )
    if moved == changed and contents.known(held):
        return  # the same data at another place
    if changed:
        raise ConfigError(
            f"{workdir} holds a run of another config ({'; '.join(changed[:3])}): give the same settings or another --workdir"
        )
