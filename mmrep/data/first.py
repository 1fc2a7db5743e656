"""The first records of a source, to overfit on purpose."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mmrep.config import Experiment
from mmrep.data.pipeline import Records
from mmrep.errors import ConfigError


@dataclass(frozen=True)
class First:
    """The first `n` training records of `source`, in their evaluation view: without augmentation, and with the first of several captions.

    The other splits are those of `source`. Raises ConfigError where n is below 1 or above the number of training records.
    """

    source: Any
    n: int

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ConfigError(f"First.n is {self.n}: give at least 1")

    def open(self, split: str) -> Records:
        records = self.source.open(split)
        return FirstRecords(records, self.n) if split == "train" else records

    def texts(self, split: str) -> Iterator[str]:
        yield from self.source.texts(split)

    def view(self, record: Any, rng: np.random.Generator | None) -> Any:
        return self.source.view(record, None)


class FirstRecords:
    def __init__(self, records: Records, n: int) -> None:
        if n > len(records):
            raise ConfigError(f"data.batch_size is {n}, but there are {len(records)} training records: lower it")
        self.records, self.n = records, n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> Any:
        return self.records[range(self.n)[i]]


def one_batch(experiment: Experiment) -> Experiment:
    """`experiment` whose every step sees the same batch of each phase's source, without augmentation, and which evaluates nothing.

    A model whose loss does not fall far below its first value here has an error, whatever the data.
    """
    data, n = experiment.data, experiment.data.batch_size
    plain = tuple(replace(m, augment=()) for m in data.modalities)
    phases = tuple(replace(p, data=First(p.data, n)) if p.data is not None else p for p in experiment.phases)
    data = replace(data, source=First(data.source, n), modalities=plain)
    return replace(experiment, data=data, phases=phases, evals=(), train=replace(experiment.train, log_every=1))
