"""One file to share: parameters as safetensors, with the config and the tokenizer in its header."""

import base64
import json
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mmrep.config import Experiment, experiment_from_json, flatten, to_json, unflatten
from mmrep.errors import DataError
from mmrep.system import Extras, Params

FORMAT = "mmrep-1"


def write(path: Path, experiment: Experiment, params: Params, extras: Extras, tokenizer: bytes | None) -> None:
    """Writes one file, atomically. bfloat16 and the other dtypes of safetensors keep their bits."""
    from safetensors.numpy import save_file

    tree = {"params": params, "extras": extras}
    arrays = {k: np.ascontiguousarray(jax.device_get(v)) for k, v in flatten(tree).items()}
    about = {"format": FORMAT, "experiment": json.dumps(to_json(experiment), ensure_ascii=False)}
    if tokenizer is not None:
        about["tokenizer"] = base64.b64encode(tokenizer).decode()
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    save_file(arrays, part, about)
    part.replace(path)


def is_ours(path: Path) -> bool:
    """Whether `write` wrote this file; False for a missing, foreign or damaged one."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            return (file.metadata() or {}).get("format") == FORMAT
    except (SafetensorError, OSError):
        return False


def read(path: Path, system: Any = None) -> tuple[Experiment, Params, Extras, bytes | None]:
    """(experiment, params, extras, tokenizer) as `write` wrote them. Raises DataError for a missing, foreign or damaged file. Nothing in it is ever unpickled."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise DataError(f"no file {path}")
    try:
        with safe_open(path, "np") as file:
            about: dict[str, Any] = file.metadata() or {}
            if about.get("format") != FORMAT:
                raise DataError(f"{path} was not written by Model.save: its header has no format {FORMAT!r}")
            flat = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 (a handle, not a dict)
    except SafetensorError as error:
        raise DataError(f"{path} is not a whole safetensors file: {error}") from None
    tree = unflatten(flat)
    model = about.get("tokenizer")
    experiment = experiment_from_json(json.loads(about["experiment"]), system)
    return experiment, tree.get("params", {}), tree.get("extras", {}), base64.b64decode(model) if model else None
