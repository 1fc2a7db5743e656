"""A source over arrays that a user has at hand."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmrep.data import splits
from mmrep.data.columns import Columns, Record
from mmrep.errors import DataError


@dataclass(frozen=True, eq=False)
class Arrays:
    """Records in ready columns {field: array or list whose first axis is the record}, one mapping a split, or a function that returns it.

    Arrays({"x": x, "class": y}, test={"x": x_test, "class": y_test}) takes arrays as they are; a config that is stored holds their digest
    alone, so that a model loaded from it embeds, but its data have to be given again. A module-level function, Arrays(load_train), is
    stored by its name. Texts are strings; a tuple of them holds several captions, a list a group.
    Raises DataError for a split that was not given, and for columns of unequal lengths.
    """

    train: Any = None
    val: Any = None
    test: Any = None
    digest: str = ""

    def columns(self, split: str) -> Mapping[str, Any]:
        splits.check(split)
        given: Mapping[str, Any] | Callable[[], Mapping[str, Any]] | None = getattr(self, split)
        if given is None:
            lost = "; a stored config does not hold arrays: give them again" if self.digest else ""
            raise DataError(f"Arrays.{split} was not given: give {{field: array}}{lost}")
        return given() if callable(given) else given

    def open(self, split: str) -> Columns:
        columns = self.columns(split)
        lengths = {name: len(column) for name, column in columns.items()}
        if len({*lengths.values()}) != 1:
            told = ", ".join(f"{n} of {name}" for name, n in lengths.items()) or "no column"
            raise DataError(f"Arrays.{split} needs columns of one length, found {told}")
        return Columns(columns)

    def texts(self, split: str) -> Iterator[str]:
        for column in self.columns(split).values():
            if len(column) and isinstance(column[0], (str, tuple, list)):
                for value in column:
                    yield from [value] if isinstance(value, str) else (v for v in value if isinstance(v, str))

    def view(self, record: Record, rng: np.random.Generator | None) -> Record:
        return splits.select(record, rng)

    def to_json(self) -> dict[str, Any]:
        parts = {split: getattr(self, split) for split in splits.NAMES}
        functions = {
            split: {"type": "function", "name": f"{part.__module__}:{part.__qualname__}"}
            for split, part in parts.items() if callable(part)
        }  # fmt: skip
        arrays = {split: part for split, part in parts.items() if part is not None and split not in functions}
        stored = {"digest": _digest(arrays) if arrays else self.digest} | functions
        return {"type": f"{Arrays.__module__}:{Arrays.__qualname__}"} | stored


def _digest(arrays: Mapping[str, Mapping[str, Any]]) -> str:
    found = hashlib.sha256()
    for split, columns in arrays.items():
        for name, column in columns.items():
            array = np.asarray(column) if isinstance(column, np.ndarray) and column.dtype != object else None
            content = repr(list(column)).encode() if array is None else array.tobytes()
            found.update(f"{split} {name} {len(column)} {'' if array is None else array.dtype}".encode() + content)
    return found.hexdigest()[:16]
