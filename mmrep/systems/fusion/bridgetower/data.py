"""Made levels of an image encoder, each with the values of one factor, and questions about them."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mmrep.data import splits
from mmrep.data.columns import Columns, Record
from mmrep.errors import ConfigError


@dataclass(frozen=True)
class LevelsData:
    """`objects` objects with a value of each of `levels` factors, in the place of the blocks of a trained encoder.

    levels float32 [levels, objects, dim]: in level k the codes of factor k's values, each with the code of its place, plus noise; with
    `last_has_all` the last level has those of all factors. text str: "factor1 of place2"; answer int32: 1 + the value;
    reply int32: the value; level int32: the factor that is asked.
    """

    n_train: int = 8000
    n_val: int = 500
    n_test: int = 1000
    levels: int = 3
    objects: int = 4
    values: int = 6
    dim: int = 32
    noise: float = 0.3
    last_has_all: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.levels, self.objects, self.values, self.dim) < 1 or self.noise < 0:
            raise ConfigError("levels, objects, values and dim must be at least 1, and noise at least 0")

    def open(self, split: str) -> Columns:
        n = splits.size(self, split)
        rng = np.random.default_rng((self.seed, splits.NAMES.index(split)))
        world = np.random.default_rng((self.seed, 9))
        codes = world.standard_normal((self.levels, self.values, self.dim))
        places = world.standard_normal((self.objects, self.dim))
        value = rng.integers(0, self.values, (n, self.levels, self.objects))
        coded = codes[np.arange(self.levels)[:, None], value]
        if self.last_has_all:
            coded[:, -1] = coded.sum(1)
        found = coded + places + self.noise * rng.standard_normal(coded.shape)
        level, place = rng.integers(0, self.levels, n), rng.integers(0, self.objects, n)
        reply = value[np.arange(n), level, place]
        return Columns({
            "levels": found.astype(np.float32), "text": [self.ask(*pair) for pair in zip(level.tolist(), place.tolist())],
            "answer": (reply + 1).astype(np.int32), "reply": reply.astype(np.int32), "level": level.astype(np.int32),
        })  # fmt: skip

    def ask(self, level: int, place: int) -> str:
        return f"factor{level} of place{place}"

    def texts(self, split: str) -> Iterator[str]:
        return (self.ask(k, i) for k in range(self.levels) for i in range(self.objects))

    def view(self, record: Record, rng: np.random.Generator | None) -> Record:
        return record
