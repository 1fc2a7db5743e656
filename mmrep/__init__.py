"""mmrep: multimodal representation learning as small compositions of pure functions."""

from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "mmrep.api": (
        "create",
        "evaluate",
        "finetune",
        "get_config",
        "list_systems",
        "load",
        "pretrained",
        "train",
        "zero_shot",
    ),
    "mmrep.config": ("Data", "Experiment", "Optim", "Phase", "Pretrained", "Tokenizer", "Train"),
    "mmrep.data.sources": ("TFDS", "Folder", "Shards", "Table"),
    "mmrep.errors": ("ConfigError", "DataError"),
    "mmrep.evals.suite": ("Knn", "Probe", "Retrieval", "ZeroShot"),
    "mmrep.model": ("Model",),
    "mmrep.nn.config": ("TransformerConfig", "variant"),
    "mmrep.nn.dual": ("dual_encoder",),
    "mmrep.nn.encoders.audio": ("AudioEncoder",),
    "mmrep.nn.encoders.image": ("ImageEncoder",),
    "mmrep.nn.encoders.text": ("TextEncoder",),
    "mmrep.system": ("System", "stateless"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}
__all__ = sorted((*_HOME, "modality"))


def __getattr__(name: str) -> Any:
    # JAX is imported on first use, so that `--help` and `list` answer at once.
    from importlib import import_module

    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    if name == "modality":  # its functions make the entries of Data.modalities: mmrep.modality.image("image", 32)
        return import_module("mmrep.modality")
    raise AttributeError(f"module 'mmrep' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
