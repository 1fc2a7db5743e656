"""Pictures described by a class name or by a caption."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from mmrep.data.pipeline import Records
from mmrep.data.scenes.world import keys, uniform
from mmrep.errors import ConfigError, DataError

TEMPLATES = ("a photo of the {}", "a picture of a {}", "an image of the {}", "a {}", "the {}", "one {} here")


@dataclass(frozen=True)
class Descriptions:
    """The records of `source`, some training records described by the name of their class in place of their text.

    Records get `named` int32: the class where the text is its name, the number of `names` elsewhere.

    text, label: record fields.   names: of the classes in the order of their ids; empty: no text is replaced.
    by_name:   classes whose training records have their name alone.   share: of all training records that have, chosen by a hash.
    keep:      of the training records "all", those with "names", or the "natural" descriptions: not by name, more than `short` words.
               It reads every record once, unless `share` alone decides.
    templates: in training a text of at most `short` words is put into one of these, drawn anew each time (not where keep is "natural").
    Raises ConfigError for classes that have no name, DataError where nothing is kept.
    """

    source: Any
    text: str = "text"
    label: str = ""
    names: tuple[str, ...] = ()
    by_name: tuple[int, ...] = ()
    share: float = 0.0
    keep: Literal["all", "names", "natural"] = "all"
    templates: tuple[str, ...] = TEMPLATES
    short: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        if self.keep not in ("all", "names", "natural"):
            raise ConfigError(f"keep is {self.keep!r}: choose all, names or natural")
        if (self.by_name or self.share) and not (self.names and self.label):
            raise ConfigError("by_name or share is set: give names and label, the record field of the class")
        if not 0 <= self.share <= 1 or any(not 0 <= k < len(self.names) for k in self.by_name):
            raise ConfigError(
                f"share is {self.share} and by_name {self.by_name}: a share, and ids of the {len(self.names)} names"
            )

    def open(self, split: str) -> Records:
        records = self.source.open(split)
        return Described(self, records, split == "train")

    def texts(self, split: str) -> Iterator[str]:
        yield from self.source.texts(split)
        yield from self.names
        yield from (t.format(self.names[0] if self.names else "thing") for t in self.templates)

    def view(self, record: Any, rng: np.random.Generator | None) -> Any:
        record = self.source.view(record, rng)
        short = len(str(record[self.text]).split()) <= self.short
        if rng is None or not self.templates or self.keep == "natural" or not short:
            return record
        return {**record, self.text: self.templates[rng.integers(len(self.templates))].format(record[self.text])}


class Described(Sequence[Any]):
    def __init__(self, data: Descriptions, records: Records, train: bool) -> None:
        self.data, self.records, self.train = data, records, train
        self.hashed = uniform(keys(data.seed, np.arange(len(records))), "described") < data.share
        self.rows = np.arange(len(records))
        if train and data.keep != "all":
            self.rows = np.flatnonzero([self._kept(i) for i in range(len(records))])
            if not len(self.rows):
                raise DataError(f"keep is {data.keep!r}: none of {len(records)} training records is left")

    def _kept(self, i: int) -> bool:
        data = self.data
        if data.keep == "names" and data.share and not data.by_name:
            return bool(self.hashed[i])
        record: Mapping[str, Any] = self.records[i]
        named = self._by_name(i, record)
        if data.keep == "names":
            return named
        value = record[data.text]
        first = value[0] if isinstance(value, tuple) else value
        return not named and len(str(first).split()) > data.short

    def _by_name(self, i: int, record: Mapping[str, Any]) -> bool:
        return self.train and bool(
            self.hashed[i] or (self.data.by_name and int(record[self.data.label]) in self.data.by_name)
        )

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> Any:  # type: ignore[override]
        i = int(self.rows[i])
        data, record = self.data, self.records[i]
        if not self._by_name(i, record):
            return {**record, "named": np.int32(len(data.names))}
        label = int(record[data.label])
        return {**record, data.text: data.names[label], "named": np.int32(label)}
