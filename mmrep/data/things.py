"""A world of attributes: things, or sets of objects, as codes of their regions, pictures of coloured bands, and captions of made words."""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt8

from mmrep.data import splits
from mmrep.data.columns import Columns, Record
from mmrep.errors import ConfigError, DataError

LETTERS = "abcdefghijklmnop"
FILLER = "of"  # the filler words are of0, of1, ...


def word(attribute: int, value: int | np.integer, synonym: int | np.integer = 0, language: int = 0) -> str:
    """The word of an attribute's value: "c5"; "c5y" is its synonym 1, "2c5" its word in language 2."""
    return f"{language or ''}{LETTERS[attribute]}{value}{'' if not synonym else 'xyzuvw'[synonym]}"


@dataclass(frozen=True)
class Things:
    """Records of one thing with an attribute for each of `factors`, or with `objects` of several objects that have these attributes each.

    regions float32 [R, dim]: of a thing a code of each shown attribute; of objects, at random places, the sum of each one's codes over the
        root of their number; empty places are noise alone. Codes are standard normal vectors.
    text str; text_1, ... in the other languages.   picture uint8 [H, W, 3]: see `picture`.
    attributes int32 [F], or [objects, F] with -1 for one that is absent.   labels float32 [factors[0]]: 1 where the first attribute
        has that value (in any of the objects).   label int32: the first attribute of a thing; objects have none.
    identity, row int32.   owner int32 [L]: the region that each word of `text` describes, -1 for none and behind the text.
    With listings 2 a second caption and sight of the same thing: regions_b, picture_b, text_b, owner_b.

    factors:  number of values of each attribute.   shown, named: attributes of regions and pictures, and of captions; empty: all.
    told:     for each language the share of the named attributes (of the objects, with all their named attributes) that a caption
              names, rounded, at least one; each caption draws its own part.
    objects:  objects a record, with different first attributes; 0: one thing.   absent: a record lacks up to so many of them.
    places:   regions of a record with objects; 0: as many as objects.
    views:    records of each identity in training, `held_views` in val and test: identities are distinct combinations of attributes,
              and those of a split occur in no other. 0: each record is drawn independently, its identity is its row.
    synonyms: words of each value, one drawn each time.   fillers: meaningless words of each caption, of `filler_words` kinds.
    noise:    standard deviation in each number of the regions.   nuisance: of a vector that all regions of a view share (of its tint).
    picture:  (height, width), (0, 0) for none: a band of the value's colour for each attribute of a thing; a square grid of places
              with such bands for objects. All colours have one luminance.   grain: noise of its pixels, in [0, 1].
    The codes depend on `seed` and `factors` alone; a record is a function of (seed, split, row) and does not change with their number.
    """

    n_train: int = 4000
    n_val: int = 500
    n_test: int = 500
    factors: tuple[int, ...] = (8,) * 6
    shown: tuple[int, ...] = ()
    named: tuple[int, ...] = ()
    told: tuple[float, ...] = (1.0,)
    objects: int = 0
    absent: int = 0
    places: int = 0
    views: int = 0
    held_views: int = 1
    listings: int = 1
    synonyms: int = 1
    fillers: int = 0
    filler_words: int = 8
    noise: float = 0.5
    nuisance: float = 0.0
    dim: int = 32
    picture: tuple[int, int] = (0, 0)
    grain: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        count = len(self.factors)
        if not 1 <= count <= len(LETTERS) or min(self.factors) < 1:
            raise ConfigError(
                f"factors is {self.factors}: give 1 to {len(LETTERS)} attributes, each of 1 value or more"
            )
        for name in ("shown", "named"):
            chosen = getattr(self, name)
            if len({*chosen}) < len(chosen) or any(not 0 <= a < count for a in chosen):
                raise ConfigError(f"{name} is {chosen}: name attributes in [0, {count}), each once")
        if not self.told or not all(0 < share <= 1 for share in self.told):
            raise ConfigError(f"told is {self.told}: give for each language a share in (0, 1]")
        if not 0 <= self.objects <= self.factors[0] or not 0 <= self.absent <= max(self.objects - 1, 0):
            raise ConfigError(
                f"objects is {self.objects} and absent {self.absent}: at most {self.factors[0]} objects (values of the first attribute), "
                "and absent below objects"
            )
        if (self.places and not self.objects <= self.places) or (self.places and not self.objects):
            raise ConfigError(
                f"places is {self.places}: it must be at least objects, {self.objects}, and 0 without them"
            )
        if self.views and self.objects:
            raise ConfigError(f"views is {self.views}: identities are of one thing; set objects to 0")
        if self.listings not in (1, 2) or not 1 <= self.synonyms <= 6:
            raise ConfigError(f"listings is {self.listings}, synonyms {self.synonyms}: give 1 or 2, and 1 to 6")
        if min(self.views, self.held_views - 1, self.fillers, self.filler_words - 1, self.dim - 1) < 0:
            raise ConfigError("views and fillers must be at least 0; held_views, filler_words and dim at least 1")
        if min(self.noise, self.nuisance, self.grain) < 0:
            raise ConfigError("noise, nuisance and grain must be at least 0")
        h, w = self.picture
        if (h or w) and (min(h, w) < 1 or h % self.grid[0] or w % self.grid[1]):
            raise ConfigError(f"picture is {self.picture}: its sides must be multiples of {self.grid}")

    @property
    def regions(self) -> int:
        """Regions of a record."""
        return (self.places or self.objects) or len(self.seen)

    @property
    def seen(self) -> tuple[int, ...]:
        return self.shown or tuple(range(len(self.factors)))

    @property
    def spoken(self) -> tuple[int, ...]:
        return self.named or tuple(range(len(self.factors)))

    @property
    def grid(self) -> tuple[int, int]:
        """Bands of a picture from top to bottom, and columns."""
        side = int(np.ceil(np.sqrt(self.regions)))
        return (side * len(self.seen), side) if self.objects else (self.regions, 1)

    @property
    def words(self) -> int:
        """The most words of a caption."""
        return (self.objects or 1) * len(self.spoken) + self.fillers

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """All words of all languages, fillers last."""
        found = [
            word(a, v, s, k)
            for k in range(len(self.told)) for a in self.spoken for v in range(self.factors[a]) for s in range(self.synonyms)
        ]  # fmt: skip
        return (*found, *(f"{FILLER}{i}" for i in range(self.filler_words if self.fillers else 0)))

    def open(self, split: str) -> Columns:
        n = splits.size(self, split)
        views = self.views if split == "train" else self.held_views
        identity = np.arange(n) // views if self.views else np.arange(n)
        values = self._identities(split, int(identity[-1]) + 1)[identity] if self.views else self._draw(split, n)
        labels = np.zeros((n, self.factors[0]), np.float32)
        rows, at = np.nonzero(values[..., 0] >= 0)
        labels[rows, values[rows, at, 0]] = 1
        columns: dict[str, np.ndarray | list[str]] = {
            "attributes": (values if self.objects else values[:, 0]).astype(np.int32),
            "labels": labels,
            "identity": identity.astype(np.int32),
            "row": np.arange(n, dtype=np.int32),
        }
        if not self.objects:
            columns["label"] = values[:, 0, 0].astype(np.int32)
        for end in ("", "_b")[: self.listings]:
            place = self._rng(f"places{end}", split).random((n, self.regions)).argsort(1)[:, : max(self.objects, 1)]
            columns[f"regions{end}"] = self._regions(values, place, split, end)
            if self.picture[0]:
                columns[f"picture{end}"] = self._picture(values, place, split, end)
            columns[f"text{end}"], columns[f"owner{end}"] = self._captions(values, place, split, end, 0)
            for k in range(1, len(self.told)):
                columns[f"text_{k}{end}"] = self._captions(values, place, split, end, k)[0]
        return Columns(columns)

    def texts(self, split: str) -> Iterator[str]:
        """The vocabulary, then the captions."""
        yield from self.vocabulary
        columns = self.open(split).columns
        for name in columns:
            if name.startswith("text"):
                yield from columns[name]

    def view(self, record: Record, rng: np.random.Generator | None) -> Record:
        return record

    def _rng(self, what: str, split: str = "") -> np.random.Generator:
        """Of the world, or of one split's records; a generator for each purpose, so that rows do not depend on their number."""
        records = 1 + splits.NAMES.index(split) if split else 0
        return np.random.default_rng((self.seed, records, zlib.crc32(what.encode())))

    def _draw(self, split: str, n: int) -> Int[np.ndarray, "N K F"]:
        """Independent values; objects have different first attributes, and those that are absent the value -1."""
        count = max(self.objects, 1)
        uniform = self._rng("values", split).random((n, count, len(self.factors)))
        values = (uniform * self.factors).astype(np.int64)
        if self.objects:
            values[..., 0] = self._rng("kinds", split).random((n, self.factors[0])).argsort(1)[:, :count]
            lacking = self._rng("absent", split).integers(0, self.absent + 1, n)
            values[np.arange(count) >= count - lacking[:, None]] = -1
        return values

    def _identities(self, split: str, n: int) -> Int[np.ndarray, "N 1 F"]:
        """Distinct combinations, of the share that belongs to the split: 6, 2 and 2 of 10 by a hash."""
        rng, found, seen = self._rng("identities", split), [], set()
        share = dict(zip(splits.NAMES, (range(6), range(6, 8), range(8, 10))))[split]
        for _ in range(200 + 100 * n):
            one = tuple((rng.random(len(self.factors)) * self.factors).astype(int).tolist())
            if one not in seen and zlib.crc32(repr((self.seed, one)).encode()) % 10 in share:
                seen.add(one)
                found.append(one)
                if len(found) == n:
                    return np.array(found)[:, None]
        raise DataError(
            f"factors {self.factors} have no {n} combinations for split {split!r}: give more values, or fewer records"
        )

    def _regions(self, values: np.ndarray, place: np.ndarray, split: str, end: str) -> Float[np.ndarray, "N R D"]:
        n, rng = len(values), self._rng(f"noise{end}", split)
        codes = [
            self._rng(f"codes{a}").standard_normal((k + 1, self.dim)) * (np.arange(k + 1) < k)[:, None]
            for a, k in enumerate(self.factors)
        ]
        each = np.stack([codes[a][values[..., a]] for a in self.seen], -2)  # the last code is 0, of an absent object
        if self.objects:
            x = np.zeros((n, self.regions, self.dim))
            x[np.arange(n)[:, None], place] = each.sum(-2) / np.sqrt(len(self.seen))
        else:
            x = each[:, 0]
        x = x + self.noise * rng.standard_normal(x.shape)
        x += self.nuisance * self._rng(f"nuisance{end}", split).standard_normal((n, 1, self.dim))
        return x.astype(np.float32)

    def _picture(self, values: np.ndarray, place: np.ndarray, split: str, end: str) -> UInt8[np.ndarray, "N H W 3"]:
        n, (rows, columns), bands = len(values), self.grid, len(self.seen)
        each = np.stack([colours(self.factors[a])[values[..., a]] for a in self.seen], -2)
        each[values[..., 0] < 0] = 0.5
        if self.objects:
            x = np.full((n, columns * columns, bands, 3), 0.5)
            x[np.arange(n)[:, None], place] = each
            x = x.reshape(n, columns, columns, bands, 3).transpose(0, 1, 3, 2, 4).reshape(n, rows, columns, 3)
        else:
            x = each[:, 0, :, None]
        x = x.repeat(self.picture[0] // rows, 1).repeat(self.picture[1] // columns, 2)
        x = x + self.grain * self._rng(f"grain{end}", split).standard_normal(x.shape)
        x += 0.1 * self.nuisance * self._rng(f"tint{end}", split).standard_normal((n, 1, 1, 3))
        return np.rint(255 * x.clip(0, 1)).astype(np.uint8)

    def _captions(
        self, values: np.ndarray, place: np.ndarray, split: str, end: str, language: int
    ) -> tuple[list[str], Int[np.ndarray, "N L"]]:
        """(captions, the region of each word)."""
        n, spoken = len(values), self.spoken
        units = self.objects or len(spoken)
        uniform = self._rng(f"caption{end}{language}", split).random((n, units * (1 + len(spoken)) + 2 * self.fillers))
        keys, drawn, filler, gaps = np.split(uniform, np.cumsum([units, units * len(spoken), self.fillers]), 1)
        which = (drawn * self.synonyms).astype(int).reshape(n, units, len(spoken))
        filler = (filler * self.filler_words).astype(int)
        there = values[..., 0] >= 0 if self.objects else np.ones((n, units), bool)
        region = [self.seen.index(a) if a in self.seen else -1 for a in spoken]
        texts, owner = [], np.full((n, self.words), -1, np.int32)
        for i in range(n):
            chosen = np.flatnonzero(there[i])
            chosen = chosen[keys[i, chosen].argsort()][: max(1, int(self.told[language] * len(chosen) + 0.5))]
            told: list[tuple[str, int]] = []
            for u in chosen if self.objects else sorted(chosen):
                if self.objects:
                    told += [
                        (word(a, values[i, u, a], which[i, u, j], language), place[i, u]) for j, a in enumerate(spoken)
                    ]
                else:
                    told.append((word(spoken[u], values[i, 0, spoken[u]], which[i, u, 0], language), region[u]))
            for kind, gap in zip(filler[i], gaps[i]):
                told.insert(int(gap * (len(told) + 1)), (f"{FILLER}{kind}", -1))
            texts.append(" ".join(w for w, _ in told))
            owner[i, : len(told)] = [r for _, r in told]
        return texts, owner


def colours(values: int) -> Float[np.ndarray, "V 3"]:
    """A colour for each value, equally spaced on a circle of one luminance (0.299 R + 0.587 G + 0.114 B = 0.5), in [0, 1]."""
    grey = np.array([0.299, 0.587, 0.114])
    first = np.cross(grey, [0.0, 0.0, 1.0])
    second = np.cross(grey, first)
    basis = np.stack([first / np.linalg.norm(first), second / np.linalg.norm(second)])
    angle = 2 * np.pi * np.arange(values) / values
    return 0.5 + 0.45 * np.stack([np.cos(angle), np.sin(angle)], 1) @ basis
