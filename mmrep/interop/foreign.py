"""Files of weights that others wrote: read by format, recognised by the names of their arrays or by the config beside them.

A format of a library has its file in this folder; a system that knows its authors' files has a `weights.py` beside it. Both are found by
import and have one function:

    read(arrays, about) -> (Experiment, params) | None      # about: the JSON configs beside the file, see `read_about`

A format here, or a system's `export.py`, that writes models for others has

    write(experiment, params, "hf" | "open_clip") -> (arrays, {JSON file: its entries}) | None
"""

import importlib
import json
import pkgutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from mmrep import paths
from mmrep.config import Experiment, replace
from mmrep.data import published
from mmrep.errors import ConfigError, DataError, near
from mmrep.interop import ctranslate2, safetensors, torch_files
from mmrep.system import Extras, Params

TORCH = (".pt", ".pth", ".bin", ".ckpt")
SUFFIXES = (".safetensors", ".npz", *TORCH)
TOOLS = ("ctranslate2", "foreign", "merge", "names", "packaged", "safetensors", "torch_files", "vision")
"""Files of this folder that describe no format of others."""


def read_foreign(path: str | Path, image_size: int = 0) -> tuple[Experiment, Params, Extras] | None:
    """The experiment and parameters of a published file of weights, or of a folder of them; None where no system recognises it.

    image_size: to which the positions of an image encoder are interpolated; 0: that of the files.
    Raises DataError for a damaged file, and for a recognised one whose arrays do not fit.
    """
    found = read_arrays(Path(path))
    if found is None:
        return None
    arrays, about = found
    about |= sentence_modules(Path(path)) | {"image_size_wanted": image_size}
    for module in weight_maps():
        known = module.read(arrays, about)
        if known is not None:
            return *known, {}
    return None


def with_tokenizer(path: Path, experiment: Experiment) -> tuple[Experiment, bytes | None]:
    """The experiment, its texts no longer than its tokenizer allows, and the tokenizer of the folder as bytes; None where it has none."""
    data = experiment.data
    if data.tokenizer is None or data.tokenizer.kind != "published":
        return experiment, None
    folder = path if path.is_dir() else path.parent
    about = read_about(folder)
    # open_clip has a tokenizer of its own unless its config names another one.
    own = "model_cfg" in about and not (about["model_cfg"].get("text_cfg") or {}).get("hf_tokenizer_name")
    kind = "open_clip" if own else str(about.get("model_type", ""))
    tokenizer = published.pack(folder, kind, getattr(experiment.system, "pad", None))
    limit = published.greatest_length(folder) if tokenizer else None
    if limit is not None:
        parts = (replace(m, shape=(min(m.shape[0], limit),)) if m.kind == "text" else m for m in data.modalities)
        experiment = replace(experiment, data=replace(data, modalities=tuple(parts)))
    return experiment, tokenizer


def tokenizer_of_phases(experiment: Experiment) -> bytes | None:
    """The published tokenizer beside the first file of weights of the phases that has one; None for tokenizers that are fitted."""
    if experiment.data.tokenizer is None or experiment.data.tokenizer.kind != "published":
        return None
    for part in (part for phase in experiment.phases for part in phase.start if part.file):
        with paths.fetched(paths.at(part.file)) as path:
            if path.suffix == ".safetensors" and safetensors.is_ours(path):
                found = safetensors.read_tokenizer(path)
            else:
                known = read_foreign(path) if path.exists() else None
                found = with_tokenizer(path, known[0])[1] if known else None
        if found is not None and published.is_packed(found):
            return found
    return None


HUB = "hf-hub:"


def from_hub(name: str) -> Path:
    """The local folder of "hf-hub:ORG/NAME", downloaded by huggingface_hub into its cache.

    Raises ConfigError where that library is not installed, DataError where the repository cannot be had.
    """
    try:
        hub: Any = importlib.import_module("huggingface_hub")
    except ImportError:
        raise ConfigError(
            f"{name} needs huggingface_hub (pip install huggingface_hub), or download the repository and give its folder"
        ) from None
    try:
        kept = [f"*{suffix}" for suffix in (*SUFFIXES, ".json", ".txt", ".model", ".gz")]
        return Path(hub.snapshot_download(name.removeprefix(HUB), allow_patterns=kept))
    except Exception as error:  # the library and those below it raise many kinds
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"{name} cannot be downloaded ({reason}): without a network, give the folder of a copy"
        ) from None


FORMATS = ("hf", "open_clip")


def write_folder(
    path: paths.Place, experiment: Experiment, params: Params, tokenizer: bytes | None, form: str
) -> paths.Place:
    """Writes a model as a folder of another library: its weights as safetensors, its config and preprocessing, and a published tokenizer.

    Raises ConfigError for an unknown format, a system that no format describes, and a path that is a file.
    """
    if form not in FORMATS:
        raise ConfigError(f"format is {form!r}{near(form, FORMATS)}")
    if path.suffix or (paths.exists(path) and not paths.is_dir(path)):
        raise ConfigError(f"{path} must be a folder: the format {form!r} has several files")
    for module in weight_maps("export"):
        found = module.write(experiment, params, form) if hasattr(module, "write") else None
        if found is None:
            continue
        from safetensors.numpy import save_file

        arrays, about = found
        files = {name: json.dumps(entries, indent=1).encode() for name, entries in about.items()}
        files |= published.unpack(tokenizer) if tokenizer and published.is_packed(tokenizer) else {}
        for name, content in files.items():
            paths.make((path / name).parent, "give another folder")
            paths.replace(path / name, content)
        weights = "open_clip_model.safetensors" if form == "open_clip" else "model.safetensors"
        with paths.written(path / weights) as part:
            save_file({k: np.array(v, np.float32, order="C") for k, v in arrays.items()}, part, {"format": "pt"})
        return path
    raise ConfigError(
        f"a system of {type(experiment.system).__module__} has no form in the format {form!r}: save it as .safetensors"
    )


def sentence_modules(folder: Path) -> dict[str, Any]:
    """{"modules": the entries of a sentence encoder's modules.json, each with those of its own config.json}; {} for other folders.

    Raises DataError for a file that is not JSON.
    """
    listed = folder / "modules.json"
    if not listed.is_file():
        return {}
    try:
        found = json.loads(listed.read_text(encoding="utf-8"))
        for entry in found:
            own = folder / entry["path"] / "config.json"
            if entry["path"] and own.is_file():
                entry |= json.loads(own.read_text(encoding="utf-8"))
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{listed} is not a sentence encoder's list of modules: {error!r}") from None
    return {"modules": found}


def weight_maps(file: str = "weights") -> Iterator[ModuleType]:
    """The module of every format here, then the module of that name of every system that has one."""
    here = importlib.import_module("mmrep.interop")
    yield from (
        importlib.import_module(m.name)
        for m in pkgutil.iter_modules(here.__path__, "mmrep.interop.")
        if m.name.rpartition(".")[2] not in TOOLS
    )
    systems = importlib.import_module("mmrep.systems")
    for family in pkgutil.iter_modules(systems.__path__, "mmrep.systems."):
        for system in pkgutil.iter_modules(importlib.import_module(family.name).__path__, f"{family.name}."):
            if system.ispkg:
                names = {m.name for m in pkgutil.iter_modules(importlib.import_module(system.name).__path__)}
                if file in names:
                    yield importlib.import_module(f"{system.name}.{file}")


def read_arrays(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
    """The arrays of a file, or of a folder's files of one format, and the folder's `read_about`; None where there is no such file.

    Nested entries are joined by dots; a file that wraps its weights in one entry "model" or "state_dict" is unwrapped. Nothing is unpickled.
    Raises DataError for a damaged file.
    """
    if path.is_dir():
        by_suffix = ([p for p in sorted(path.iterdir()) if p.suffix == s] for s in SUFFIXES)
        files, folder = next((f for f in by_suffix if f), []), path
    else:
        files, folder = [path] if path.is_file() and path.suffix in SUFFIXES else [], path.parent
    if not files:
        return None
    arrays: dict[str, np.ndarray] = {}
    for file in files:
        arrays |= _READERS[file.suffix](file)
    return arrays, read_about(folder)


def read_about(folder: Path) -> dict[str, Any]:
    """The entries of config.json and open_clip_config.json, and under "preprocessor" those of preprocessor_config.json, of those that exist.

    Raises DataError for a file that is not JSON.
    """
    about: dict[str, Any] = {}
    for name in ("config.json", "open_clip_config.json", "preprocessor_config.json"):
        file = folder / name
        if not file.is_file():
            continue
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise DataError(f"{file} is not JSON: {error}") from None
        about |= {"preprocessor": found} if name.startswith("pre") else found
    return about


def _safetensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise DataError(f"{path} is not a whole safetensors file: {error}") from None


def _npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (ValueError, OSError) as error:
        raise DataError(f"{path} is not an .npz file of plain arrays: {error}") from None


def _torch(path: Path) -> dict[str, np.ndarray]:
    if path.suffix == ".bin" and ctranslate2.is_model(path):
        return ctranslate2.read(path)
    found = flat_arrays(torch_files.read(path), lambda value: isinstance(value, np.ndarray))
    return {name: np.asarray(value, np.float32) for name, value in found.items()}


_READERS = {".safetensors": _safetensors, ".npz": _npz} | dict.fromkeys(TORCH, _torch)


def flat_arrays(tree: Mapping[str, Any], is_array: Any) -> dict[str, Any]:
    """{"a.b.c": array} of a nested state dict; what is no array (an optimiser's steps, arguments) is left out."""
    for wrapper in ("model", "state_dict"):
        if isinstance(tree.get(wrapper), Mapping):
            tree = tree[wrapper]
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}.{k}": v for k, v in flat_arrays(value, is_array).items()}
        elif is_array(value):
            flat[name] = value
    return {name.removeprefix("module."): value for name, value in flat.items()}
