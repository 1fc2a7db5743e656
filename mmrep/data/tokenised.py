"""Records with the ids that a trained tokeniser gave to them beforehand (`python -m experiments.tokenize`)."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Integer

from mmrep.config import to_json
from mmrep.data.contents import contents, difference
from mmrep.errors import ConfigError, DataError

Record = Mapping[str, Any]
ABOUT = "about.json"


@dataclass(frozen=True)
class Tokenised:
    """`source` whose records also hold `field`: a map of ids, read from `folder`.

    The ids belong to records without augmentation: a source that crops or mirrors belongs in the tokeniser's run, not here.
    Raises DataError where the folder lacks a split, or was written for other data.
    """

    source: Any
    field: str
    folder: str

    def __post_init__(self) -> None:
        if not self.field or not self.folder:
            raise ConfigError("Tokenised: field and folder must not be empty")

    def open(self, split: str) -> "TokenisedRecords":
        folder, path = Path(self.folder), Path(self.folder) / f"{split}.npy"
        hint = "write it with python -m experiments.tokenize"
        if not (folder / ABOUT).exists() or not path.exists():
            raise DataError(f"{path}: there are no tokens of {self.field!r}: {hint}")
        written = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        records = self.source.open(split)
        if written["source"] != as_json(self.source):
            raise DataError(f"{folder} holds tokens of other data than data.source: {hint} again")
        found = TokenisedRecords(self.field, path, records)
        now = contents(records)
        if changed := difference(written.get("contents", {}).get(split, now), now):
            raise DataError(f"split {split!r} has changed since {folder} was written (it had {changed}): {hint} again")
        if len(found.ids) != len(records):
            raise DataError(f"{path} has {len(found.ids)} rows for {len(records)} records: {hint} again")
        return found

    def texts(self, split: str) -> Iterator[str]:
        return self.source.texts(split)

    def view(self, record: Record, rng: np.random.Generator | None) -> Record:
        return self.source.view(record, rng)


class TokenisedRecords(Sequence[Record]):
    """Opens its file on first use, once in each data worker."""

    def __init__(self, field: str, path: Path, records: Sequence[Record]) -> None:
        self.field, self.path, self.records = field, path, records

    @cached_property
    def ids(self) -> Integer[np.ndarray, "N *place"]:
        return np.load(self.path, mmap_mode="r", allow_pickle=False)

    def digest(self) -> str:
        """Of the records and of the description of their tokens."""
        about = (self.path.parent / ABOUT).read_bytes()
        return hashlib.sha256(about + contents(self.records)["digest"].encode()).hexdigest()[:16]

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "ids"}

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, i: int) -> Record:  # type: ignore[override]
        return {**self.records[i], self.field: np.asarray(self.ids[i]).astype(np.int32)}


def within(source: Any) -> Iterator[Tokenised]:
    """Every Tokenised of a source that wraps others."""
    while source is not None:
        if isinstance(source, Tokenised):
            yield source
        source = getattr(source, "source", None)


def as_json(source: Any) -> Any:
    """A source as JSON, for comparing it with a stored one."""
    return json.loads(json.dumps(to_json(source)))
