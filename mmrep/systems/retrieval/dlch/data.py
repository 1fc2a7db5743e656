"""A stream of items: those of base categories first, later those that carry a new one."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from mmrep.data.columns import Record
from mmrep.errors import ConfigError, DataError
from mmrep.systems.retrieval.dlch.model import check_labels

Part = Literal["all", "base", "new", "sample"]


@dataclass(frozen=True)
class Stream:
    """`source` by parts: training records of the base categories, those with any category of `new`, a sample of both, or all.

    Records also hold labels float32 [categories], row int32, the record's number in the whole training split, and new int32, 1 with a new
    category. Validation and test records are all there, whatever the part.

    field:  of the labels: multi-hot [categories], or the number of one class.
    sample: records of the part "sample": half of them base and half new, or all new ones where they are fewer.
    only_new: the sample is of new records alone (an ablation).
    """

    source: Any
    categories: int = 10
    new: tuple[int, ...] = (8, 9)
    field: str = "labels"
    part: Part = "all"
    sample: int = 600
    only_new: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.part not in ("all", "base", "new", "sample"):
            raise ConfigError(f"Stream.part is {self.part!r}: choose all, base, new or sample")
        if not self.new or any(not 0 <= k < self.categories for k in self.new):
            raise ConfigError(f"Stream.new is {self.new}: name categories in [0, {self.categories})")
        if self.sample < 2:
            raise ConfigError(f"Stream.sample is {self.sample}: it must be at least 2")

    def open(self, split: str) -> "StreamRecords":
        labels, rows = _labels(self.source, self.field, self.categories, split), np.arange(0)
        is_new = labels[:, list(self.new)].any(1)
        rows = np.arange(len(labels))
        if split == "train" and self.part != "all":
            base, new = rows[~is_new], rows[is_new]
            if not len(base) or not len(new):
                raise DataError(f"Stream: {len(base)} base and {len(new)} new records: both must be there")
            if self.part == "sample":
                rng, half = np.random.default_rng(self.seed), self.sample // 2
                kept = rng.permutation(new)[: self.sample if self.only_new else half]
                rest = rng.permutation(base)[: 0 if self.only_new else self.sample - len(kept)]
                rows = np.sort(np.concatenate([rest, kept]))
            else:
                rows = base if self.part == "base" else new
        return StreamRecords(self.source.open(split), rows, labels, np.asarray(is_new))

    def texts(self, split: str) -> Iterator[str]:
        return self.source.texts(split)

    def view(self, record: Record, rng: np.random.Generator | None) -> Record:
        check_labels(record["labels"])
        own = {k: record[k] for k in ("labels", "row", "new")}
        return {**self.source.view(record["record"], rng), **own}


class StreamRecords(Sequence[Record]):
    def __init__(self, records: Sequence[Any], rows: np.ndarray, labels: np.ndarray, is_new: np.ndarray) -> None:
        self.records, self.rows, self.labels, self.is_new = records, rows, labels, is_new

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> Record:  # type: ignore[override]
        row = int(self.rows[i])
        return {
            "record": self.records[row], "labels": self.labels[row], "row": np.int32(row), "new": np.int32(self.is_new[row]),
        }  # fmt: skip


@lru_cache(maxsize=16)
def _labels(source: Any, field: str, categories: int, split: str) -> np.ndarray:
    """float32 [N, categories] of every record of a split."""
    found = np.zeros((len(records := source.open(split)), categories), np.float32)
    for row, record in zip(found, records):
        shown = source.view(record, None)
        if field not in shown:
            raise DataError(f"Stream.field is {field!r}, which records lack; they have {', '.join(sorted(shown))}")
        value = np.asarray(shown[field])
        if value.ndim == 0:
            row[int(value)] = 1.0
        elif value.shape == (categories,):
            row[:] = value
        else:
            raise DataError(f"{field} has shape {list(value.shape)}: give a class, or {categories} numbers 0 or 1")
    return found
