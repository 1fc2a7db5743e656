"""Real aligned rasters: the monthly climate of the sea surface (COADS) and the Earth's relief, split by blocks of the world.

Ship observations averaged by month on cells of 2 degrees, with holes where no ship has been, over land above all. `Climate()` reads them from
the Debian package ferret-datasets; `Climate(sample=True)` has two months of them in this package. `ATTRIBUTION` names their owners.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt

from mmrep.data import splits
from mmrep.data.climate import blocks, ferret
from mmrep.data.climate.blocks import CELL, COLUMNS, SOUTH, TILE, WEST
from mmrep.data.climate.ferret import VARIABLES
from mmrep.errors import ConfigError

__all__ = ["ATTRIBUTION", "COVER", "VARIABLES", "Climate"]

ATTRIBUTION = (
    "Sea surface climate: COADS monthly climatology; relief: ETOPO; both as distributed with Ferret by NOAA/PMEL "
    "(public domain, Ferret licence)."
)
COVER = ("land", "observed", "unobserved")
"""Classes of the map `cover`: land; sea where every variable was observed that month; sea where at least one was not."""


@dataclass(frozen=True)
class Climate:
    """Tiles of 12 x 12 cells (24 degrees), each of one month. Splits: train, val, test; see `blocks` for what keeps them apart.

    Every record has id, month (1 to 12), row and column (of its south-western cell): int32; latitude, longitude (its centre, degrees): float32;
        sst, airt, speh, wind, slp, wspd   float32 [12, 12, 1] ([12, 12, 2]: eastward and northward wind) in [0, 1]: the 0.1 % and 99.9 %
                                           quantiles of the training cells are 0 and 1, values beyond are clipped
        <variable>_observed                bool [12, 12]; elsewhere the variable holds the mean of the training cells
        cover                              uint8 [12, 12], classes COVER: whether a value was observed or filled in
        relief                             float32 [12, 12, 1] in [0, 1], scaled in the same way
        sky                                float32 [12, 12, 2] in [0, 1]: latitude from 60 S to 60 N, and the sun's daily mean above the
                                           atmosphere at that latitude in the middle of the month, 0 to 550 W/m2: the only information about
                                           place and season

    Sea surface temperature, air temperature (deg C), specific humidity (g/kg), wind (m/s), sea-level pressure (hPa), wind speed (m/s).

    least:  share of a tile's cells at which every variable was observed; tiles of less are left out, those over land.
    sample: the two months of the sample in place of all twelve.   folder: the files' folder; empty: found or fetched (`ferret.find`).
    """

    least: float = 0.5
    sample: bool = False
    folder: str = ""

    def __post_init__(self) -> None:
        if not 0.0 < self.least <= 1.0:
            raise ConfigError(f"climate.least is {self.least}: give a share of observed cells in (0, 1]")

    @property
    def attribution(self) -> tuple[str, ...]:
        """The attribution that a page with these maps must contain."""
        return (ATTRIBUTION,)

    @property
    def scales(self) -> dict[str, tuple[tuple[float, ...], tuple[float, ...]]]:
        """Variable -> the values of its bands, in the file's units, that became 0 and 1."""
        return {name: (tuple(s.low.tolist()), tuple(s.high.tolist())) for name, s in self._world.scales.items()}

    @property
    def _world(self) -> "_World":
        return _world(self.sample, self.folder)

    def open(self, split: str) -> "ClimateRecords":
        """The tiles of `split`. Raises DataError for an unknown or empty split, and where the files cannot be had."""
        splits.check(split)
        world = self._world
        tiles = [
            (month, row, column)
            for month in range(len(world.months))
            for row, column in blocks.corners(split).tolist()
            if world.complete[month][_window(row, column)].mean() >= self.least
        ]
        chosen = splits.choose(tiles, lambda _: split, split, "climate", "lower least")
        return ClimateRecords(world, chosen)

    def texts(self, split: str) -> Iterator[str]:
        """There are none."""
        splits.check(split)
        return iter(())

    def view(self, record: Mapping[str, Any], rng: np.random.Generator | None) -> dict[str, Any]:
        """The record unchanged: a rotated or mirrored climate would obey other laws."""
        return dict(record)


def sky(month: int) -> Float[np.ndarray, "60 2"]:
    """Of each row: its latitude, and its daily mean insolation in mid-month, both brought to [0, 1]."""
    latitude = SOUTH + CELL * (np.arange(blocks.ROWS) + 0.5)
    day = 30.4 * month - 15
    phi, tilt = np.deg2rad(latitude), np.deg2rad(23.44) * np.sin(2 * np.pi * (284 + day) / 365)
    noon = np.arccos(np.clip(-np.tan(phi) * np.tan(tilt), -1, 1))  # half of the day, as an angle
    sun = 1361 / np.pi * (noon * np.sin(phi) * np.sin(tilt) + np.cos(phi) * np.cos(tilt) * np.sin(noon))
    return np.stack([latitude / 120 + 0.5, np.clip(sun / 550, 0, 1)], axis=-1).astype(np.float32)


class Scale(NamedTuple):
    """Of each band: the values that become 0 and 1, and the mean of the training cells after that."""

    low: Float[np.ndarray, " C"]
    high: Float[np.ndarray, " C"]
    mean: Float[np.ndarray, " C"]


class _World(NamedTuple):
    """As `_ring` closes them."""

    maps: dict[str, Float[np.ndarray, "M 60 191 C"]]
    observed: dict[str, Bool[np.ndarray, "M 60 191"]]
    complete: Bool[np.ndarray, "M 60 191"]
    cover: UInt[np.ndarray, "M 60 191"]
    scales: dict[str, Scale]
    months: tuple[int, ...]


class ClimateRecords(Sequence[dict[str, Any]]):
    """Random access to the tiles of a split."""

    def __init__(self, world: _World, tiles: Sequence[tuple[int, int, int]]) -> None:
        self.world, self.tiles = world, tiles

    def __len__(self) -> int:
        return len(self.tiles)

    def __getitem__(self, i: int) -> dict[str, Any]:  # type: ignore[override]
        month, row, column = self.tiles[i]
        world, here = self.world, (month, *_window(row, column))
        number = world.months[month]
        east = WEST + CELL * (column + TILE / 2)
        record: dict[str, Any] = {
            "id": np.int32((number * blocks.ROWS + row) * COLUMNS + column),
            "month": np.int32(number), "row": np.int32(row), "column": np.int32(column),
            "latitude": np.float32(SOUTH + CELL * (row + TILE / 2)), "longitude": np.float32((east + 180) % 360 - 180),
            "cover": world.cover[here],
        }  # fmt: skip
        record |= {name: values[here] for name, values in world.maps.items()}
        return record | {f"{name}_observed": seen[here] for name, seen in world.observed.items()}


def _window(row: int, column: int) -> tuple[slice, slice]:
    return slice(row, row + TILE), slice(column, column + TILE)


def _ring(x: np.ndarray) -> np.ndarray:
    """The first columns once more behind the last: a window over the seam is a slice like any other."""
    return np.concatenate([x, x[:, :, : TILE - 1]], axis=2)


def scale_of(values: Float[np.ndarray, "M 60 180 C"]) -> Scale:
    """Quantiles and mean of the training cells alone."""
    seen = values[:, blocks.train_cells()].reshape(-1, values.shape[-1]).astype(np.float64)
    low, high = np.nanquantile(seen, [0.001, 0.999], axis=0)
    return Scale(low, high, np.nanmean(np.clip((seen - low) / (high - low), 0, 1), axis=0))


@lru_cache(maxsize=4)
def _world(sample: bool, folder: str) -> _World:
    """The scaled maps. A function of files that never change, so remembered."""
    grid = ferret.sample() if sample else ferret.read(ferret.find(folder))
    relief = np.broadcast_to(grid.relief, (len(grid.months), *grid.relief.shape))
    maps, scales = {}, {}
    for name, values in (*grid.values.items(), ("relief", relief)):
        scales[name] = s = scale_of(values)
        scaled = np.clip((values - s.low) / (s.high - s.low), 0, 1)
        maps[name] = _ring(np.where(np.isnan(values), s.mean, scaled).astype(np.float32))
    above = np.stack([sky(month) for month in grid.months])
    maps["sky"] = np.broadcast_to(above[:, :, None], (*above.shape[:2], COLUMNS + TILE - 1, 2))
    observed = {name: _ring(~np.isnan(values).any(-1)) for name, values in grid.values.items()}
    complete = np.logical_and.reduce(list(observed.values()))
    unobserved = np.where(_ring(relief[..., 0]) >= 0, COVER.index("land"), COVER.index("unobserved"))
    cover = np.where(complete, COVER.index("observed"), unobserved).astype(np.uint8)
    return _World(maps, observed, complete, cover, scales, grid.months)
