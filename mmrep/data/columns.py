"""Records kept as columns, for sources that are computed at once."""

from collections.abc import Mapping, Sequence
from typing import Any

Record = dict[str, Any]


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
