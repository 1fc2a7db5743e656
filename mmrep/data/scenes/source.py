"""Synthetic scenes as a data source: rendered in blocks on first use, nothing on disk."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mmrep.data import serialise, splits
from mmrep.data.columns import BLOCK, Blocks
from mmrep.data.scenes import (
    boxes,
    captions,
    detections,
    edges,
    landcover,
    masks,
    metadata,
    optical,
    palette,
    pose,
    radar,
    raster,
    regions,
    relief,
    rgb,
    teacher,
    words,
)
from mmrep.data.scenes.captions import CaptionSpec, Noise
from mmrep.data.scenes.world import Scenes, WorldSpec, sample, take
from mmrep.data.serialise import Serialised
from mmrep.errors import ConfigError, DataError, near

Record = dict[str, Any]
Columns = dict[str, Any]
"""Record fields of a block of scenes: arrays or lists whose first axis is the scene."""

SPLIT_START = {"train": 0, "val": 1 << 29, "test": 1 << 30}
"""First scene index of each split: disjoint, and a larger n_train only adds scenes."""


@dataclass(frozen=True)
class SceneData:
    """Scenes of a world through a set of sensors.

    Every record has: id int32 (the scene's index, unique over splits), n_objects, noise_kind (an index of captions.NOISE_KINDS), and of
    the first object shape, colour, size: int32 ids of the world's vocabularies. Sensors add:
        rgb        rgb uint8 [S, S, 3]
        caption    caption str, or a tuple of several where caption.variants > 1 or caption.mix (training draws one, evaluation takes the
                   first); with several languages also caption_<language> for each
        grounding  caption_objects int32 [words]: the object slot that each space-separated word of the caption describes, -1 for none
        hard       caption_hard str: the caption with two colours swapped (or one attribute wrong); hard_swap int32: 1 where swapped
        semseg     semseg uint8 [S, S]: 0 ground, 1 + shape id
        instances  instances uint8 [S, S]: 0 ground, 1 + object slot
        depth      depth float32 [S, S, 1] in [0, 1], 1 = the ground;   normals: normals uint8 [S, S, 3], the relief's normals as colours
        optical    optical uint8 [S, S, 6], bands of optical.BANDS;   radar: radar uint8 [S, S, 2], radar.BANDS
        landcover  landcover uint8 [S, S]: 0 ground, 1 + colour id * 2 + material id
        boxes      boxes float32 [K, 4]: left, top, right, bottom in [0, 1] of the visible part; boxes_valid bool [K]
        edges      edges float32 [S, S, 1] in [0, 1]: outlines of one pixel
        palette    palette str: the picture's main colours, 1 to serial.palette of them;   detections: detections str, boxes with shapes
        metadata   metadata str: measures of scene and picture, "v1=<id> v0=<bin>" each (training shuffles them); for all see data.serialise
        pose       pose float32 [6 K]: of each slot 1, x, y, radius, cosine and sine of the rotation;   teacher: teacher float32 [64],
                   the unit embedding of a frozen random network of the latent scene, not of its pixels
        words      words float32 [16, 32]: an embedding of each word of the (first) caption by a frozen random network, zeros behind them
        regions    regions float32 [K, 36], a detector's feature and box for each object; region_shape, region_colour int32 [K] and
                   region_confidence float32 [K] in [0.5, 1]: all zero in empty slots
        objects    object_valid bool [K]; object_shape, object_colour, object_size int32 [K], -1 in empty slots; object_xy float32 [K, 2]

    size:  image side in pixels.   seed: another seed is another set of scenes of the same world.
    noise: false captions, in the training split only.   grain: standard deviation of the pixel noise, of full scale 1.
    serial: how finely palette, metadata and detections are written; `serialise.symbols(serial)` is their vocabulary.
    """

    n_train: int = 4000
    n_val: int = 500
    n_test: int = 500
    seed: int = 0
    size: int = 32
    sensors: tuple[str, ...] = ("rgb", "caption")
    world: WorldSpec = field(default_factory=WorldSpec)
    caption: CaptionSpec = field(default_factory=CaptionSpec)
    noise: Noise = field(default_factory=Noise)
    grain: float = 0.02
    serial: Serialised = Serialised()

    def __post_init__(self) -> None:
        for name in ("n_train", "n_val", "n_test"):
            if not 0 <= getattr(self, name) <= 1 << 29:
                raise ConfigError(f"{name} is {getattr(self, name)}: it must lie in [0, 2**29]")
        if not 8 <= self.size <= 1024:
            raise ConfigError(f"size is {self.size}: give an image side in [8, 1024]")
        if not 0 <= self.grain <= 1:
            raise ConfigError(f"grain is {self.grain}: it must lie in [0, 1]")
        if not self.sensors:
            raise ConfigError(f"sensors is empty: choose from {', '.join(sorted(SENSORS))}")
        for name in self.sensors:
            if name not in SENSORS:
                raise ConfigError(f"sensors has {name!r}, which does not exist{near(name, SENSORS)}")
        falsifies = "hard" in self.sensors or (self.noise.rate and self.noise.attribute)
        if falsifies and len(self.world.colours) < 2 and len(self.world.shapes) < 2:
            raise ConfigError("world has one shape and one colour: wrong attributes need at least two of either")

    def count(self, split: str) -> int:
        """Scenes of a split. Raises DataError for a split that is unknown or empty."""
        splits.check(split)
        n = getattr(self, f"n_{split}")
        if not n:
            raise DataError(f"split {split!r} is empty: set n_{split} to 1 or more")
        return n

    def scenes(self, split: str, rows: np.ndarray | slice | None = None) -> Scenes:
        """The latent scenes of a split: all, or those at `rows` (positions in the split)."""
        index = np.arange(self.count(split)) if rows is None else np.arange(self.count(split))[rows]
        return sample(self.seed, index + SPLIT_START[split], self.world)

    def open(self, split: str) -> Blocks:
        """The records of `split` ("train", "val", "test"). Raises DataError for a split that is unknown or empty."""
        return Blocks(self, split, self.count(split))

    def columns(self, split: str, rows: np.ndarray) -> Columns:
        """The records at `rows` (positions in the split) as columns."""
        return columns_of(self, split, rows)

    def class_names(self, field: str) -> tuple[str, ...]:
        """The vocabulary of an attribute of the first object, in the order of its ids."""
        world = self.world
        return {"shape": world.shapes, "colour": world.colours, "size": world.sizes}.get(field, ())

    def texts(self, split: str) -> Iterator[str]:
        """Every caption of the split, without rendering images, and of detections their classes; numbers are the tokenizer's symbols."""
        n = self.count(split)
        if "detections" in self.sensors:
            yield from self.world.shapes
        for start in range(0, n, BLOCK):
            columns = columns_of(self, split, np.arange(start, min(start + BLOCK, n)), _TEXT_SENSORS & {*self.sensors})
            for values in (v for name, v in columns.items() if name.startswith("caption")):
                for value in values:
                    if isinstance(value, str):
                        yield value
                    elif isinstance(value, tuple):
                        yield from value

    def view(self, record: Record, rng: np.random.Generator | None) -> Record:
        """One caption of several: a random one, or the first without `rng`. A grounding is given only for the first.

        With `rng` the measures of metadata come in a random order.
        """
        if rng is not None and isinstance(record.get("caption"), tuple):
            record = {k: v for k, v in record.items() if k != "caption_objects"}
        if rng is not None and "metadata" in record:
            record = {**record, "metadata": serialise.shuffle_pairs(record["metadata"], rng)}
        return splits.select(record, rng)


def columns_of(
    data: SceneData, split: str, rows: np.ndarray, sensors: Sequence[str] | set[str] | None = None
) -> Columns:
    """The records at `rows` (positions in the split) as columns; `sensors` other than data.sensors, where given."""
    scenes = data.scenes(split, rows)
    noise = data.noise if split == "train" else Noise()
    block = _Block(data, split, rows, scenes, captions.noise_kinds(scenes, noise))
    columns: Columns = {
        "id": scenes.id.astype(np.int32),
        "n_objects": scenes.valid.sum(1).astype(np.int32),
        "noise_kind": block.kinds.astype(np.int32),
        "shape": scenes.shape[:, 0].astype(np.int32),
        "colour": scenes.colour[:, 0].astype(np.int32),
        "size": scenes.size[:, 0].astype(np.int32),
    }
    for name in data.sensors if sensors is None else sorted(sensors):
        columns |= SENSORS[name](block)
    return columns


class _Block:
    """A block of scenes, with the arrays that several sensors use, computed once."""

    def __init__(self, data: SceneData, split: str, rows: np.ndarray, scenes: Scenes, kinds: np.ndarray) -> None:
        self.data, self.split, self.rows, self.scenes, self.kinds = data, split, rows, scenes, kinds
        self._shared: dict[str, Any] = {}

    @property
    def distance(self) -> np.ndarray:
        return self._once("distance", lambda: raster.distance(self.scenes, self.data.size))

    @property
    def instances(self) -> np.ndarray:
        return self._once("instances", lambda: raster.front(self.scenes, self.distance))

    @property
    def rgb(self) -> np.ndarray:
        data = self.data
        # Shared distances pay only where another sensor uses them: an image alone is painted in blocks that fit the cache.
        shared = self.distance if _READ_DISTANCE & {*data.sensors} else None
        return self._once("rgb", lambda: rgb.rgb(self.scenes, data.size, data.seed, data.grain, distance=shared))

    @property
    def depth(self) -> np.ndarray:
        return self._once("depth", lambda: relief.depth(self.scenes, self.data.size, self.distance))

    @property
    def boxes(self) -> tuple[np.ndarray, np.ndarray]:
        return self._once("boxes", lambda: boxes.boxes_of(self.instances, self.scenes.valid.shape[1]))

    def described(self, language: str, variant: int) -> list[str]:
        """The captions, false ones included."""
        return self._once(f"captions {language} {variant}", lambda: _described(self, language, variant))

    def _once(self, name: str, compute: Callable[[], Any]) -> Any:
        if name not in self._shared:
            self._shared[name] = compute()
        return self._shared[name]


def _rgb(block: _Block) -> Columns:
    return {"rgb": block.rgb}


def _caption(block: _Block) -> Columns:
    spec = block.data.caption
    described = {language: [block.described(language, v) for v in range(spec.variants)] for language in spec.languages}
    chosen = [v for variants in described.values() for v in variants] if spec.mix else described[spec.languages[0]]
    columns = {"caption": _several(chosen)}
    if len(described) > 1:
        columns |= {f"caption_{language}": _several(variants) for language, variants in described.items()}
    return columns


def _several(variants: list[list[str]]) -> list[Any]:
    return variants[0] if len(variants) == 1 else list(zip(*variants))


def _described(block: _Block, language: str, variant: int) -> list[str]:
    data, scenes, spec = block.data, block.scenes, block.data.caption
    texts = captions.captions(scenes, spec, language, variant)

    def put(kind: int, describe: Callable[[Scenes, np.ndarray], list[str]]) -> None:
        at = np.nonzero(block.kinds == kind)[0]
        if len(at):
            for i, text in zip(at.tolist(), describe(take(scenes, at), at)):
                texts[i] = text

    def another(here: Scenes, at: np.ndarray) -> list[str]:
        n = data.count(block.split)
        step = 1 + np.floor(captions.uniform(here.key, "other scene") * (n - 1)).astype(np.int64)
        return captions.captions(data.scenes(block.split, (block.rows[at] + step) % n), spec, language, variant)

    def wrong(here: Scenes, at: np.ndarray) -> list[str]:
        return captions.captions(captions.falsified(here, spec, data.world, variant), spec, language, variant)

    put(captions.OTHER, another)
    put(captions.GENERIC, lambda here, at: captions.generic(here, language))
    put(captions.ATTRIBUTE, wrong)
    return texts


def _grounding(block: _Block) -> Columns:
    spec, clean = block.data.caption, block.kinds == captions.CLEAN
    grounded = captions.grounded(block.scenes, spec, spec.languages[0])
    texts = block.described(spec.languages[0], 0)
    nothing = [np.full(len(text.split(" ")), -1, np.int32) for text in texts]
    return {
        "caption_objects": [
            np.array(c.objects, np.int32) if true else none for c, true, none in zip(grounded, clean.tolist(), nothing)
        ]
    }


def _hard(block: _Block) -> Columns:
    spec = block.data.caption
    texts, done = captions.hard_negatives(block.scenes, spec, block.data.world, spec.languages[0])
    return {"caption_hard": texts, "hard_swap": done.astype(np.int32)}


def _semseg(block: _Block) -> Columns:
    return {"semseg": masks.semseg_of(block.scenes, block.instances)}


def _instances(block: _Block) -> Columns:
    return {"instances": block.instances}


def _depth(block: _Block) -> Columns:
    return {"depth": block.depth}


def _normals(block: _Block) -> Columns:
    return {"normals": relief.normals(block.scenes, block.data.size, block.distance)}


def _optical(block: _Block) -> Columns:
    data = block.data
    return {"optical": optical.optical(block.scenes, data.size, data.seed, data.grain, block.distance)}


def _radar(block: _Block) -> Columns:
    return {"radar": radar.radar(block.scenes, block.data.size, block.data.seed, distance=block.distance)}


def _landcover(block: _Block) -> Columns:
    return {"landcover": landcover.landcover(block.scenes, block.data.size, block.distance)}


def _boxes(block: _Block) -> Columns:
    box, valid = block.boxes
    return {"boxes": box, "boxes_valid": valid}


def _edges(block: _Block) -> Columns:
    return {"edges": edges.edges(block.scenes, block.instances, block.depth)}


def _palette(block: _Block) -> Columns:
    return {"palette": palette.texts(block.rgb, block.scenes, block.data.serial)}


def _metadata(block: _Block) -> Columns:
    measured = metadata.of_picture(block.rgb)
    measured |= metadata.of_scene(block.scenes, block.instances, block.distance, block.depth)
    return {"metadata": metadata.texts(measured, block.data.serial)}


def _detections(block: _Block) -> Columns:
    return {"detections": detections.texts(block.scenes, *block.boxes, block.data.serial)}


def _pose(block: _Block) -> Columns:
    return {"pose": pose.pose(block.scenes)}


def _teacher(block: _Block) -> Columns:
    return {"teacher": teacher.teacher(block.scenes)}


def _words(block: _Block) -> Columns:
    return {"words": words.words(block.described(block.data.caption.languages[0], 0))}


def _objects(block: _Block) -> Columns:
    s = block.scenes
    ids = {name: np.where(s.valid, getattr(s, name), -1).astype(np.int32) for name in ("shape", "colour", "size")}
    xy = np.where(s.valid[..., None], np.stack([s.x, s.y], -1), 0).astype(np.float32)
    return {f"object_{name}": v for name, v in ids.items()} | {"object_xy": xy, "object_valid": s.valid}


def _regions(block: _Block) -> Columns:
    names = "regions", "region_shape", "region_colour", "region_confidence"
    return dict(zip(names, regions.regions(block.scenes)))


SENSORS: Mapping[str, Callable[[_Block], Columns]] = {
    "rgb": _rgb, "caption": _caption, "grounding": _grounding, "hard": _hard, "semseg": _semseg, "instances": _instances,
    "boxes": _boxes, "objects": _objects, "depth": _depth, "normals": _normals,
    "optical": _optical, "radar": _radar, "landcover": _landcover, "edges": _edges, "palette": _palette, "metadata": _metadata,
    "detections": _detections, "pose": _pose, "teacher": _teacher, "words": _words, "regions": _regions,
}  # fmt: skip
"""Name -> record fields. A new sensor is a file with a pure function of the scenes, and a line here."""

_TEXT_SENSORS = {"caption", "hard"}
_READ_DISTANCE = {"semseg", "instances", "boxes", "depth", "normals", "edges", "metadata", "detections"}


@dataclass(frozen=True)
class Joint:
    """Several sources as one, their records in turn; where a shorter one has ended, the others go on.

    Records get source: int32, the position in `sources`. A split that a source lacks is an error.
    """

    sources: tuple[Any, ...]

    def __post_init__(self) -> None:
        if not self.sources:
            raise ConfigError("sources is empty: give at least one")

    def open(self, split: str) -> "JointRecords":
        return JointRecords([s.open(split) for s in self.sources])

    def texts(self, split: str) -> Iterator[str]:
        for s in self.sources:
            yield from s.texts(split)

    def view(self, record: Record, rng: np.random.Generator | None) -> Record:
        return self.sources[int(record["source"])].view(record, rng)


class JointRecords(Sequence[Record]):
    def __init__(self, parts: Sequence[Sequence[Record]]) -> None:
        self.parts = parts
        lengths = np.array([len(p) for p in parts])
        part = np.repeat(np.arange(len(parts)), lengths)
        row = np.concatenate([np.arange(n) for n in lengths])
        order = np.lexsort((part, row))
        self.part, self.row = part[order], row[order]

    def __len__(self) -> int:
        return len(self.part)

    def __getitem__(self, i: int) -> Record:  # type: ignore[override]
        return self.parts[self.part[i]][int(self.row[i])] | {"source": np.int32(self.part[i])}
