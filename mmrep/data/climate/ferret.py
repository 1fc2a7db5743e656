"""The rasters themselves: found on this machine or fetched, checked and read; and the small sample that comes with this package."""

import hashlib
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from mmrep import paths
from mmrep.data.climate.blocks import CELL, COLUMNS, ROWS, SOUTH
from mmrep.errors import DataError

VARIABLES: Mapping[str, tuple[str, ...]] = {
    "sst": ("SST",), "airt": ("AIRT",), "speh": ("SPEH",), "wind": ("UWND", "VWND"), "slp": ("SLP",), "wspd": ("WSPD",),
}  # fmt: skip
"""Our name -> the bands of the file."""
FILES = {
    "coads_climatology.cdf": "b94f55034d13d63f33e2153afddc0c5e00347076c35ab3e34937aec38ce9c4c1",
    "etopo120.cdf": "48a8457b6c0df6a7527714d028b360a82c299444a6c02985eb95a330f66ccc7b",
}
"""What is read of the Debian package ferret-datasets 7.6.0, and its SHA-256."""
USUAL = Path("/usr/share/ferret-vis/data")
SAMPLE = Path(__file__).parent / "sample.npz"
SAMPLE_MONTHS = (1, 7)
_LEVELS = 250


class Grid(NamedTuple):
    """values: variable -> [months, 60, 180, bands] in the file's units, NaN where no ship has been.   relief: metres.   months: 1 to 12."""

    values: dict[str, Float[np.ndarray, "M 60 180 C"]]
    relief: Float[np.ndarray, "60 180 1"]
    months: tuple[int, ...]


def find(folder: str = "") -> Path:
    """The folder with the files: `folder`, else $MMREP_FERRET, else where Debian's ferret-datasets puts them, else in the cache, where
    `apt-get download` brings them (28 MB, once; nothing is installed). Raises DataError where none of these works."""
    given = folder or os.environ.get("MMREP_FERRET", "")
    if given:
        if not _complete(Path(given).expanduser()):
            raise DataError(f"{given} has no {' or no '.join(FILES)}: give the data folder of Debian's ferret-datasets")
        return Path(given).expanduser()
    for place in (USUAL, paths.local_cache() / "climate"):
        if _complete(place):
            return place
    return _fetch(paths.local_cache() / "climate")


def _complete(folder: Path) -> bool:
    return all((folder / name).is_file() for name in FILES)


def _fetch(target: Path) -> Path:
    with tempfile.TemporaryDirectory() as work:
        try:
            for command in (["apt-get", "download", "ferret-datasets"], ["sh", "-c", "dpkg-deb -x ./*.deb unpacked"]):
                subprocess.run(command, cwd=work, check=True, capture_output=True, timeout=300)
        except (OSError, subprocess.SubprocessError):
            raise DataError(
                "the climate rasters are not on this machine: apt install ferret-datasets (Debian, Ubuntu), or unpack that package "
                "anywhere and name its folder usr/share/ferret-vis/data in $MMREP_FERRET"
            ) from None
        target.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            paths.replace(target / name, (Path(work) / "unpacked" / USUAL.relative_to("/") / name).read_bytes())
    return target


def read(folder: Path) -> Grid:
    """All months between 60 S and 60 N. Raises DataError for a file that is not the one this code was written for."""
    from scipy.io import netcdf_file

    for name, known in FILES.items():
        if hashlib.sha256((folder / name).read_bytes()).hexdigest() != known:
            raise DataError(f"{folder / name} is not that of ferret-datasets 7.6.0 (SHA-256 differs): fetch it again")
    first = int((SOUTH + 90) / CELL)
    rows = slice(first, first + ROWS)
    with netcdf_file(folder / "coads_climatology.cdf", mmap=False) as file:
        bands = {name: [_band(file, band)[:, rows] for band in names] for name, names in VARIABLES.items()}
    with netcdf_file(folder / "etopo120.cdf", mmap=False) as file:
        relief = _band(file, "ROSE")[rows, :, None]
    return Grid({name: np.stack(b, axis=-1) for name, b in bands.items()}, relief, tuple(range(1, 13)))


def _band(file: object, name: str) -> np.ndarray:
    values = np.asarray(file.variables[name].data, np.float32)  # type: ignore[attr-defined]
    return np.where(values < -1e33, np.float32(np.nan), values)


def sample() -> Grid:
    """January and July of the same grid at 8 bits, from this package (sample.md has its source and licence)."""
    with np.load(SAMPLE, allow_pickle=False) as stored:
        layers, low, high = stored["layers"], stored["low"], stored["high"]
    levels = np.cumsum(layers, axis=-1, dtype=np.uint8).astype(np.float32)
    shape = (-1, 1, 1)
    numbers = (levels - 1) / _LEVELS * (high - low).reshape(shape) + low.reshape(shape)
    numbers = np.where(levels > 0, numbers, np.float32(np.nan)).astype(np.float32)
    bands = numbers[:-1].reshape(-1, len(SAMPLE_MONTHS), ROWS, COLUMNS)
    values, at = {}, 0
    for name, names in VARIABLES.items():
        values[name] = np.moveaxis(bands[at : at + len(names)], 0, -1)
        at += len(names)
    return Grid(values, numbers[-1][..., None], SAMPLE_MONTHS)


def write_sample(grid: Grid, path: Path, months: Sequence[int] = SAMPLE_MONTHS) -> None:
    """Writes the file of `sample`: each map in 250 levels between its extremes, 0 for none, as differences along its rows."""
    at = [grid.months.index(m) for m in months]
    bands = [grid.values[name][at, ..., c] for name, names in VARIABLES.items() for c in range(len(names))]
    maps = np.concatenate([np.concatenate(bands), grid.relief[None, ..., 0]])
    low, high = np.nanmin(maps, (1, 2), keepdims=True), np.nanmax(maps, (1, 2), keepdims=True)
    levels = np.where(np.isnan(maps), 0, 1 + np.rint(np.nan_to_num(maps - low) / (high - low) * _LEVELS))
    layers = np.diff(levels.astype(np.uint8), axis=-1, prepend=np.uint8(0))
    np.savez_compressed(path, layers=layers, low=low.ravel(), high=high.ravel())
