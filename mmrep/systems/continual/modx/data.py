"""One domain of a stream, with the tokenizer of all."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmrep.data.scenes import Joint


@dataclass(frozen=True)
class Domain:
    """One source of a `Joint`, with the texts of all: an experiment fits the same tokenizer whichever phases of the stream it has."""

    stream: Joint
    index: int

    def open(self, split: str) -> Sequence[dict[str, Any]]:
        return self.stream.sources[self.index].open(split)

    def texts(self, split: str) -> Iterator[str]:
        return self.stream.texts(split)

    def view(self, record: dict[str, Any], rng: np.random.Generator | None) -> dict[str, Any]:
        return self.stream.sources[self.index].view(record, rng)
