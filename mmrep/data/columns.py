"""Records kept as columns, for sources that are computed: all at once, or block by block."""

import threading
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

Record = dict[str, Any]
BLOCK = 256


class Columns(Sequence[Record]):
    """Random access to records stored as {field: array or list whose first axis is the record}."""

    def __init__(self, columns: Mapping[str, Any]) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, i: int) -> Record:  # type: ignore[override]
        if not -len(self) <= i < len(self):
            raise IndexError(f"record {i} of {len(self)}")
        return {name: column[i] for name, column in self.columns.items()}


@runtime_checkable
class Computed(Protocol):
    """A source that computes the records at `rows` (positions in the split) as {field: array or list whose first axis is the record}."""

    def columns(self, split: str, rows: np.ndarray) -> dict[str, Any]: ...


class Blocks(Sequence[Record]):
    """Random access to a split of a computed source; a block is computed at the first touch and kept. Thread-safe; pickled without blocks."""

    def __init__(self, data: Computed, split: str, length: int) -> None:
        self.data, self.split, self.length = data, split, length
        self._blocks: dict[int, dict[str, Any]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, i: int) -> Record:  # type: ignore[override]
        if not -self.length <= i < self.length:
            raise IndexError(f"record {i} of {self.length}")
        i = int(i) % self.length
        block = self._block(i // BLOCK)
        return {name: column[i % BLOCK] for name, column in block.items()}

    def class_names(self, field: str) -> tuple[str, ...]:
        """The vocabulary of a label, in the order of its ids; empty where the source has none."""
        names = getattr(self.data, "class_names", None)
        return () if names is None else names(field)

    def truth(self) -> np.ndarray | None:
        """The source's boolean matrix of true pairs of this split (see `mmrep.evals.suite.Retrieval`); None where it has none."""
        matrix = getattr(self.data, "truth", None)
        return None if matrix is None else matrix(self.split)

    def _block(self, b: int) -> dict[str, Any]:
        if b not in self._blocks:
            with self._lock:
                if b not in self._blocks:
                    rows = np.arange(b * BLOCK, min((b + 1) * BLOCK, self.length))
                    self._blocks[b] = self.data.columns(self.split, rows)
        return self._blocks[b]

    def __reduce__(self) -> Any:
        return Blocks, (self.data, self.split, self.length)
