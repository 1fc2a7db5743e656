"""A source in which only part of the training records is paired."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmrep.data.columns import Record
from mmrep.errors import ConfigError


@dataclass(frozen=True)
class SemiPaired:
    """`source` whose training records keep both of `fields` in a share `paired`; each other record keeps one, in turn, and zeros for the other.

    Records also hold present float32 [2], 1 for each field that is observed. Validation and test records are whole. Which are paired depends
    on `seed` and the number of records.
    """

    source: Any
    fields: tuple[str, str] = ("image", "text")
    paired: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if len({*self.fields}) != 2 or not 0 <= self.paired <= 1:
            raise ConfigError(f"SemiPaired: fields {self.fields} must be two, paired {self.paired} in [0, 1]")

    def open(self, split: str) -> "SemiPairedRecords":
        records = self.source.open(split)
        share = self.paired if split == "train" else 1.0
        return SemiPairedRecords(records, present(len(records), share, self.seed), self)

    def texts(self, split: str) -> Iterator[str]:
        return self.source.texts(split)

    def view(self, record: Record, rng: np.random.Generator | None) -> Record:
        shown = dict(self.source.view(record["record"], rng))
        for name, there in zip(self.fields, record["present"]):
            if not there:
                shown[name] = np.zeros_like(shown[name])
        return shown | {"present": record["present"]}


class SemiPairedRecords(Sequence[Record]):
    def __init__(self, records: Sequence[Any], here: np.ndarray, data: SemiPaired) -> None:
        self.records, self.here, self.data = records, here, data

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, i: int) -> Record:  # type: ignore[override]
        return {"record": self.records[i], "present": self.here[i]}


def present(n: int, paired: float, seed: int) -> np.ndarray:
    """float32 [n, 2]: a random share `paired` of rows has both, the others the first or the second in turn."""
    order, both = np.random.default_rng(seed).permutation(n), round(paired * n)
    found = np.ones((n, 2), np.float32)
    found[order[both::2], 1] = 0.0
    found[order[both + 1 :: 2], 0] = 0.0
    return found
