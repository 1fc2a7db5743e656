"""Sources of pixel-aligned maps: one crop and one flip for all maps of a record, and records that lack some of their maps."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Shaped

from mmrep.errors import ConfigError, DataError

Record = Mapping[str, Any]
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Aligned:
    """`source` with a random resized crop and a flip in training, the same for all aligned maps of a record, whatever their sizes.

    fields: maps of numbers [H, W] or [H, W, C], bilinear.   ids: maps of class ids [H, W], nearest.   Each keeps its size.
    crop:   share of the area that is kept, drawn evenly;  ratio: of its sides, in logarithms.   flip: probability of left-right mirroring.
    The rest of a record (boxes, a caption that says "left of") stays unchanged: it must not depend on positions in the image.
    """

    source: Any
    fields: tuple[str, ...] = ("rgb", "depth")
    ids: tuple[str, ...] = ("semseg",)
    crop: tuple[float, float] = (0.2, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5

    def __post_init__(self) -> None:
        if not (self.fields or self.ids):
            raise ConfigError("Aligned: fields and ids are empty: name at least one map")
        if not 0 < self.crop[0] <= self.crop[1] <= 1 or not 0 < self.ratio[0] <= self.ratio[1]:
            raise ConfigError(f"Aligned: crop {self.crop} must rise within (0, 1], ratio {self.ratio} above 0")
        if not 0 <= self.flip <= 1:
            raise ConfigError(f"Aligned: flip is {self.flip}: give a probability in [0, 1]")

    def open(self, split: str) -> Sequence[Record]:
        return self.source.open(split)

    def texts(self, split: str) -> Iterator[str]:
        return self.source.texts(split)

    def view(self, record: Record, rng: np.random.Generator | None) -> Record:
        record = self.source.view(record, rng)
        if rng is None:
            return record
        for name in (*self.fields, *self.ids):
            if name not in record:
                raise DataError(f"Aligned: the record has no map {name!r}; it has {', '.join(sorted(record))}")
        height, width = np.shape(record[(*self.fields, *self.ids)[0]])[:2]
        box, mirrored = self.draw(rng, height / width)
        changed = {k: cut(np.asarray(record[k]), box, mirrored, k in self.ids) for k in (*self.fields, *self.ids)}
        return {**record, **changed}

    def draw(self, rng: np.random.Generator, shape: float = 1.0) -> tuple[Box, bool]:
        """(left, top, right, bottom) as shares of the sides, and whether to mirror. `shape`: height over width of the maps."""
        u = rng.random(5).tolist()
        area = self.crop[0] + (self.crop[1] - self.crop[0]) * u[0]
        low, high = (math.log(r) for r in self.ratio)
        ratio = math.exp(low + (high - low) * u[1])
        w, h = min(1.0, math.sqrt(area * ratio * shape)), min(1.0, math.sqrt(area / (ratio * shape)))
        left, top = u[2] * (1 - w), u[3] * (1 - h)
        return (left, top, left + w, top + h), u[4] < self.flip


def cut(value: Shaped[np.ndarray, "..."], box: Box, mirrored: bool, ids: bool) -> Shaped[np.ndarray, "..."]:
    """The part of a map [H, W] or [H, W, C] inside `box` (shares of the sides), at the size and kind of the whole."""
    from PIL import Image

    if value.ndim not in (2, 3) or (ids and value.dtype.kind not in "iu"):
        raise DataError(
            f"Aligned: {'ids are whole numbers [H, W]' if ids else 'maps are [H, W] or [H, W, C]'}, found {value.dtype} {value.shape}"
        )
    height, width = value.shape[:2]
    pixels = (box[0] * width, box[1] * height, box[2] * width, box[3] * height)
    how = Image.Resampling.NEAREST if ids else Image.Resampling.BILINEAR
    if value.dtype == np.uint8 and (value.ndim == 2 or value.shape[2] == 3):
        found = np.asarray(Image.fromarray(value).resize((width, height), how, pixels))
    else:
        kind = np.int32 if ids else np.float32
        bands = value.reshape(height, width, -1).astype(kind)
        parts = [
            np.asarray(Image.fromarray(np.ascontiguousarray(bands[..., c])).resize((width, height), how, pixels))
            for c in range(bands.shape[2])
        ]
        found = np.stack(parts, axis=-1).reshape(value.shape)
        found = np.rint(found) if value.dtype.kind in "iu" else found
    return np.ascontiguousarray(found[:, ::-1] if mirrored else found).astype(value.dtype, copy=False)


@dataclass(frozen=True)
class Incomplete:
    """`source` where training records lack some of their maps: each of `fields` is missing with probability `missing`, one always stays.

    A missing map is blank (zeros), and `present` float32 [maps] is 1 for those that are not missing, as MultiMAE needs to leave them out.
    Which are missing depends on (seed, record) alone; validation and test records are whole.
    """

    source: Any
    fields: tuple[str, ...] = ("rgb", "depth", "semseg")
    missing: float = 0.3
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.fields or not 0 <= self.missing < 1:
            raise ConfigError(
                f"Incomplete: fields {self.fields} must not be empty, missing {self.missing} lie in [0, 1)"
            )

    def open(self, split: str) -> "IncompleteRecords":
        return IncompleteRecords(self, self.source.open(split), self.missing if split == "train" else 0.0)

    def texts(self, split: str) -> Iterator[str]:
        return self.source.texts(split)

    def view(self, record: Record, rng: np.random.Generator | None) -> Record:
        return self.source.view(record, rng)


class IncompleteRecords(Sequence[Record]):
    def __init__(self, data: Incomplete, records: Sequence[Record], missing: float) -> None:
        self.data, self.records, self.missing = data, records, missing

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, i: int) -> Record:  # type: ignore[override]
        record, fields = dict(self.records[i]), self.data.fields
        rng = np.random.default_rng((self.data.seed, i % len(self)))
        u = rng.random(len(fields))
        here = (u >= self.missing) | (u == u.max())
        for name, there in zip(fields, here):
            if not there:
                record[name] = np.zeros_like(record[name])
        return record | {"present": here.astype(np.float32)}
