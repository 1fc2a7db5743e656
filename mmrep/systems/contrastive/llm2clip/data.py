"""Pictures with a short and a long caption, and records with vectors that `experiments.embed` has written."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from mmrep.data.contents import contents, difference
from mmrep.data.pipeline import Records
from mmrep.errors import ConfigError, DataError

Record = Mapping[str, Any]


@dataclass(frozen=True)
class TwoCaptions:
    """`source` whose records also hold `long`: the `text` of the same record of another source, such as scenes of the same seed in more words.

    instructions: the fields `instruction` and `long_instruction`: with them a short caption is to find the long one, and the reverse.
    """

    source: Any
    other: Any
    text: str = "text"
    instructions: tuple[str, str] = ("retrieve a detailed sentence", "retrieve a short sentence")

    def open(self, split: str) -> "Pairs":
        records, others = self.source.open(split), self.other.open(split)
        if len(records) != len(others):
            raise DataError(
                f"split {split!r} has {len(records)} records with short and {len(others)} with long captions: make them equal"
            )
        return Pairs(records, others)

    def texts(self, split: str) -> Iterator[str]:
        yield from self.instructions
        yield from self.source.texts(split)
        yield from self.other.texts(split)

    def view(self, record: Record, rng: np.random.Generator | None) -> Record:
        first, second = (s.view(r, rng) for s, r in zip((self.source, self.other), record["pair"]))
        told = dict(zip(("instruction", "long_instruction"), self.instructions))
        return {**first, "long": second[self.text], **told}


class Pairs(Sequence[Record]):
    def __init__(self, records: Records, others: Records) -> None:
        self.records, self.others = records, others

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, i: int) -> Record:  # type: ignore[override]
        return {"pair": (self.records[i], self.others[i])}


@dataclass(frozen=True)
class Embedded:
    """`source` whose records also hold vectors, float32: for each (field, folder) that of the record's own number in folder/<split>.

    Write the folders with `python -m experiments.embed SLUG --modality text_sentence --split train --out folder/train`.
    Raises DataError where a folder has no vectors, or those of other data; a record without vector is a bad one.
    """

    source: Any
    folders: tuple[tuple[str, str], ...]

    def __post_init__(self) -> None:
        if not self.folders or not all(field and folder for field, folder in self.folders):
            raise ConfigError(f"Embedded.folders is {self.folders}: give (field, folder) pairs")

    def open(self, split: str) -> "Vectors":
        records, places = self.source.open(split), {}
        for field, folder in self.folders:
            place = Path(folder) / split
            try:
                about = json.loads((place / "corpus.json").read_text(encoding="utf-8"))
            except (OSError, ValueError):
                raise DataError(
                    f"{place} has no vectors of {field!r}: write them with python -m experiments.embed"
                ) from None
            now = contents(records)
            if about["split"] != split or (changed := difference(about.get("contents", now), now)):
                other = f"split {about['split']!r}" if about["split"] != split else f"{changed}"
                raise DataError(f"{place} holds vectors of other data ({other}): embed it again")
            places[field] = place
        return Vectors(records, places)

    def texts(self, split: str) -> Iterator[str]:
        return self.source.texts(split)

    def view(self, record: Record, rng: np.random.Generator | None) -> Record:
        return {**self.source.view(record["record"], rng), **record["vectors"]}


class Vectors(Sequence[Record]):
    """Opens the files on first use, once in each data worker."""

    def __init__(self, records: Records, places: Mapping[str, Path]) -> None:
        self.records, self.places = records, places

    @cached_property
    def stored(self) -> dict[str, tuple[Int[np.ndarray, " N"], list[Any]]]:
        """{field: (place of each record's vector in the shards one after the other, -1 without; the shards)}."""
        found = {}
        for field, place in self.places.items():
            ids = np.concatenate([np.load(p, allow_pickle=False) for p in sorted(place.glob("ids-*.npy"))])
            at = np.full(len(self.records), -1)
            at[ids] = np.arange(len(ids))
            shards = [np.load(p, mmap_mode="r", allow_pickle=False) for p in sorted(place.glob("embeddings-*.npy"))]
            found[field] = at, shards
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "stored"}

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, i: int) -> Record:  # type: ignore[override]
        return {"record": self.records[i], "vectors": {field: self.vector(field, i) for field in self.places}}

    def vector(self, field: str, i: int) -> Float[np.ndarray, " D"]:
        at, shards = self.stored[field]
        k = int(at[i])
        if k < 0:
            raise DataError(f"{self.places[field]} has no vector of record {i}")
        for shard in shards:
            if k < len(shard):
                return np.asarray(shard[k], np.float32)
            k -= len(shard)
        raise DataError(f"{self.places[field]} lacks shards: the same experiments.embed command goes on there")
