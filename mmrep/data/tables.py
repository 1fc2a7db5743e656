"""A table of pairs: CSV, TSV or JSON lines, with the paths of images and sounds in its columns."""

import csv
import json
import os
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mmrep.data import decode, splits
from mmrep.data.decode import Limits
from mmrep.errors import ConfigError, DataError, near

FORMATS = {".csv": ",", ".tsv": "\t", ".jsonl": "", ".ndjson": ""}
_FIELD_LIMIT = threading.Lock()


@dataclass(frozen=True)
class Table:
    """Rows of `path` (.csv with quotes, .tsv without, .jsonl); paths in it are relative to the table.

    Records: image uint8 [H, W, 3], text, audio float32 [T] in [-1, 1] at `rate`, label, the `extra` columns, file (table and line).
    Rows with the same image and sound are one record with several captions: training draws one, evaluation takes the first;
    a cell of a .jsonl may also hold a list of captions. A row that cannot be read is a bad record of the training split.

    image, audio, label: columns, or None.   text: a column, several (each also a field of its own name), or None.
    extra:     columns passed on as they are: numbers, lists of numbers as arrays, else text.
    classes:   names of the labels in the order of their ids; empty: whole numbers as they are, else all labels sorted.
    split:     column with train, val or test; the default is used where the table has it. None: hashed splits.
    group:     column whose equal rows stay in one split; empty: the image's path, else the sound's, else the text.
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

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", os.fspath(self.path))
        splits.check_fractions(self.fractions)
        ending = os.path.splitext(self.path)[1].lower()
        if ending not in FORMATS:
            raise ConfigError(f"path {self.path!r} ends in {ending!r}: a table is one of {', '.join(FORMATS)}")
        if len(self.delimiter) > 1:
            raise ConfigError(f"delimiter {self.delimiter!r} has {len(self.delimiter)} characters: give one")
        if not (self.image or self.audio or self.text_columns):
            raise ConfigError("image, audio and text are all None: name at least one column")

    @property
    def text_columns(self) -> tuple[str, ...]:
        return (self.text,) if isinstance(self.text, str) else tuple(self.text or ())

    def open(self, split: str) -> "TableRecords":
        """The records of `split` ("train", "val", "test"). Raises DataError for a missing file or column or an empty split."""
        splits.check(split)
        columns, rows = _rows(str(self.path), self.delimiter)
        self._check_columns(columns)
        items = self._items(rows, self.split if self.split in columns else None)
        fix = "fill the split column" if self.split in columns else "add rows, set fractions, or give a split column"
        chosen = splits.choose(items, lambda item: item.split, split, str(self.path), fix)
        return TableRecords(self, chosen, self._classes(rows))

    def texts(self, split: str) -> Iterator[str]:
        """Every caption of `split`; captions that cannot be read are left to the records to report."""
        return self.open(split).captions()

    def view(self, record: dict[str, Any], rng: np.random.Generator | None) -> dict[str, Any]:
        """One caption of several: a random one, or the first without `rng`."""
        return splits.select(record, rng)

    def _check_columns(self, columns: Sequence[str]) -> None:
        named = {"image": self.image, "audio": self.audio, "label": self.label, "group": self.group}
        wanted: list[tuple[str, str | None]] = [(f, c) for f, c in named.items() if c]
        wanted += [("text", c) for c in self.text_columns] + [("extra", c) for c in self.extra]
        wanted += [("split", self.split)] if self.split not in (None, "split") else []
        for name, column in wanted:
            if column not in columns:
                hint = ": set delimiter" if len(columns) == 1 and any(d in columns[0] for d in ";\t|") else ""
                raise DataError(f"{self.path} has no column {column!r} for {name}{near(str(column), columns)}{hint}")

    def _items(self, rows: Iterable["_Row"], split: str | None) -> list["_Item"]:
        merged: dict[Any, list[_Row]] = {}
        for row in rows:
            files = tuple(_plain(row.cells.get(c)) for c in (self.image, self.audio) if c)
            merged.setdefault(files if any(files) and not row.bad else row.line, []).append(row)
        items: list[_Item] = []
        group_splits: dict[str, tuple[str, int]] = {}
        for same in merged.values():
            first = same[0]
            group = self._group(first)
            if first.bad:
                where = "train"
            elif split is None:
                for row in same[1:]:
                    self._agree("group", group, self._group(row), first, row)
                where = splits.hashed(group, self.fractions)
            else:
                where = self._split(first, split)
                for row in same[1:]:
                    self._agree("split", where, self._split(row, split), first, row)
                for row in same if self.group else ():
                    name = self._group(row)
                    other, line = group_splits.setdefault(name, (where, row.line))
                    if other != where:
                        raise DataError(
                            f"{self.path}: {self.group} {name!r} is in split {other!r} (line {line}) and in {where!r} "
                            f"(line {row.line}): keep a group in one split"
                        )
            for row in same[1:] if self.label else ():
                self._agree("label", first.cells.get(str(self.label)), row.cells.get(str(self.label)), first, row)
            items.append(_Item(tuple(same), where))
        return items

    def _agree(self, what: str, a: Any, b: Any, first: "_Row", row: "_Row") -> None:
        if a != b:
            raise DataError(
                f"{self.path} lines {first.line} and {row.line} show the same image or sound with {what} {a!r} and {b!r}: "
                "make them agree"
            )

    def _group(self, row: "_Row") -> str:
        if self.group:
            return _plain(row.cells.get(self.group)) or f"line {row.line}"
        for column in (self.image, self.audio, *self.text_columns):
            value = _plain(row.cells.get(column)) if column else ""
            if value:
                return value
        return f"line {row.line}"

    def _split(self, row: "_Row", column: str) -> str:
        value = _plain(row.cells.get(column))
        known = splits.named(value)
        if known is None:
            raise DataError(
                f"{self.path} line {row.line}: {column} {value!r} is no split{near(value, splits.NAMES)}"
                + ("" if self.split != "split" else "; or set split=None")
            )
        return known

    def _classes(self, rows: Iterable["_Row"]) -> tuple[str, ...]:
        if not self.label or self.classes:
            return self.classes
        found = {_plain(row.cells.get(self.label)) for row in rows if not row.bad} - {""}
        return () if all(_is_int(f) for f in found) else tuple(sorted(found))


@dataclass(frozen=True)
class _Row:
    line: int
    cells: Mapping[str, Any]
    bad: str = ""


@dataclass(frozen=True)
class _Item:
    rows: tuple[_Row, ...]
    split: str


@dataclass(frozen=True)
class TableRecords(Sequence):
    """One split. `classes` are the label names, empty where labels are whole numbers already."""

    source: Table
    items: tuple[_Item, ...] = field(repr=False)
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> dict[str, Any]:  # type: ignore[override]
        source, rows = self.source, self.items[i].rows
        where = f"{source.path} line {rows[0].line}"
        if rows[0].bad:
            raise DataError(f"{where}: {rows[0].bad}")
        cells = rows[0].cells
        record: dict[str, Any] = {"file": where}
        if source.text_columns:
            record["text"] = self._captions(rows, source.text_columns)
            for column in source.text_columns if len(source.text_columns) > 1 else ():
                record[column] = self._captions(rows, (column,))
        if source.label:
            record["label"] = self._label(cells.get(source.label), where)
        for column in source.extra:
            record[column] = _value(cells.get(column), f"{where}, {column}")
        if source.image:
            data, name = self._file(cells.get(source.image), source.image, where)
            record["image"] = decode.image(data, name, source.limits)
        if source.audio:
            data, name = self._file(cells.get(source.audio), source.audio, where)
            record["audio"] = decode.audio(data, name, source.rate, source.limits)
        return record

    def captions(self) -> Iterator[str]:
        for item in self.items:
            if not item.rows[0].bad:
                try:
                    yield from self._captions(item.rows, self.source.text_columns)
                except DataError:
                    continue

    def _captions(self, rows: Iterable[_Row], columns: Iterable[str]) -> tuple[str, ...]:
        found: list[str] = []
        for column in columns:
            for row in rows:
                value = row.cells.get(column)
                where = f"{self.source.path} line {row.line}, {column}"
                if value is None or value == []:
                    raise DataError(f"{where}: there is no caption: write one or remove the row")
                for one in value if isinstance(value, list) else [value]:
                    found.append(decode.caption(one, where, self.source.limits))
        return tuple(dict.fromkeys(found))

    def _file(self, value: Any, column: str, where: str) -> tuple[bytes, str]:
        if not isinstance(value, str) or not value.strip():
            raise DataError(f"{where}, {column}: expected the path of a file, found {value!r}")
        if "://" in value:
            raise DataError(f"{where}, {column}: {value} is an address: download it and give the file's path")
        path = os.path.join(os.path.dirname(self.source.path), value.strip())
        if "\0" in path:
            raise DataError(f"{where}, {column}: {value!r} is not a path")
        return decode.read(path, self.source.limits, f"{where}, {column}: "), f"{where}, {path}"

    def _label(self, value: Any, where: str) -> int:
        name = _plain(value)
        if self.classes:
            if name not in self.classes:
                raise DataError(f"{where}, {self.source.label}: no class {name!r}{near(name, self.classes)}")
            return self.classes.index(name)
        if not _is_int(name):
            raise DataError(f"{where}, {self.source.label}: expected a whole number, found {value!r}")
        return int(name)


def _rows(path: str, delimiter: str) -> tuple[tuple[str, ...], list[_Row]]:
    """(columns, rows) of the table; rows that do not fit it carry the reason in `bad`."""
    try:
        # Bytes that are not UTF-8 are kept as lone surrogates: a path may hold them, a caption is refused on its own.
        with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            if file.read(2) in ("\udcff\udcfe", "\udcfe\udcff"):
                raise DataError(f"{path} is UTF-16: save it as UTF-8")
            file.seek(0)
            separator = FORMATS[os.path.splitext(path)[1].lower()]
            columns, rows = _cells(path, file, delimiter or separator) if separator else _objects(file)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}): check the path of the table") from None
    if not rows:
        raise DataError(f"{path} has no rows: add some")
    return columns, rows


def _cells(path: str, file: Any, delimiter: str) -> tuple[tuple[str, ...], list[_Row]]:
    quoting = {"quoting": csv.QUOTE_NONE} if delimiter == "\t" else {"strict": True}
    rows: list[_Row] = []
    columns: tuple[str, ...] = ()
    line = 1
    with _FIELD_LIMIT:
        # A cell longer than csv's own limit would end the whole table; it is one bad record instead.
        before = csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
        try:
            reader = csv.reader(file, delimiter=delimiter, **quoting)
            for cells in reader:
                if cells and not columns:
                    columns = tuple(c.strip() for c in cells)
                elif cells:
                    bad = ""
                    if len(cells) != len(columns):
                        bad = f"the row has {len(cells)} cells, the header {len(columns)}: quote cells that contain {delimiter!r}"
                    rows.append(_Row(line, dict(zip(columns, cells)), bad))
                line = reader.line_num + 1
        except csv.Error as error:
            raise DataError(f"{path} line {line}: {error}: mend the quotes of that row") from None
        finally:
            csv.field_size_limit(before)
    for column in columns:
        if columns.count(column) > 1:
            raise DataError(f"{path} has the column {column!r} twice: rename one")
    return columns, rows


def _objects(file: Iterable[str]) -> tuple[tuple[str, ...], list[_Row]]:
    rows: list[_Row] = []
    columns: dict[str, None] = {}
    for number, line in enumerate(file, 1):
        if line.strip():
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                rows.append(_Row(number, {}, f"not JSON ({error}): write one object a line"))
                continue
            if isinstance(value, dict):
                columns |= dict.fromkeys(value)
                rows.append(_Row(number, value))
            else:
                rows.append(_Row(number, {}, f"expected an object, found {type(value).__name__}"))
    return tuple(columns), rows


def _plain(value: Any) -> str:
    return "" if value is None or isinstance(value, (list, dict)) else str(value).strip()


def _is_int(text: str) -> bool:
    return text.removeprefix("-").isascii() and text.removeprefix("-").isdigit()


def _value(value: Any, where: str) -> Any:
    if isinstance(value, str):
        for kind in (int, float):
            try:
                return kind(value)
            except ValueError:
                continue
        return value
    if isinstance(value, list):
        try:
            array = np.asarray(value, np.float32)
        except (TypeError, ValueError):
            raise DataError(f"{where}: expected numbers in lists of one length") from None
        return array
    if value is None or isinstance(value, dict):
        raise DataError(f"{where}: expected a number, numbers or text, found {type(value).__name__}")
    return value
