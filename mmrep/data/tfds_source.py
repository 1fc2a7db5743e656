"""Any set that TensorFlow Datasets has prepared as array_record, read at random and without TensorFlow."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mmrep import raw
from mmrep.data import decode, splits
from mmrep.data.decode import Limits
from mmrep.errors import ConfigError, DataError, near

_VAL = ("val", "validation", "valid", "dev")


@dataclass(frozen=True)
class TFDS:
    """`TFDS("coco_captions", fields={"image": "image", "text": "captions/text"})`; records hold the `fields` and file (set and number).

    name:     as TFDS writes it, "set", "set/config" or "set:1.0.0"; or the folder of a prepared version.
    fields:   record field -> feature; "captions/text" goes down one level, "label:name" is the name of a label. Empty: every
              feature of the top level under its own name. Three-channel images come as uint8 [H, W, 3], others as TFDS decodes them;
              several texts are captions: training draws one, evaluation takes the first.
    splits:   "train", "val", "test" -> TFDS split, slices too ("train[:90%]"). Empty: those that the set has.
    data_dir: where TFDS keeps its sets; empty: its default.
    audio:    record fields that hold sound (integers, or floats in [-1, 1]; [T] or [T, channels]), mixed to mono and brought from `stored_rate` to `rate`.
    """

    name: str | Path
    fields: dict[str, str] | tuple[tuple[str, str], ...] = ()
    splits: dict[str, str] | tuple[tuple[str, str], ...] = ()
    data_dir: str = ""
    audio: tuple[str, ...] = ()
    stored_rate: int = 16_000
    rate: int = 16_000
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", os.fspath(self.name))
        object.__setattr__(self, "data_dir", os.fspath(self.data_dir))
        object.__setattr__(self, "fields", splits.pairs(self.fields, "fields"))
        object.__setattr__(self, "splits", splits.pairs(self.splits, "splits"))
        for name in dict(self.splits):
            if name not in splits.NAMES:
                raise ConfigError(f"splits has no split {name!r}{near(name, splits.NAMES)}")
        known = {*dict(self.fields)}
        for name in self.audio:
            if known and name not in known:
                raise ConfigError(f"audio names {name!r}, which is not in fields{near(name, known)}")

    def open(self, split: str) -> "TFDSRecords":
        """The records of `split`. Raises DataError where the set is not prepared, or has no such split or feature."""
        splits.check(split)
        builder = self._builder()
        features = builder.info.features
        fields = dict(self.fields) or {name: name for name in features}
        places = tuple((name, *_find(features, path, str(self.name))) for name, path in fields.items())
        wanted = self._split(split, tuple(builder.info.splits))
        try:
            records = builder.as_data_source(wanted, decoders=_skip_images(features))
        except (NotImplementedError, ImportError, ValueError, FileNotFoundError) as error:
            raise DataError(
                f"{self.name}, split {wanted!r} cannot be read at random: {_first_line(error)}. {self._fix()}"
            ) from None
        if not len(records):
            raise DataError(f"{self.name}: split {wanted!r} for {split!r} is empty: choose another in splits")
        return TFDSRecords(self, wanted, records, places)

    def texts(self, split: str) -> Iterator[str]:
        """Every text among the fields of `split`; texts that cannot be read are left to the records to report."""
        return self.open(split).captions()

    def view(self, record: dict[str, Any], rng: np.random.Generator | None) -> dict[str, Any]:
        """One caption of several: a random one, or the first without `rng`."""
        return splits.select(record, rng)

    def check_sound(self, name: str) -> None:
        """Raises ConfigError where the record field `name` is read as sound but `audio` does not name it: its rate would be unknown."""
        if name not in self.audio:
            raise ConfigError(
                f"{self.name}: the field {name!r} is read as sound: name it in audio=({name!r},) and give its stored_rate"
            )

    def _builder(self) -> Any:
        try:
            import tensorflow_datasets as tfds
        except ImportError:
            raise DataError(
                f"TFDS({self.name!r}) needs tensorflow-datasets: pip install tensorflow-datasets array_record"
            ) from None
        try:
            if os.path.isfile(os.path.join(self.name, "dataset_info.json")):
                return tfds.builder_from_directory(self.name)
            return tfds.core.read_only_builder.builder_from_files(self.name, data_dir=self.data_dir or None)
        except ImportError as error:
            raise DataError(
                f"{self.name} has a feature that only TensorFlow can describe ({_first_line(error)}): install tensorflow, "
                "or prepare the set with plain Tensor features"
            ) from None
        except (tfds.core.DatasetNotFoundError, ValueError, OSError, RuntimeError):
            raise DataError(
                f"{self.name} is not prepared in {self.data_dir or 'the data folder of TFDS'}. {self._fix()}"
            ) from None

    def _fix(self) -> str:
        folder = f", data_dir={self.data_dir!r}" if self.data_dir else ""
        return (
            f"Prepare it once: tfds.builder({self.name!r}{folder}, file_format='array_record').download_and_prepare()"
        )

    def _split(self, split: str, has: tuple[str, ...]) -> str:
        if self.splits:
            given = dict(self.splits)
            if split not in given:
                raise DataError(
                    f"splits of {self.name} has no {split!r}: it has {', '.join(given)}; the set has {', '.join(has)}"
                )
            base = given[split].split("[")[0]
            if "+" not in base and base not in (*has, "all"):
                raise DataError(f"{self.name} has no split {base!r}, which splits gives for {split!r}{near(base, has)}")
            return given[split]
        for name in _VAL if split == "val" else (split,):
            if name in has:
                return name
        raise DataError(
            f"{self.name} has no split for {split!r}, only {', '.join(has) or 'none'}: give slices, "
            "splits={'train': 'train[:80%]', 'val': 'train[80%:90%]', 'test': 'train[90%:]'}"
        )


@dataclass(frozen=True)
class TFDSRecords(Sequence):
    """One split. `places` holds (field, steps down, feature, whether a label's name is wanted)."""

    source: TFDS
    split: str
    records: Any = field(repr=False)
    places: tuple[tuple[str, tuple[str, ...], Any, bool], ...] = field(repr=False)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, i: int) -> dict[str, Any]:  # type: ignore[override]
        raw, where = self._raw(i)
        record = {
            name: self._value(raw, steps, feature, named, name, where) for name, steps, feature, named in self.places
        }
        return {"file": where} | record

    def class_names(self, field: str) -> tuple[str, ...]:
        """The names of the labels of a record field, in the order of their ids."""
        found = [f for name, _, f, named in self.places if name == field and not named and hasattr(f, "int2str")]
        return tuple(found[0].names) if found else ()

    def digest(self) -> str:
        """Of TFDS's description of the prepared set, and of the fields."""
        info = self.records.dataset_info
        sizes = [(s.name, s.num_bytes, list(s.shard_lengths)) for s in info.splits.values()]
        about = repr((info.full_name, self.split, sizes, [p[:2] for p in self.places]))
        return hashlib.sha256(about.encode()).hexdigest()[:16]

    def without_text(self) -> str:
        names = ", ".join(p[0] for p in self.places)
        return f"{self.source.name} {self.split}: no field of its {len(self)} records is a text ({names}): name one in fields"

    def captions(self) -> Iterator[str]:
        texts = [p for p in self.places if _is_text(p[2]) or p[3]]
        for i in range(len(self) if texts else 0):
            try:
                raw, where = self._raw(i)
                for name, steps, feature, named in texts:
                    value = self._value(raw, steps, feature, named, name, where)
                    yield from value if isinstance(value, tuple) else (value,)
            except DataError:
                continue

    def _raw(self, i: int) -> tuple[Any, str]:
        where = f"{self.source.name} {self.split} record {i}"
        if not 0 <= i < len(self):
            raise IndexError(i)
        try:
            return self.records[i], where
        except Exception as error:  # array_record and the parser raise their own kinds for broken bytes
            raise DataError(f"{where} cannot be read ({_first_line(error)}): prepare the set again") from None

    def _value(self, raw: Any, steps: tuple[str, ...], feature: Any, named: bool, name: str, where: str) -> Any:
        value = raw
        for step in steps:
            value = value[step]
        place = f"{where}, {'/'.join(steps)}"
        limits = self.source.limits
        if named:
            return feature.int2str(int(value))
        if _is_image(feature):
            if _is_rgb(feature):
                return decode.image(value, place, limits)
            try:
                return feature.decode_example_np(value)
            except Exception as error:  # the codec's own kinds
                raise DataError(f"{place}: not a whole image ({_first_line(error)})") from None
        if name in self.source.audio:
            return self._wave(np.asarray(value), place)
        if isinstance(value, (bytes, str)):
            return self._text(value, place)
        if _is_text(feature):
            if not len(value):
                raise DataError(f"{place}: there is no caption")
            return tuple(self._text(v, place) for v in value)
        return value

    def _text(self, value: bytes | str, place: str) -> str:
        limits = self.source.limits
        return decode.text(value, place, limits) if isinstance(value, bytes) else decode.caption(value, place, limits)

    def _wave(self, value: np.ndarray, place: str) -> np.ndarray:
        if value.ndim not in (1, 2) or not len(value):
            raise DataError(f"{place}: expected samples [T] or [T, channels], found shape {value.shape}")
        wave = raw.scaled(value, place)
        mono = wave if wave.ndim == 1 else wave.mean(axis=1)
        return decode.resample(mono, self.source.stored_rate, self.source.rate, place)


def _find(features: Any, path: str, name: str) -> tuple[tuple[str, ...], Any, bool]:
    """(steps, feature, whether its name is wanted) of "captions/text" or "label:name"."""
    way, _, suffix = path.partition(":")
    steps, feature = tuple(way.split("/")), features
    for i, step in enumerate(steps):
        inner = feature
        while not hasattr(inner, "keys") and hasattr(inner, "feature"):
            inner = inner.feature
        known = list(inner.keys()) if hasattr(inner, "keys") else []
        if step not in known:
            inside = f" inside {'/'.join(steps[:i])}" if i else ""
            raise DataError(f"{name} has no feature {step!r}{inside}{near(step, known)}")
        feature = inner[step]
    if suffix and (suffix != "name" or not hasattr(feature, "int2str")):
        raise DataError(f"{name}: {path!r} ends in {suffix!r}: only labels have a suffix, ':name'")
    return steps, feature, bool(suffix)


def _kind(feature: Any) -> str:
    return type(feature).__name__


def _is_image(feature: Any) -> bool:
    return _kind(feature) in ("Image", "LabeledImage")


def _is_rgb(feature: Any) -> bool:
    return _kind(feature) == "Image" and feature.shape[-1] in (3, 4, None) and feature.np_dtype == np.uint8


def _is_text(feature: Any) -> bool:
    return _kind(getattr(feature, "feature", feature)) == "Text"


def _skip_images(features: Any) -> Any:
    """Decoders that leave every image outside of sequences as bytes: ours decode only those that are used."""
    import tensorflow_datasets as tfds

    found: dict[str, Any] = {}
    for name, feature in features.items():
        if _is_image(feature):
            found[name] = tfds.decode.SkipDecoding()
        elif _kind(feature) == "FeaturesDict":
            found |= {name: inner} if (inner := _skip_images(feature)) else {}
    return found


def _first_line(error: Exception) -> str:
    words = " ".join(str(error).split(".")[0].split())
    return words[:160] or type(error).__name__
