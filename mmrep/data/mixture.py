"""Training on data sets that own different modalities or annotations: drawn by weights, or alike whatever their sizes."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from mmrep.data.scenes.world import keys, uniform
from mmrep.errors import ConfigError


@dataclass(frozen=True)
class Group:
    """A data set in the mixture: which of the streams its records own, and how often it is drawn."""

    owns: tuple[str, ...]
    weight: float


@dataclass(frozen=True)
class CoTraining:
    """One source read as several data sets (4M-21, multi-dataset co-training): each training record belongs to a group and shows `present`, which streams that group owns.

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
        _check_owns("co-training group", self.streams, [g.owns for g in self.groups])

    def open(self, split: str) -> "CoTrainingRecords":
        return CoTrainingRecords(self, self.source.open(split), split == "train")

    def texts(self, split: str) -> Iterator[str]:
        yield from self.source.texts(split)

    def view(self, record: Any, rng: np.random.Generator | None) -> Any:
        return self.source.view(record, rng)


class CoTrainingRecords(Sequence[Any]):
    def __init__(self, data: CoTraining, records: Sequence[Any], train: bool) -> None:
        self.records = records
        rows = _rows(data.streams, [g.owns for g in data.groups])
        share = np.cumsum([g.weight for g in data.groups]) / sum(g.weight for g in data.groups)
        draw = uniform(keys(data.seed, np.arange(len(records))), "group")
        group = np.minimum(np.searchsorted(share, draw, side="right"), len(data.groups) - 1)
        self.present = rows[group] if train else np.ones((len(records), len(data.streams)), np.float32)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, i: int) -> Any:  # type: ignore[override]
        return self.records[i] | {"present": self.present[i]}


def _check_owns(what: str, streams: Sequence[str], owned: Iterable[Sequence[str]]) -> None:
    for owns in owned:
        if not owns or any(n not in streams for n in owns):
            raise ConfigError(f"{what} {tuple(owns)} must own some of the streams {', '.join(streams)}")


def _rows(streams: Sequence[str], owned: Iterable[Sequence[str]]) -> Float[np.ndarray, "G S"]:
    """`present` of each group."""
    return np.array([[float(s in owns) for s in streams] for owns in owned], np.float32)


@dataclass(frozen=True)
class Part:
    """A data set of a multi-task mixture: which of the streams its records own, and how many of the source's records it has."""

    owns: tuple[str, ...]
    records: int


@dataclass(frozen=True)
class Balanced:
    """One source read as several data sets of given sizes, e.g. one a task; records get `present` as in CoTraining.

    parts:   in order; each has its own training records, chosen once for all by `seed`.
    balance: True draws the parts alike, so that the records of a small one come more often (a batch may hold one twice); False draws
             every record alike, so each part by its size (UnIVAL's task balancing, Shukor et al. 2023, section 3).
    Evaluation splits own everything. Raises ConfigError where the source has fewer training records than the parts together.
    """

    source: Any
    streams: tuple[str, ...]
    parts: tuple[Part, ...]
    balance: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.parts or any(p.records < 1 for p in self.parts):
            raise ConfigError("balanced parts: give at least one, each with at least 1 record")
        _check_owns("balanced part", self.streams, [p.owns for p in self.parts])

    def open(self, split: str) -> "BalancedRecords":
        return BalancedRecords(self, self.source.open(split), split == "train")

    def texts(self, split: str) -> Iterator[str]:
        yield from self.source.texts(split)

    def view(self, record: Any, rng: np.random.Generator | None) -> Any:
        return self.source.view(record, rng)


class BalancedRecords(Sequence[Any]):
    """`at` [n]: the source's record of each place; `part` [n]: its part, -1 in evaluation."""

    def __init__(self, data: Balanced, records: Sequence[Any], train: bool) -> None:
        self.records = records
        self.present = np.concatenate(
            [_rows(data.streams, [p.owns for p in data.parts]), np.ones((1, len(data.streams)), np.float32)]
        )
        sizes = [p.records for p in data.parts]
        if not train:
            self.at, self.part = np.arange(len(records)), np.full(len(records), -1)
            return
        if sum(sizes) > len(records):
            raise ConfigError(
                f"balanced parts have {sum(sizes)} records together, but the source has {len(records)} for training: lower them"
            )
        order = np.random.default_rng(data.seed).permutation(len(records))
        own = np.split(order[: sum(sizes)], np.cumsum(sizes)[:-1])
        if data.balance:
            own = [np.resize(places, max(sizes)) for places in own]  # repeats a smaller part
        self.at = np.concatenate(own)
        self.part = np.repeat(np.arange(len(own)), [len(places) for places in own])

    def __len__(self) -> int:
        return len(self.at)

    def __getitem__(self, i: int) -> Any:  # type: ignore[override]
        return self.records[int(self.at[i])] | {"present": self.present[self.part[i]]}
