"""Co-training on data sets that own different modalities (4M-21, section on multi-dataset co-training)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmrep.data.scenes.world import keys, uniform
from mmrep.errors import ConfigError


@dataclass(frozen=True)
class Group:
    """A data set in the mixture: which of the streams its records own, and how often it is drawn."""

    owns: tuple[str, ...]
    weight: float


@dataclass(frozen=True)
class CoTraining:
    """One source read as several data sets: each training record belongs to a group and shows `present`, which streams that group owns.

    Records get present: float32 [streams], 1 where owned; an absent stream neither goes in nor is predicted. Weights need not sum to 1.
    A record's group is a hash of its number; evaluation splits own everything.
    """

    source: Any
    streams: tuple[str, ...]
    groups: tuple[Group, ...]
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.groups or any(g.weight <= 0 for g in self.groups):
            raise ConfigError("co-training groups: give at least one, each with a positive weight")
        for g in self.groups:
            unknown = [n for n in g.owns if n not in self.streams]
            if unknown or not g.owns:
                raise ConfigError(f"co-training group {g.owns} must own some of the streams {', '.join(self.streams)}")

    def open(self, split: str) -> "CoTrainingRecords":
        return CoTrainingRecords(self, self.source.open(split), split == "train")

    def texts(self, split: str) -> Iterator[str]:
        yield from self.source.texts(split)

    def view(self, record: Any, rng: np.random.Generator | None) -> Any:
        return self.source.view(record, rng)


class CoTrainingRecords(Sequence[Any]):
    def __init__(self, data: CoTraining, records: Sequence[Any], train: bool) -> None:
        self.records = records
        rows = np.array([[float(s in g.owns) for s in data.streams] for g in data.groups], np.float32)
        share = np.cumsum([g.weight for g in data.groups]) / sum(g.weight for g in data.groups)
        draw = uniform(keys(data.seed, np.arange(len(records))), "group")
        group = np.minimum(np.searchsorted(share, draw, side="right"), len(data.groups) - 1)
        self.present = rows[group] if train else np.ones((len(records), len(data.streams)), np.float32)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, i: int) -> Any:  # type: ignore[override]
        return self.records[i] | {"present": self.present[i]}
