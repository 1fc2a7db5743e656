"""Pairs of listings: two of one product, those of a click log, and the filter by category and relevance."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmrep.data.columns import Columns
from mmrep.errors import ConfigError, DataError

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Listings:
    """Pairs of listings of one product: each record of `source`, and, with fields named "<field>_b", the next one of equal `product`.

    product: the record field that two listings of a product, or a click's two, share. Products of one listing are left out.
    Opening a split reads each of its records once.   Raises DataError where no product has two listings.
    """

    source: Any
    product: str = "label"

    def open(self, split: str) -> "Pairs":
        records, groups = self.source.open(split), defaultdict(list)
        for i in range(len(records)):
            if self.product not in records[i]:
                raise DataError(
                    f"Listings.product is {self.product!r}, a field that record {i} of split {split!r} lacks"
                )
            groups[records[i][self.product]].append(i)
        pairs = sorted((i, g[(at + 1) % len(g)]) for g in groups.values() if len(g) > 1 for at, i in enumerate(g))
        if not pairs:
            raise DataError(
                f"split {split!r} has no two records of equal {self.product!r}: give two listings of a product"
            )
        return Pairs(records, tuple(pairs))

    def texts(self, split: str) -> Iterator[str]:
        return self.source.texts(split)

    def view(self, record: Record, rng: np.random.Generator | None) -> Record:
        first, second = (self.source.view(r, rng) for r in record["pair"])
        return {**first, **{f"{name}_b": value for name, value in second.items()}}


class Pairs(Sequence[Record]):
    def __init__(self, records: Any, pairs: tuple[tuple[int, int], ...]) -> None:
        self.records, self.pairs = records, pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, i: int) -> Record:  # type: ignore[override]
        return {"pair": tuple(self.records[j] for j in self.pairs[i])}


@dataclass(frozen=True)
class Relevant:
    """`source` without the training pairs that differ in category, or whose titles have a `relevance` below `least`.

    category, titles: the fields of both listings; an empty category is not compared. The other splits are those of `source`.
    Raises DataError where no pair is left.
    """

    source: Any
    category: tuple[str, str] | tuple[()] = ()
    titles: tuple[str, str] = ("text", "text_b")
    least: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.least <= 1:
            raise ConfigError(f"Relevant.least is {self.least}: it must be in [0, 1]")

    def open(self, split: str) -> Any:
        records = self.source.open(split)
        if split != "train":
            return records
        kept = tuple(i for i in range(len(records)) if self._keeps(self.source.view(records[i], None)))
        if not kept:
            raise DataError(f"Relevant.least is {self.least}: no training pair is so relevant; lower it")
        return Kept(records, kept)

    def _keeps(self, record: Record) -> bool:
        same = not self.category or record[self.category[0]] == record[self.category[1]]
        return bool(same) and relevance(record[self.titles[0]], record[self.titles[1]]) >= self.least

    def texts(self, split: str) -> Iterator[str]:
        return self.source.texts(split)

    def view(self, record: Record, rng: np.random.Generator | None) -> Record:
        return self.source.view(record, rng)


class Kept(Sequence[Record]):
    def __init__(self, records: Any, kept: tuple[int, ...]) -> None:
        self.records, self.kept = records, kept

    def __len__(self) -> int:
        return len(self.kept)

    def __getitem__(self, i: int) -> Record:  # type: ignore[override]
        return self.records[self.kept[i]]


def relevance(title: str, other: str) -> float:
    """The share of the shorter title's different words that the other has, too, in [0, 1]; 0 where a title has none."""
    a, b = ({*t.lower().split()} for t in (title, other))
    return len(a & b) / max(min(len(a), len(b)), 1)


@dataclass(frozen=True)
class WrongClicks:
    """A computed `source` of pairs in which, for a share `rate` of the training records, the second listing is another product's.

    The other product has the same `category`; "<category>_b" is that of the second listing. A wrong click is a function of `seed`.
    """

    source: Any
    rate: float = 0.2
    category: str = "label"
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.rate <= 1:
            raise ConfigError(f"WrongClicks.rate is {self.rate}: it must be in [0, 1]")

    def open(self, split: str) -> Columns:
        columns = dict(self.source.open(split).columns)
        kind, rng = np.asarray(columns[self.category]), np.random.default_rng((self.seed, 23))
        clicked = np.arange(len(kind))
        for value in np.unique(kind) if split == "train" else ():
            rows = rng.permutation(np.flatnonzero(kind == value))
            clicked[rows] = np.roll(rows, 1)
        clicked = np.where(rng.random(len(kind)) < self.rate, clicked, np.arange(len(kind)))
        for name in [n for n in columns if n.endswith("_b")]:
            column = columns[name]
            columns[name] = [column[i] for i in clicked] if isinstance(column, list) else column[clicked]
        return Columns(columns | {f"{self.category}_b": kind[clicked]})

    def texts(self, split: str) -> Iterator[str]:
        return self.source.texts(split)

    def view(self, record: Record, rng: np.random.Generator | None) -> Record:
        return record
