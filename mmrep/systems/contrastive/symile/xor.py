"""Triples of bit vectors that only all three together determine: pure synergy with an exact truth (Saporta et al. 2024, section 5.1)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmrep.data import splits
from mmrep.errors import ConfigError, DataError

Record = dict[str, Any]


@dataclass(frozen=True)
class XorData:
    """a, b fair bits; c = a XOR b with probability p, else c = a: one draw a triple, over all `bits` at once.

    Records: a, b, c float32 [bits + 1], the bits and a constant 1, so that a linear map of them has a bias;
    a_id, b_id, c_id int32, the bits read as a number in [0, 2^bits).
    p = 1: any two are independent, any two determine the third.   p = 0: c is a copy of a, and nothing tells b.
    """

    n_train: int = 10_000
    n_val: int = 1000
    n_test: int = 5000
    bits: int = 3
    p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.0 <= self.p <= 1.0:
            raise ConfigError(f"p is {self.p}: it is a probability, in [0, 1]")
        if not 1 <= self.bits <= 20:
            raise ConfigError(f"bits is {self.bits}: it must lie in [1, 20]")

    def open(self, split: str) -> "Columns":
        splits.check(split)
        n = getattr(self, f"n_{split}")
        if n < 1:
            raise DataError(f"split {split!r} is empty: set n_{split} to 1 or more")
        rng = np.random.default_rng((self.seed, splits.NAMES.index(split)))
        a, b = rng.integers(0, 2, (2, n, self.bits))
        c = np.where(rng.random((n, 1)) < self.p, a ^ b, a)
        columns = {}
        for name, bits in (("a", a), ("b", b), ("c", c)):
            columns[name] = np.concatenate([bits, np.ones((n, 1), bits.dtype)], 1).astype(np.float32)
            columns[f"{name}_id"] = (bits @ (1 << np.arange(self.bits))).astype(np.int32)
        return Columns(columns)

    def texts(self, split: str) -> Iterator[str]:
        return iter(())

    def view(self, record: Record, rng: np.random.Generator | None) -> Record:
        return record


class Columns(Sequence[Record]):
    """Records kept as columns, arrays or lists whose first axis is the record."""

    def __init__(self, columns: Mapping[str, Any]) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, i: int) -> Record:  # type: ignore[override]
        if not -len(self) <= i < len(self):
            raise IndexError(f"record {i} of {len(self)}")
        return {name: column[i] for name, column in self.columns.items()}
