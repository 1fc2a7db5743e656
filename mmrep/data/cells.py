"""The cells of a CSV, TSV, JSON lines or Parquet file, column by column.

CSV and JSON lines go through the standard library, not pyarrow: pyarrow takes an open quote for a cell that reaches the end of the file
and refuses a whole file of JSON lines for one cell of another type, where here one row is bad and named by its line.
"""

import csv
import json
import os
import re
import sys
import threading
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mmrep import paths
from mmrep.data import decode
from mmrep.errors import DataError

FORMATS = {".csv": ",", ".tsv": "\t", ".jsonl": "", ".ndjson": "", ".parquet": ""}
_FIELD_LIMIT = threading.Lock()

Choose = Callable[[Sequence[str]], Sequence[str]]
"""The columns of a file -> those to be kept."""


@dataclass(frozen=True, eq=False)
class Cells:
    """The columns that are read, a cell a row, with each row's line in the file; `bad` holds the reason of rows that do not fit."""

    columns: Mapping[str, Sequence[Any]]
    lines: Sequence[int]
    bad: Mapping[int, str]
    path: str
    word: str = "line"

    def where(self, row: int) -> str:
        return f"{self.path} {self.word} {self.lines[row]}"

    def text(self, column: str | None, row: int) -> str:
        return plain(self.columns[column][row]) if column else ""


def read(path: str, choose: Choose, delimiter: str = "") -> Cells:
    """The cells of the columns that `choose` keeps. Raises DataError where the file as a whole cannot be used."""
    path = decode.locate(os.path.expanduser(path))
    ending = os.path.splitext(path)[1].lower()
    if paths.is_url(path):
        try:
            with paths.fetched(path) as copy:
                return replace(read(str(copy), choose, delimiter), path=path)
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error.strerror or error}): check the path of the table") from None
    try:
        with open(path, "rb") as file:
            decode.fetched(file.read(100), path)
        if ending == ".parquet":
            cells = _parquet(path, choose)
        else:
            # Bytes that are not UTF-8 are kept as lone surrogates: a path may hold them, a caption is refused on its own.
            with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
                if file.read(2) in ("\udcff\udcfe", "\udcfe\udcff"):
                    raise DataError(f"{path} is UTF-16: save it as UTF-8")
                file.seek(0)
                separator = delimiter or FORMATS[ending]
                cells = _csv(path, choose, file, separator) if FORMATS[ending] else _jsonl(path, choose, file)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}): check the path of the table") from None
    if not len(cells.lines):
        raise DataError(f"{path} has no rows: add some")
    return cells


def _csv(path: str, choose: Choose, file: Any, delimiter: str) -> Cells:
    quoting = {"quoting": csv.QUOTE_NONE} if delimiter == "\t" else {"strict": True}
    columns: dict[str, list[Any]] = {}
    kept: list[tuple[list[Any], int]] = []
    lines, bad, width, line = array("q"), {}, 0, 1
    with _FIELD_LIMIT:
        # A cell longer than csv's own limit would end the whole table; it is one bad record instead.
        before = csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
        try:
            reader = csv.reader(file, delimiter=delimiter, **quoting)
            for row in reader:
                if row and not width:
                    names = [c.strip() for c in row]
                    for name in names:
                        if names.count(name) > 1:
                            raise DataError(f"{path} has the column {name!r} twice: rename one")
                    columns, width = {c: [] for c in choose(names)}, len(names)
                    kept = [(columns[c], names.index(c)) for c in columns]
                elif row:
                    if len(row) == width:
                        for column, i in kept:
                            column.append(row[i])
                    else:
                        bad[len(lines)] = (
                            f"the row has {len(row)} cells, the header {width}: quote cells that contain {delimiter!r}"
                        )
                        for column, i in kept:
                            column.append(row[i] if i < len(row) else None)
                    lines.append(line)
                line = reader.line_num + 1
        except csv.Error as error:
            raise DataError(f"{path} line {line}: {error}: mend the quotes of that row") from None
        finally:
            csv.field_size_limit(before)
    return Cells(columns, lines, bad, path)


def _jsonl(path: str, choose: Choose, file: Iterable[str]) -> Cells:
    rows: list[Mapping[str, Any]] = []
    names: dict[str, None] = {}
    lines, bad = array("q"), {}
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
            if not isinstance(value, dict):
                bad[len(rows)] = f"expected an object, found {type(value).__name__}: write one object a line"
                value = {}
        except (ValueError, RecursionError) as error:
            bad[len(rows)], value = f"not JSON ({error}): write one object a line", {}
        names |= dict.fromkeys(value)
        rows.append(value)
        lines.append(number)
    if rows and not names:
        raise DataError(f"{path} line {lines[0]}: {bad.get(0, 'the object is empty: write one object a line')}")
    wanted = choose(tuple(names)) if rows else []
    return Cells({c: [row.get(c) for row in rows] for c in wanted}, lines, bad, path)


def _parquet(path: str, choose: Choose) -> Cells:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise DataError(f"{path}: Parquet needs pyarrow: pip install pyarrow") from None
    try:
        with pq.ParquetFile(path) as file:
            wanted = choose(file.schema_arrow.names)
            table = file.read(columns=wanted)
    except pa.ArrowException as error:
        raise DataError(f"{path} is not a whole Parquet file ({str(error).splitlines()[0]}): write it again") from None
    columns = {c: _Encoded(table[c]) if _is_encoded(table[c].type, pa) else table[c].to_pylist() for c in wanted}
    return Cells(columns, range(1, table.num_rows + 1), {}, path, "row")


def _is_encoded(kind: Any, pa: Any) -> bool:
    return pa.types.is_struct(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


class _Encoded(Sequence[Any]):
    """Encoded files in a column: turned into Python's bytes one by one."""

    def __init__(self, column: Any) -> None:
        self.column = column

    def __len__(self) -> int:
        return len(self.column)

    def __getitem__(self, row: int) -> Any:  # type: ignore[override]
        return self.column[int(row)].as_py()


def plain(value: Any) -> str:
    """A cell as text; empty for missing values (None, NaN) and for lists and objects."""
    return "" if value is None or value != value or isinstance(value, (list, dict, bytes)) else str(value).strip()


_WHOLE = re.compile(r"([+-]?\d+)(\.0*)?|([+-]?\d(\.\d*)?[eE]\+?\d+)", re.ASCII)


def whole(text: str) -> str:
    """The whole number that a cell holds, "2" of "2", "2.0" and "2e0" alike: pandas writes labels as floats. Else empty."""
    if not _WHOLE.fullmatch(text) or len(text) > 18:
        return ""
    value = float(text) if "e" in text.lower() else int(text.partition(".")[0])
    return str(int(value)) if value == int(value) else ""
