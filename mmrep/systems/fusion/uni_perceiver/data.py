"""A source whose records hold the names of all classes, the candidates of classification."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmrep.errors import ConfigError


@dataclass(frozen=True)
class Named:
    """`source` with a field names, the list of the classes' names in the order of their ids. Raises ConfigError for a name given twice."""

    source: Any
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if len({n.strip().lower() for n in self.names}) < max(len(self.names), 2):
            raise ConfigError(f"names is {self.names}: give two or more, each once; equal candidates tie")

    def open(self, split: str) -> Any:
        return self.source.open(split)

    def texts(self, split: str) -> Iterator[str]:
        yield from self.names
        yield from self.source.texts(split)

    def view(self, record: Any, rng: np.random.Generator | None) -> Any:
        return dict(self.source.view(record, rng)) | {"names": list(self.names)}
