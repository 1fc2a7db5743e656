"""The functions of `import mmrep`."""

from pathlib import Path

from mmrep.errors import ConfigError
from mmrep.interop import safetensors
from mmrep.model import Model
from mmrep.training.restore import restore


def load(what: str | Path, size: str = "small") -> Model:
    """A model from a run's folder, a file that `Model.save` wrote, or a system's name: its run in ./runs/NAME-SIZE.

    Raises ConfigError where there is no such run, DataError for a damaged file.
    """
    path = Path(what)
    if path.suffix == ".safetensors":
        return Model(*safetensors.read(path))
    if not (path / "config.json").exists():
        path = Path("runs") / f"{what}-{size}"
    if not (path / "config.json").exists():
        raise ConfigError(
            f"no run in {path}: train it first (python -m experiments.train {what} --size {size}), or give a run's folder"
        )
    return restore(path)
