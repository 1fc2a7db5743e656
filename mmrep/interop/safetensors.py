"""One file to share: parameters as safetensors, with the config and the tokenizer in its header."""

import base64
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mmrep import paths
from mmrep.config import Experiment, experiment_from_json, flatten, to_json, unflatten
from mmrep.errors import DataError
from mmrep.system import Extras, Params

FORMAT = "mmrep-1"


def write(
    path: paths.Place,
    experiment: Experiment,
    params: Params,
    extras: Extras,
    tokenizer: bytes | None,
    half: bool = False,
    training: Mapping[str, Any] | None = None,
) -> None:
    """Writes one file, atomically. bfloat16 and the other dtypes of safetensors keep their bits.

    training: {"step": how far it was trained, "metrics": of its evaluation}, for the card of the model that is read.

    half: float32 arrays are stored as float16, and read back as float32. Raises DataError for values that float16 does not hold.
    """
    from safetensors.numpy import save_file

    tree = {"params": params, "extras": extras}
    arrays = {k: np.asarray(jax.device_get(v), order="C") for k, v in flatten(tree).items()}
    about = {"format": FORMAT, "experiment": json.dumps(to_json(experiment), ensure_ascii=False)}
    if half:
        single = [k for k, v in arrays.items() if v.dtype == np.float32]
        if large := [k for k in single if np.abs(arrays[k]).max(initial=0) > np.finfo(np.float16).max]:
            raise DataError(f"{large[0]} has values beyond those of float16: save without half")
        arrays |= {k: arrays[k].astype(np.float16) for k in single}
        about["half"] = json.dumps(single)
    if empty := list(_empty(tree)):
        about["empty"] = json.dumps(empty)
    if training:
        about["training"] = json.dumps(training)
    if tokenizer is not None:
        about["tokenizer"] = base64.b64encode(tokenizer).decode()
    if not paths.is_url(path):
        Path(path.parent).mkdir(parents=True, exist_ok=True)
    with paths.written(path) as part:
        save_file(arrays, part, about)


def is_ours(path: Path) -> bool:
    """Whether `write` wrote this file; False for a missing, foreign or damaged one."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            return (file.metadata() or {}).get("format") == FORMAT
    except (SafetensorError, OSError):
        return False


def read_parameters(path: Path) -> tuple[Params, Extras]:
    """(params, extras) of a file that `write` wrote; its config is not interpreted. Raises DataError as `read` does."""
    about, flat = _read(path)
    tree = unflatten(flat | {k: flat[k].astype(np.float32) for k in json.loads(about.get("half", "[]"))})
    for empty in json.loads(about.get("empty", "[]")):
        node = tree
        for part in empty.split("/"):
            node = node.setdefault(part, {})
    return tree.get("params", {}), tree.get("extras", {})


def read_tokenizer(path: Path) -> bytes | None:
    """The tokenizer of a file that `write` wrote; None where it has none. Raises DataError as `read` does."""
    tokenizer = _read(path, arrays=False)[0].get("tokenizer")
    return base64.b64decode(tokenizer) if tokenizer else None


def read_training(path: Path) -> dict[str, Any]:
    """{"metrics", "rows"} of a Model: the metrics that were stored, and one row with the step; empty where nothing was."""
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        about = (file.metadata() or {}).get("training", "{}")
    try:
        stored = json.loads(about)
    except ValueError:
        return {}
    rows = [{"step": stored["step"]}] if stored.get("step") else []
    return {"metrics": stored.get("metrics", {}), "rows": rows}


def read(path: Path, system: Any = None) -> tuple[Experiment, Params, Extras, bytes | None]:
    """(experiment, params, extras, tokenizer) as `write` wrote them. Nothing in the file is ever unpickled.

    system: in place of the stored one.   Raises DataError for a missing, foreign or damaged file.
    """
    params, extras = read_parameters(path)
    about, _ = _read(path, arrays=False)
    experiment = experiment_from_json(json.loads(about["experiment"]), system)
    return experiment, params, extras, read_tokenizer(path)


def _read(path: Path, arrays: bool = True) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """(header, {path: array})."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise DataError(f"no file {path}")
    try:
        with safe_open(path, "np") as file:
            about = file.metadata() or {}
            if about.get("format") != FORMAT:
                raise DataError(f"{path} was not written by Model.save: its header has no format {FORMAT!r}")
            return about, {k: file.get_tensor(k) for k in file.keys()} if arrays else {}  # noqa: SIM118 (a handle, not a dict)
    except SafetensorError as error:
        raise DataError(f"{path} is not a whole safetensors file: {error}") from None


def _empty(tree: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """The paths of dicts without entries, which no array stands for."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _empty(value, f"{prefix}{key}/") if value else [f"{prefix}{key}"]
