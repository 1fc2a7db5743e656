"""Public records beside the private records of clients, and parts of a source that belong to one client."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmrep.data.columns import Record
from mmrep.errors import DataError


@dataclass(frozen=True)
class Filtered:
    """The records of `source` whose `field` has one of `values`: the rows of one client, or some classes of a non-iid split.

    Raises DataError where a split has none.
    """

    source: Any
    field: str
    values: tuple[Any, ...]

    def open(self, split: str) -> "Chosen":
        records = self.source.open(split)
        rows = [i for i in range(len(records)) if records[i][self.field] in self.values]
        if not rows:
            raise DataError(f"split {split!r} has no record whose {self.field!r} is one of {self.values}")
        return Chosen(records, np.array(rows))

    def texts(self, split: str) -> Iterator[str]:
        return self.source.texts(split)

    def view(self, record: Record, rng: np.random.Generator | None) -> Record:
        return self.source.view(record, rng)


class Chosen(Sequence[Record]):
    """Some records of a sequence."""

    def __init__(self, records: Sequence[Record], rows: np.ndarray) -> None:
        self.records, self.rows = records, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> Record:  # type: ignore[override]
        return self.records[int(self.rows[i])]


@dataclass(frozen=True)
class Federated:
    """Record i: the public record i with its number, int32 `row`, and for each client a record of its private source as `<client>_<field>`.

    A training split is as long as its longest source, shorter ones repeat; other splits are as long as the public one. Private records reach
    the client's own loss alone.

    held: the source of the public records of val and test, say of all classes; None: `public`.
    """

    public: Any
    private: tuple[tuple[str, Any], ...]
    held: Any = None

    def open(self, split: str) -> "Together":
        own = {name: source.open(split) for name, source in self.private}
        public = (self.public if split == "train" else self.held or self.public).open(split)
        length = max(len(public), *map(len, own.values())) if split == "train" and own else len(public)
        return Together(public, own, length)

    def texts(self, split: str) -> Iterator[str]:
        yield from self.public.texts(split)
        for _, source in self.private:
            yield from source.texts(split)

    def view(self, record: Record, rng: np.random.Generator | None) -> Record:
        named = {
            name: {k.removeprefix(f"{name}_"): v for k, v in record.items() if k.startswith(f"{name}_")}
            for name, _ in self.private
        }
        public = {k: v for k, v in record.items() if not any(k.startswith(f"{name}_") for name in named)}
        found = dict(self.public.view(public, rng))
        for name, source in self.private:
            found |= {f"{name}_{k}": v for k, v in source.view(named[name], rng).items()}
        return found


class Together(Sequence[Record]):
    """The records of Federated."""

    def __init__(self, public: Sequence[Record], private: dict[str, Sequence[Record]], length: int) -> None:
        self.public, self.private, self.length = public, private, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, i: int) -> Record:  # type: ignore[override]
        i = range(self.length)[i]
        row = i % len(self.public)
        found = {**self.public[row], "row": np.int32(row)}
        for name, records in self.private.items():
            found |= {f"{name}_{k}": v for k, v in records[i % len(records)].items()}
        return found
