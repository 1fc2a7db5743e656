"""Boxes, measures, palettes, people and instances as text, and back (4M, Mizrahi et al. 2023; 4M-21, Bachmann et al. 2024, section 3).

Every number becomes a bin, written "v0=12": v0 to v3 are four alphabets whose meaning the sentence gives. In a box they are its
left, top, right and bottom; a measure is "v1=<id> v0=<bin>"; a code is v0, or v1 beyond `Serialised.codes`. Coordinates lie in [0, 1].

Texts of a model may be broken anywhere, so the parsers skip what has no meaning and never raise: an unknown id, a value that is
missing, three coordinates, a box whose left edge is right of its right edge, a mask with 15 codes.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from mmrep.errors import ConfigError, DataError, near


@dataclass(frozen=True)
class Serialised:
    """How finely numbers are written. The paper's: `PAPER`.

    coordinates: bins of a coordinate; a count is cut to one below.   colours: bins of a colour channel.   values: of a measured value.
    codes:       codes below it are written v0, up to twice as many v1.   palette: the most colours of a palette.
    """

    coordinates: int = 32
    colours: int = 16
    values: int = 16
    codes: int = 32
    palette: int = 4

    def __post_init__(self) -> None:
        least = {"coordinates": 2, "colours": 2, "values": 2, "codes": 1, "palette": 1}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise ConfigError(f"serial.{name} is {getattr(self, name)}: it must be at least {low}")
        if self.colours > 256:
            raise ConfigError(f"serial.colours is {self.colours}: a channel has 256 values, give 256 or fewer")


PAPER = Serialised(coordinates=1000, colours=256, values=50, codes=512, palette=7)


def symbols(serial: Serialised, words: Iterable[str] = ()) -> tuple[str, ...]:
    """Every item that texts of `serial` can hold, for `mmrep.config.Tokenizer.symbols`; `words`: class names to be items too."""
    first = max(serial.coordinates, serial.colours, serial.values, serial.codes)
    second = max(serial.coordinates, serial.codes, serial.palette + 1, len(MEASURES))
    sizes = (first, second, serial.coordinates, serial.coordinates)
    return (*(f"v{a}={i}" for a, size in enumerate(sizes) for i in range(size)), *words)


# Numbers and bins.

Number = float | int


def _binned(value: Float[np.ndarray, "..."] | Sequence[Number], low: Number, high: Number, bins: int) -> np.ndarray:
    """Half to even, cut to the range."""
    value = np.asarray(value, np.float64)
    if not np.isfinite(value).all():
        raise DataError(f"{value.tolist()} cannot be written in bins: every number must be finite")
    scale = (bins - 1) / (high - low)
    return np.clip(np.rint(scale * value - scale * low), 0, bins - 1).astype(np.int64)


def _unbinned(i: Sequence[int], low: Number, high: Number, bins: int) -> np.ndarray:
    return low + np.minimum(np.asarray(i, np.float64), bins - 1) * (high - low) / (bins - 1)


def _values(bins: Iterable[int]) -> list[str]:
    return [f"v0={i}" for i in bins]


def _corners(bins: Iterable[int]) -> list[str]:
    return [f"v{a}={i}" for a, i in enumerate(bins)]


def _coded(codes: Iterable[int], serial: Serialised) -> list[str]:
    for i in codes:
        if not 0 <= i < 2 * serial.codes:
            raise DataError(f"code {i} is outside [0, {2 * serial.codes}): see serial.codes")
    return [f"v0={i}" if i < serial.codes else f"v1={i - serial.codes}" for i in codes]


class Item(NamedTuple):
    """One item of a text: "v2=7" is (2, 7, "v2=7"), a word (-1, -1, word)."""

    axis: int
    value: int
    text: str


_ITEM = re.compile(r"v([0-3])=(\d{1,6})")


def items(text: str) -> list[Item]:
    """The items of a text."""
    found = [(word, _ITEM.fullmatch(word)) for word in text.split()]
    return [Item(int(m[1]), int(m[2]), word) if m else Item(-1, -1, word) for word, m in found]


def _box_at(found: Sequence[Item], i: int) -> tuple[int, int, int, int] | None:
    """The four coordinates at position i; None unless left <= right and top <= bottom."""
    four = found[i : i + 4]
    if [x.axis for x in four] != [0, 1, 2, 3]:
        return None
    left, top, right, bottom = (x.value for x in four)
    return (left, top, right, bottom) if left <= right and top <= bottom else None


# Boxes: "v0=left v1=top v2=right v3=bottom class ...".


class Box(NamedTuple):
    left: float
    top: float
    right: float
    bottom: float
    name: str


def boxes(found: Iterable[Box], serial: Serialised) -> str:
    """The boxes by the distance of their top left corner to the origin; no boxes are an empty text."""
    ordered = sorted(found, key=lambda b: b.left**2 + b.top**2)
    return " ".join(" ".join([*_corners(_binned(b[:4], 0, 1, serial.coordinates).tolist()), b.name]) for b in ordered)


def parse_boxes(text: str, serial: Serialised, names: Collection[str] | None = None) -> list[Box]:
    """Boxes with their class, which is one word or more. Without four coordinates or a class (one of `names`), a box is skipped."""
    found, out = items(text), []
    for i in range(len(found)):
        corners = _box_at(found, i)
        if corners is None:
            continue
        end = i + 4
        while end < len(found) and "=" not in found[end].text:
            end += 1
        name = " ".join(x.text for x in found[i + 4 : end])
        if name and (names is None or name in names):
            left, top, right, bottom = _unbinned(corners, 0, 1, serial.coordinates).tolist()
            out.append(Box(left, top, right, bottom, name))
    return out


# Measures of a picture: "v1=<id> v0=<bin>" each, in any order.

MEASURES = (
    "width", "height", "caption_characters", "caption_words", "caption_sentences", "people", "sam_instances", "instances",
    "instance_diversity", "colourfulness", "brightness", "contrast", "saturation", "entropy", "walkability", "objectness",
    "semantic_diversity", "geometric_complexity", "occlusion", "watermark", "aesthetics",
)  # fmt: skip
"""Measures by id."""

RANGES: Mapping[str, tuple[Number, Number]] = {
    "colourfulness": (0, 150), "brightness": (0, 255), "contrast": (0, 127), "saturation": (0, 255), "entropy": (0, 10),
    "walkability": (0, 1), "objectness": (0, 1), "geometric_complexity": (0, 0.75), "occlusion": (0, 0.25),
}  # fmt: skip
THRESHOLDS: Mapping[str, tuple[float, ...]] = {"watermark": (0.5,), "aesthetics": (4.5, 5.5)}
SIZES = ("width", "height")
SIZE_BIN = 32  # pixels
PAIR = 2  # items of a measure: the chunk of span masking


def bins_of(
    name: str, value: Float[np.ndarray, "..."] | Int[np.ndarray, "..."] | Number, serial: Serialised
) -> np.ndarray:
    """Bins of values of a measure: rounded down; a count, which has no range, is only cut to the last bin.

    Raises DataError for an unknown measure and for values that are not finite.
    """
    if name not in MEASURES:
        raise DataError(f"no measure is called {name!r}{near(name, MEASURES)}")
    value = np.array(value, np.float64)
    if not np.isfinite(value).all():
        raise DataError(f"{name} is not finite: leave it out where it cannot be measured")
    if name in THRESHOLDS:
        return np.asarray(np.searchsorted(THRESHOLDS[name], value, side="right"))
    if name in RANGES:
        low, high = RANGES[name]
        level = (np.clip(value, low, high) - low) / (high - low) * (serial.values - 1)
    else:
        level = np.clip(np.floor(value / SIZE_BIN) if name in SIZES else value, 0, serial.coordinates - 1)
    return np.asarray(level).astype(np.int64)


def value_of(name: str, i: int, serial: Serialised) -> float:
    """The value of a bin: its middle (the highest bin of a range is its end alone); of thresholds the bin itself."""
    if name in RANGES:
        low, high = RANGES[name]
        return float(low + min((i + 0.5) / (serial.values - 1), 1) * (high - low))
    return float(i * SIZE_BIN + (SIZE_BIN - 1) / 2 if name in SIZES else i)


def measures(values: Mapping[str, Number], serial: Serialised) -> str:
    """Pairs of id and bin, in the order of `values`. Raises DataError as `bins_of`."""
    pairs = [(int(bins_of(name, value, serial)), MEASURES.index(name)) for name, value in values.items()]
    return " ".join(f"v1={key} v0={i}" for i, key in pairs)


def parse_measures(text: str, serial: Serialised) -> dict[str, int]:
    """Bins by name. Of a measure that occurs twice the first counts; pairs that `count_malformed` counts are skipped."""
    out: dict[str, int] = {}
    for name, value in _pairs(text, serial)[0]:
        out.setdefault(name, value)
    return out


def count_malformed(text: str, serial: Serialised) -> tuple[int, int]:
    """(malformed, all) pairs of a text of measures.

    Malformed are an id without a value or that names no measure, a value without an id or beyond the measure's bins, any other item.
    """
    good, bad = _pairs(text, serial)
    return bad, len(good) + bad


def _pairs(text: str, serial: Serialised) -> tuple[list[tuple[str, int]], int]:
    found, good, bad, i = items(text), [], 0, 0
    while i < len(found):
        key, value = found[i], found[i + 1] if i + 1 < len(found) else None
        if key.axis != 1 or value is None or value.axis != 0:
            bad, i = bad + 1, i + 1
            continue
        name = MEASURES[key.value] if key.value < len(MEASURES) else ""
        if name and value.value < _bins(name, serial):
            good.append((name, value.value))
        else:
            bad += 1
        i += 2
    return good, bad


def _bins(name: str, serial: Serialised) -> int:
    if name in THRESHOLDS:
        return len(THRESHOLDS[name]) + 1
    return serial.values if name in RANGES else serial.coordinates


def shuffle_pairs(text: str, rng: np.random.Generator) -> str:
    """The same measures in another order, each id with its value."""
    words = text.split()
    pairs = [words[i : i + PAIR] for i in range(0, len(words), PAIR)]
    return " ".join(word for i in rng.permutation(len(pairs)) for word in pairs[i])


# Palettes: "v1=<number of colours> v0=red v0=green v0=blue ...".


def palette(colours: Float[np.ndarray, "L 3"] | Int[np.ndarray, "L 3"], serial: Serialised) -> str:
    """Colours in [0, 255], in the order given."""
    level = np.rint(np.clip(colours, 0, 255)).astype(np.int64) * serial.colours // 256
    return " ".join([f"v1={len(colours)}", *_values(level.reshape(-1).tolist())])


def parse_palette(text: str, serial: Serialised) -> Float[np.ndarray, "L 3"]:
    """Colours in [0, 255], the middles of their bins: whole colours only, and no more than the number at the start of the text."""
    found = items(text)
    count = next((x.value for x in found if x.axis == 1), len(found))
    level = [min(x.value, serial.colours - 1) for x in found if x.axis == 0]
    whole = min(count, len(level) // 3)
    width = 256 / serial.colours
    return np.asarray(level[: 3 * whole], np.float64).reshape(-1, 3) * width + (width - 1) / 2


# People: "human <box>" and in any order "pose" 8 codes, "global" 9, "camera" 4, "shape" 10 numbers; "none" for no person.

NONE = "none"
POSE_CODES = 8
_NUMBERS: Mapping[str, tuple[int, Number, Number]] = {"global": (9, -1, 1), "camera": (4, -1, 19), "shape": (10, -3, 3)}


class Person(NamedTuple):
    """box: left, top, right, bottom in [0, 1].   pose: 8 codes of a vector tokeniser.   orientation: a rotation matrix, 9 numbers in [-1, 1].

    camera: 4 numbers in [-1, 19].   shape: 10 SMPL betas in [-3, 3]. Numbers beyond are cut.
    """

    box: tuple[float, ...]
    pose: tuple[int, ...]
    orientation: tuple[float, ...]
    camera: tuple[float, ...]
    shape: tuple[float, ...]


def people(found: Sequence[Person], serial: Serialised, rng: np.random.Generator | None = None) -> str:
    """One person after another. The four groups of a person are in a random order where `rng` is given."""
    out: list[str] = []
    for p in found:
        groups = [["pose", *_coded(p.pose, serial)]]
        for (name, (count, low, high)), numbers in zip(_NUMBERS.items(), (p.orientation, p.camera, p.shape)):
            if len(numbers) != count:
                raise DataError(f"{name!r} of a person has {len(numbers)} numbers: it takes {count}")
            groups.append([name, *_values(_binned(numbers, low, high, serial.coordinates).tolist())])
        out += ["human", *_corners(_binned(p.box, 0, 1, serial.coordinates).tolist())]
        for i in range(len(groups)) if rng is None else rng.permutation(len(groups)):
            out += groups[i]
    return " ".join(out) or NONE


def parse_people(text: str, serial: Serialised, codes: int = POSE_CODES) -> list[Person]:
    """The persons whose box and all four groups are whole."""
    out: list[Person] = []
    for part in _split(items(text), "human"):
        corners = _box_at(part, 0)
        groups = {g.text: rest for g, rest in _groups(part[4:], ("pose", *_NUMBERS))}
        pose = _codes(groups.get("pose", []), codes, serial)
        numbers = []
        for name, (count, low, high) in _NUMBERS.items():
            written = groups.get(name, [])
            if len(written) == count and all(x.axis == 0 for x in written):
                numbers.append(tuple(_unbinned([x.value for x in written], low, high, serial.coordinates).tolist()))
        if corners is not None and pose is not None and len(numbers) == len(_NUMBERS):
            box = tuple(_unbinned(corners, 0, 1, serial.coordinates).tolist())
            out.append(Person(box, pose, *numbers))
    return out


# Instances at query points: "point v0=row v1=column", then "polygon <box> <16 codes>" for each that holds the point, or "none".

MASK_CODES = 16


class Polygon(NamedTuple):
    """box: left, top, right, bottom in pixels.   codes: of the mask within the box, 16 of a mask tokeniser."""

    box: tuple[int, ...]
    codes: tuple[int, ...]


class Point(NamedTuple):
    row: int
    column: int
    polygons: tuple[Polygon, ...] = ()


def instances(points: Sequence[Point], serial: Serialised) -> str:
    """Points and their polygons in the order given. Pixels beyond the last coordinate are cut to it."""
    last = serial.coordinates - 1

    def pixels(at: Iterable[int]) -> list[str]:
        return _corners(min(max(int(v), 0), last) for v in at)

    out: list[str] = []
    for p in points:
        out += ["point", *pixels((p.row, p.column))]
        for polygon in p.polygons:
            out += ["polygon", *pixels(polygon.box), *_coded(polygon.codes, serial)]
        out += [] if p.polygons else [NONE]
    return " ".join(out)


def parse_instances(text: str, serial: Serialised, codes: int = MASK_CODES) -> list[Point]:
    """Points with those of their polygons whose box and codes are whole; points without both coordinates are skipped."""
    out: list[Point] = []
    for part in _split(items(text), "point"):
        if [x.axis for x in part[:2]] != [0, 1]:
            continue
        polygons = []
        for polygon in _split(part[2:], "polygon"):
            corners, mask = _box_at(polygon, 0), _codes(polygon[4 : 4 + codes], codes, serial)
            if corners is not None and mask is not None:
                polygons.append(Polygon(corners, mask))
        out.append(Point(part[0].value, part[1].value, tuple(polygons)))
    return out


def _split(found: Sequence[Item], word: str) -> list[list[Item]]:
    """What follows each `word`, up to the next."""
    return [rest for _, rest in _groups(found, (word,))]


def _groups(found: Sequence[Item], words: Collection[str]) -> list[tuple[Item, list[Item]]]:
    out: list[tuple[Item, list[Item]]] = []
    for x in found:
        if x.text in words:
            out.append((x, []))
        elif out:
            out[-1][1].append(x)
    return out


def _codes(found: Sequence[Item], count: int, serial: Serialised) -> tuple[int, ...] | None:
    if len(found) != count or any(x.axis not in (0, 1) or x.value >= serial.codes for x in found):
        return None
    return tuple(x.value + x.axis * serial.codes for x in found)
