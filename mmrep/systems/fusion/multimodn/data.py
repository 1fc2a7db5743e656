"""Tables whose modalities are missing: scikit-learn's digits and breast cancer with a modality missing by class, and columns of a user's."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float

from mmrep.data import splits
from mmrep.data.columns import Columns, Record
from mmrep.errors import ConfigError, DataError


@dataclass(frozen=True)
class TabularData:
    """scikit-learn's "digits" as four quadrants of 16 numbers, or its "cancer" as three tables of 10, standardised, in random splits.

    Records: m0, m1, ... float32; digits: high (>= 5) and odd; cancer: malignant.   Missing not at random: in training and validation the
    modality m<lost> is missing (NaN) for a share `missing` of the records whose first label is 1; the test split is complete, and its
    field m<lost>_flipped is missing for that share of the records whose first label is 0.
    """

    name: Literal["digits", "cancer"] = "digits"
    missing: float = 0.0
    lost: int = 0
    n_val: int = 100
    n_test: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        if self.name not in ("digits", "cancer"):
            raise ConfigError(f"name is {self.name!r}: choose digits or cancer")
        if not 0 <= self.missing <= 1:
            raise ConfigError(f"missing is {self.missing}: it is a share, in [0, 1]")
        if not 0 <= self.lost < (4 if self.name == "digits" else 3):
            raise ConfigError(f"lost is {self.lost}: it is the number of a modality, from 0")

    def open(self, split: str) -> Columns:
        splits.check(split)
        parts, labels = _digits() if self.name == "digits" else _cancer()
        order = np.random.default_rng(self.seed).permutation(len(parts[0]))
        if self.n_val + self.n_test >= len(order):
            raise ConfigError(f"n_val and n_test leave no record of {len(order)} for training: lower them")
        train = order[self.n_val + self.n_test :]
        rows = {"train": train, "val": order[: self.n_val], "test": order[self.n_val : self.n_val + self.n_test]}[split]
        scaled = [((x - x[train].mean(0)) / np.maximum(x[train].std(0), 1e-6))[rows].astype(np.float32) for x in parts]
        first = next(iter(labels.values()))[rows]
        draw = np.random.default_rng((self.seed, splits.NAMES.index(split))).random(len(rows))
        columns: dict[str, Any] = {f"m{k}": x for k, x in enumerate(scaled)}
        columns |= {name: label[rows].astype(np.int32) for name, label in labels.items()}
        whole, lost = scaled[self.lost], f"m{self.lost}"
        shown = _without(whole, (first == 1) & (draw < self.missing))
        columns[f"{lost}_flipped"] = _without(whole, (first == 0) & (draw < self.missing))
        columns[lost] = whole if split == "test" else shown
        return Columns(columns)

    def texts(self, split: str) -> Iterator[str]:
        return iter(())

    def view(self, record: Record, rng: np.random.Generator | None) -> Record:
        return record


def _without(x: Float[np.ndarray, "N D"], rows: Bool[np.ndarray, " N"]) -> Float[np.ndarray, "N D"]:
    return np.where(rows[:, None], np.float32(np.nan), x)


def _digits() -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
    from sklearn.datasets import load_digits

    found = load_digits()
    pictures = found.images.reshape(-1, 2, 4, 2, 4).transpose(1, 3, 0, 2, 4).reshape(4, -1, 16)
    return list(pictures), {"high": found.target >= 5, "odd": found.target % 2}


def _cancer() -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
    from sklearn.datasets import load_breast_cancer

    found = load_breast_cancer()
    return list(found.data.reshape(-1, 3, 10).transpose(1, 0, 2)), {"malignant": found.target == 0}


@dataclass(frozen=True)
class Grouped:
    """Single columns of `source`, e.g. a `Table` with `extra`, as the vectors of a modality: (("vitals", ("pulse", "pressure")), ...).

    An empty cell is NaN. standardise: by mean and standard deviation of each column over the training records that have a number.
    Raises DataError where a record has no such column or its cell is no number.
    """

    source: Any
    groups: tuple[tuple[str, tuple[str, ...]], ...]
    standardise: bool = True

    def open(self, split: str) -> "GroupedRecords":
        records, scale = self.source.open(split), {}
        if self.standardise:
            train = [self.vectors(self.source.view(record, None)) for record in self.source.open("train")]
            for name, columns in self.groups:
                x = np.concatenate([np.stack([v[name] for v in train]), np.zeros((1, len(columns)), np.float32)])
                x[-1][~np.isnan(x[:-1]).all(0)] = np.nan  # a column without any number has mean 0
                scale[name] = np.nanmean(x, 0), np.maximum(np.nanstd(x, 0), 1e-6)
        return GroupedRecords(self, records, scale)

    def texts(self, split: str) -> Iterator[str]:
        yield from self.source.texts(split)

    def view(self, record: Any, rng: np.random.Generator | None) -> Any:
        return self.source.view(record, rng)

    def vectors(self, record: Any) -> dict[str, Float[np.ndarray, " C"]]:
        return {name: np.array([_number(record, c) for c in columns], np.float32) for name, columns in self.groups}


def _number(record: Any, column: str) -> float:
    if column not in record:
        raise DataError(f"the record has no column {column!r}; it has {', '.join(sorted(record))}")
    value = record[column]
    try:
        return float("nan") if isinstance(value, str) and not value.strip() else float(value)
    except (TypeError, ValueError):
        raise DataError(f"column {column!r}: expected a number or an empty cell, found {value!r}") from None


@dataclass(frozen=True, eq=False)
class GroupedRecords(Sequence[Any]):
    source: Grouped
    records: Sequence[Any]
    scale: dict[str, tuple[np.ndarray, np.ndarray]]

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, i: int) -> Any:  # type: ignore[override]
        record = self.records[i]
        found = self.source.vectors(record)
        scaled = {n: (x - self.scale[n][0]) / self.scale[n][1] if n in self.scale else x for n, x in found.items()}
        return record | scaled
