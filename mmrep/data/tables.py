"""A table of pairs: CSV, TSV, JSON lines or Parquet, with the paths of images and sounds in its columns."""

import hashlib
import os
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mmrep import paths
from mmrep.data import decode, splits, videos
from mmrep.data.cells import FORMATS, Cells, plain, read, whole
from mmrep.data.decode import Limits
from mmrep.errors import ConfigError, DataError, near


@dataclass(frozen=True)
class Table:
    """Rows of `path` (.csv with quotes, .tsv without, .jsonl, .parquet), a file or a gs:// or s3:// URL; paths in it are relative to the
    table, or URLs.

    Records: image uint8 [H, W, 3], text, audio float32 [T] in [-1, 1] at `rate`, label, the `extra` columns, file (table and line),
    and video, a clip (see `mmrep.data.videos`): a film (.mp4, .webm; needs PyAV), an animation (.gif, .webp), an array (.npy, [T, H, W, C]), a
    folder whose pictures are the frames in the order of their names, or a list of pictures (in a cell of a .jsonl or .parquet). The sound
    of films is read where `audio` names their column, too.
    Rows with the same image, video and sound are one record with several captions: training draws one, evaluation takes the first;
    a cell of a .jsonl or .parquet may also hold a list of captions. A row that cannot be read is a bad record of the training split.
    Cells of a .parquet may hold an encoded file itself, as bytes or {"bytes", "path"}; such columns are kept in memory.

    image, audio, video, label: columns, or None.   text: a column, several (each also a field of its own name), or None.
    extra:     columns passed on unchanged: numbers, lists of numbers as arrays, lists of texts (a group, for `modality.texts`), NaN for
               an absent value of a .jsonl or .parquet, else text.
    classes:   names of the labels in the order of their ids. Empty: where most labels are whole numbers ("2" or "2.0") they are the ids,
               and other labels make their row bad; elsewhere the ids count the labels sorted as text.
    split:     column with train, val or test; the default is used where the table has it. None: hashed splits.
    group:     column whose equal rows stay in one split; empty: the path of the image, of the video, or of the sound, else the text.
    fractions: shares of train, val and test of the hashed split.
    delimiter: of a .csv; empty: a comma.
    """

    path: str | Path
    image: str | None = "image"
    text: str | tuple[str, ...] | None = "caption"
    audio: str | None = None
    label: str | None = None
    extra: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    split: str | None = "split"
    group: str = ""
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)
    rate: int = 16_000
    delimiter: str = ""
    limits: Limits = field(default_factory=Limits)
    video: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", os.fspath(self.path))
        splits.check_fractions(self.fractions)
        ending = os.path.splitext(self.path)[1].lower()
        if ending not in FORMATS:
            raise ConfigError(f"path {self.path!r} ends in {ending!r}: a table is one of {', '.join(FORMATS)}")
        if len(self.delimiter) > 1:
            raise ConfigError(f"delimiter {self.delimiter!r} has {len(self.delimiter)} characters: give one")
        if not (self.image or self.video or self.audio or self.text_columns or self.extra):
            raise ConfigError("image, video, audio, text and extra are all empty: name at least one column")
        if len({*self.classes}) < len(self.classes):
            raise ConfigError(f"classes names a class twice: {', '.join(self.classes)}")

    @property
    def text_columns(self) -> tuple[str, ...]:
        return (self.text,) if isinstance(self.text, str) else tuple(self.text or ())

    def open(self, split: str) -> "TableRecords":
        """The records of `split` ("train", "val", "test"). Raises DataError for a missing file or column or an empty split."""
        splits.check(split)
        cells = read(str(self.path), self.check_columns, self.delimiter)
        column = self.split if self.split in cells.columns else None
        items = _merged(self, cells)
        where = _splits(self, cells, items, column)
        for what, name in (("label", self.label), *((c, c) for c in self.extra)):
            _agree(cells, items, what, name)
        fix = "fill the split column" if column else "add rows, set fractions, or give a split column"
        chosen = splits.choose(range(len(items)), where.__getitem__, split, str(self.path), fix)
        return TableRecords(self, cells, tuple(items[i] for i in chosen), _classes(self, cells))

    def texts(self, split: str) -> Iterator[str]:
        """Every caption of `split`; captions that cannot be read are left to the records to report."""
        return self.open(split).captions()

    def view(self, record: dict[str, Any], rng: np.random.Generator | None) -> dict[str, Any]:
        """One caption of several: a random one, or the first without `rng`."""
        return splits.select(record, rng)

    def check_columns(self, columns: Sequence[str]) -> list[str]:
        """Those of `columns` that are read. Raises DataError for a column that is named and missing."""
        named = {
            "image": self.image,
            "video": self.video,
            "audio": self.audio,
            "label": self.label,
            "group": self.group,
        }
        wanted: list[tuple[str, str]] = [(f, c) for f, c in named.items() if c]
        wanted += [("text", c) for c in self.text_columns] + [("extra", c) for c in self.extra]
        wanted += [("split", self.split)] if self.split not in (None, "split") else []  # type: ignore[list-item]
        for name, column in wanted:
            if column not in columns:
                hint = ": set delimiter" if len(columns) == 1 and any(d in columns[0] for d in ";\t|") else ""
                raise DataError(f"{self.path} has no column {column!r} for {name}{near(column, columns)}{hint}")
        found = [c for _, c in wanted] + (["split"] if self.split == "split" and "split" in columns else [])
        return list(dict.fromkeys(found))


@dataclass(frozen=True, eq=False)
class TableRecords(Sequence):
    """One split; `items` holds the rows of each record. `classes` are the label names, empty where labels are whole numbers already."""

    source: Table
    cells: Cells = field(repr=False)
    items: tuple[Sequence[int], ...] = field(repr=False)
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> dict[str, Any]:  # type: ignore[override]
        source, cells, rows = self.source, self.cells, self.items[i]
        row, where = rows[0], cells.where(rows[0])
        if row in cells.bad:
            raise DataError(f"{where}: {cells.bad[row]}")
        record: dict[str, Any] = {"file": where}
        if source.text_columns:
            record["text"] = self._captions(rows, source.text_columns)
            for column in source.text_columns if len(source.text_columns) > 1 else ():
                record[column] = self._captions(rows, (column,))
        if source.label:
            record["label"] = self._label(cells.columns[source.label][row], where)
        for column in source.extra:
            record[column] = _value(cells.columns[column][row], f"{where}, {column}")
        if source.image:
            data, name = self._file(cells.columns[source.image][row], source.image, where)
            record["image"] = decode.image(data, name, source.limits)
        if source.video:
            record["video"] = self._video(cells.columns[source.video][row], source.video, where)
        if source.audio:
            data, name = self._file(cells.columns[source.audio][row], source.audio, where)
            record["audio"] = videos.audio(data, name, source.rate, source.limits)
        return record

    def class_names(self, field: str) -> tuple[str, ...]:
        return self.classes if field == "label" else ()

    def digest(self) -> str:
        """Of all cells that are read, paths included; files that the table names are not opened."""
        found = hashlib.sha256(repr(self.classes).encode())
        for rows in self.items:
            for row in rows:
                values = [_stored(column[row]) for column in self.cells.columns.values()]
                found.update(repr(values).encode("utf-8", "surrogateescape"))
        return found.hexdigest()[:16]

    def without_text(self) -> str:
        source = self.source
        if not source.text_columns:
            return f"{source.path}: text is None, so no record has a caption: name the column of the captions in text"
        try:
            self._captions(self.items[0], source.text_columns)
        except DataError as error:
            return f"{source.path}: none of the {len(self)} training records has a usable caption; the first: {error}"
        return f"{source.path}: no training record has a usable caption"

    def captions(self) -> Iterator[str]:
        for rows in self.items:
            if rows[0] not in self.cells.bad:
                for column in self.source.extra:
                    group = self.cells.columns[column][rows[0]]
                    yield from (v for v in group if isinstance(v, str)) if isinstance(group, list) else ()
                try:
                    yield from self._captions(rows, self.source.text_columns)
                except DataError:
                    continue

    def _captions(self, rows: Iterable[int], columns: Iterable[str]) -> tuple[str, ...]:
        found: list[str] = []
        for column in columns:
            cells = self.cells.columns[column]
            for row in rows:
                value = cells[row]
                where = f"{self.cells.where(row)}, {column}"
                if value is None or value == []:
                    raise DataError(f"{where}: there is no caption: write one or remove the row")
                for one in value if isinstance(value, list) else [value]:
                    found.append(decode.caption(one, where, self.source.limits))
        return tuple(dict.fromkeys(found))

    def _video(self, value: Any, column: str, where: str) -> Any:
        if (
            isinstance(value, str)
            and value.strip()
            and "\0" not in value
            and (paths.is_url(value) or "://" not in value)
        ):
            path = decode.beside(self.cells.path, value.strip())
            return videos.video(path, self.source.limits, f"{where}, {column}: ")
        if isinstance(value, list):
            found = [self._file(v, column, where) for v in value]
            return [decode.image(data, name, self.source.limits) for data, name in found]
        return videos.encoded(*self._file(value, column, where), self.source.limits)

    def _file(self, value: Any, column: str, where: str) -> tuple[bytes, str]:
        if isinstance(value, Mapping):  # as Hugging Face writes images and sounds
            value = value.get("bytes") or value.get("path")
        if isinstance(value, bytes):
            return value, f"{where}, {column}"
        if not isinstance(value, str) or not value.strip():
            raise DataError(f"{where}, {column}: expected the path of a file, found {value!r}")
        if "://" in value and not paths.is_url(value):
            raise DataError(f"{where}, {column}: {value} is an address: download it and give the file's path")
        path = decode.beside(self.cells.path, value.strip())
        if "\0" in path:
            raise DataError(f"{where}, {column}: {value!r} is not a path")
        return decode.read(decode.locate(path), self.source.limits, f"{where}, {column}: "), f"{where}, {path}"

    def _label(self, value: Any, where: str) -> int:
        name = plain(value)
        if self.classes:
            for spelled in (name, whole(name)):
                if spelled in self.classes:
                    return self.classes.index(spelled)
            raise DataError(f"{where}, {self.source.label}: no class {name!r}{near(name, self.classes)}")
        if not whole(name):
            raise DataError(
                f"{where}, {self.source.label}: expected a whole number as in most rows, found {value!r}: mend it, or name the classes"
            )
        return int(whole(name))


# What the rows of a table are: records, splits, classes


def _merged(source: Table, cells: Cells) -> list[Sequence[int]]:
    """The rows of each record, in order: those with the same image and sound are one record."""
    columns = [cells.columns[c] for c in (source.image, source.video, source.audio) if c]
    if not columns:
        return [(row,) for row in range(len(cells.lines))]
    items: list[Sequence[int]] = []
    known: dict[Any, int] = {}
    for row, files in enumerate(zip(*columns)):
        key: Any = tuple([_path_key(f) for f in files]) if len(files) > 1 else _path_key(files[0])
        if not (any(key) if len(files) > 1 else key) or row in cells.bad:
            key = row
        at = known.setdefault(key, len(items))
        if at == len(items):
            items.append((row,))
        else:
            items[at] = (*items[at], row)
    return items


def _path_key(value: Any) -> str:
    if isinstance(value, list):
        return "\n".join(_path_key(v) for v in value)
    text = value.strip() if isinstance(value, str) else ""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def _splits(source: Table, cells: Cells, items: Sequence[Sequence[int]], column: str | None) -> list[str]:
    """The split of each record."""
    ways = [c for c in (source.image, source.video, source.audio, *source.text_columns) if c]

    def group(row: int) -> str:
        for name in [source.group] if source.group else ways:
            if value := cells.text(name, row):
                return value
        return f"line {cells.lines[row]}"

    found: list[str] = []
    members: dict[str, tuple[str, int]] = {}
    for rows in items:
        first = rows[0]
        if first in cells.bad:
            found.append("train")
            continue
        if column is None:
            if source.group:
                _same(cells, "group", rows, group)
            found.append(splits.hashed(group(first), source.fractions))
            continue
        named = {row: _split(source, cells, column, row) for row in rows}
        _same(cells, "split", rows, named.__getitem__)
        found.append(named[first])
        for row in rows if source.group else ():
            other, line = members.setdefault(group(row), (named[row], cells.lines[row]))
            if other != named[row]:
                raise DataError(
                    f"{cells.path}: {source.group} {group(row)!r} is in split {other!r} ({cells.word} {line}) and in {named[row]!r} "
                    f"({cells.word} {cells.lines[row]}): keep a group in one split"
                )
    return found


def _split(source: Table, cells: Cells, column: str, row: int) -> str:
    value = cells.text(column, row)
    known = splits.named(value)
    if known is None:
        raise DataError(
            f"{cells.where(row)}: {column} {value!r} is no split{near(value, splits.NAMES)}"
            + ("" if source.split != "split" else "; or set split=None")
        )
    return known


def _agree(cells: Cells, items: Iterable[Sequence[int]], what: str, column: str | None) -> None:
    for rows in items if column else ():
        if len(rows) > 1:
            _same(cells, what, rows, cells.columns[str(column)].__getitem__)


def _same(cells: Cells, what: str, rows: Sequence[int], value: Any) -> None:
    for row in rows[1:]:
        a, b = value(rows[0]), value(row)
        if a != b:
            raise DataError(
                f"{cells.path} {cells.word}s {cells.lines[rows[0]]} and {cells.lines[row]} show the same image or sound with {what} "
                f"{a!r} and {b!r}: make them agree"
            )


def _classes(source: Table, cells: Cells) -> tuple[str, ...]:
    """The names of the labels by id; empty where labels are ids. One odd cell must not rename the others, so most cells decide."""
    if not source.label or source.classes:
        return source.classes
    values = cells.columns[source.label]
    found = [name for row, v in enumerate(values) if row not in cells.bad and (name := plain(v))]
    numbers = sum(1 for name in found if whole(name))
    return () if 2 * numbers > len(found) else tuple(sorted({*found}))


def _stored(value: Any) -> Any:
    encoded = value.get("bytes") if isinstance(value, Mapping) else value
    return hashlib.sha256(encoded).hexdigest() if isinstance(encoded, bytes) else value


def _value(value: Any, where: str) -> Any:
    if isinstance(value, str):
        for kind in (int, float):
            try:
                return kind(value)
            except ValueError:
                continue
        return value
    if isinstance(value, list) and value and all(isinstance(v, str) for v in value):
        return value
    if isinstance(value, list):
        try:
            array = np.asarray(value, np.float32)
        except (TypeError, ValueError):
            raise DataError(f"{where}: expected numbers in lists of one length") from None
        return array
    if value is None:
        return float("nan")
    if isinstance(value, (dict, bytes)):
        raise DataError(f"{where}: expected a number, numbers or text, found {type(value).__name__}")
    return value
