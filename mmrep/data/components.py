"""Vector fields of a source as their principal components, for linear heads and closed forms on fixed features."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Float

from mmrep.data import splits
from mmrep.data.columns import Columns, Record
from mmrep.errors import ConfigError, DataError


@dataclass(frozen=True)
class Components:
    """`source` with each of `fields`, float32 [D], replaced by its first `k` principal components, float32 [k].

    Axes and means are those of the training split alone. One factor a field makes the mean variance of its components 1 there: angles and
    shares of variance stay as they are. Augmentation of the source does not apply: fields are those of the evaluation view, computed once a process.
    """

    source: Any
    fields: tuple[str, ...]
    k: int = 128

    def __post_init__(self) -> None:
        if self.k < 1 or not self.fields:
            raise ConfigError(
                f"Components: fields is {self.fields} and k {self.k}: name one field or more, and give k of 1 or more"
            )

    def open(self, split: str) -> Sequence[Record]:
        return _records(self, split)

    def texts(self, split: str) -> Iterator[str]:
        return self.source.texts(split)

    def view(self, record: Record, rng: np.random.Generator | None) -> Record:
        return record


def principal(x: Float[np.ndarray, "N D"], k: int) -> tuple[Float[np.ndarray, " D"], Float[np.ndarray, "D k"]]:
    """(mean, axes) of the rows: (x - mean) axes are their k principal components, of mean variance 1."""
    x = np.asarray(x, np.float64)
    mean = x.mean(0)
    _, values, axes = np.linalg.svd(x - mean, full_matrices=False)
    scale = np.sqrt((values[:k] ** 2).mean() / len(x))
    return mean, axes[:k].T / max(scale, 1e-12)


@lru_cache(maxsize=4)
def _fitted(source: Components) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    found = {}
    for name, rows in _columns(source, "train").items():
        if min(rows.shape) < source.k:
            n, d = rows.shape
            raise ConfigError(
                f"Components.k is {source.k}: {name!r} has {d} numbers in {n} training records, and no more components"
            )
        found[name] = principal(rows, source.k)
    return found


def _columns(source: Components, split: str) -> dict[str, np.ndarray]:
    shown = [source.source.view(record, None) for record in source.source.open(split)]
    missing = [name for name in source.fields if name not in shown[0]]
    if missing:
        raise DataError(
            f"Components.fields names {missing[0]!r}, which records lack; they have {', '.join(sorted(shown[0]))}"
        )
    return {name: np.stack([np.asarray(s[name], np.float64) for s in shown]) for name in source.fields}


@lru_cache(maxsize=12)
def _records(source: Components, split: str) -> Columns:
    splits.check(split)
    shown = [source.source.view(record, None) for record in source.source.open(split)]
    columns: dict[str, Any] = {name: [s[name] for s in shown] for name in shown[0]}
    fitted = _fitted(source)
    for name, rows in _columns(source, split).items():
        mean, axes = fitted[name]
        columns[name] = ((rows - mean) @ axes).astype(np.float32)
    return Columns(columns)
