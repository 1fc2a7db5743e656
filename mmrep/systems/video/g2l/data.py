"""Videos in which an event recurs and one occurrence is annotated."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from mmrep.data import splits
from mmrep.data.columns import Columns, Record
from mmrep.errors import ConfigError

EVENTS = ("jump", "turn", "wave", "fall", "throw", "catch", "climb", "sit", "push", "pull", "spin", "bow")


@dataclass(frozen=True)
class RepeatedData:
    """Clips of a video as noisy codes that drift with time; one event occurs 3 times among `segments`, and a sentence names it.

    Records: video float32 [segments * clips, dim]; sentence: a list of one text; moment float32 [1, 2], the annotated occurrence, in shares of
    the video; others float32 [2, 2], the other occurrences; occurrences float32 [3, 2], all.
    clips: of a segment.   dim: numbers of a clip.
    annotated: in training, "first" occurrence (a bias that the drift lets a model learn) or "any". In val and test it is the first.
    """

    n_train: int = 800
    n_val: int = 100
    n_test: int = 300
    segments: int = 8
    clips: int = 2
    dim: int = 32
    annotated: Literal["first", "any"] = "first"
    drift: float = 2.0
    noise: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        if not 3 <= self.segments <= 14:
            raise ConfigError(f"segments is {self.segments}: give 3 to 14")
        if self.annotated not in ("first", "any"):
            raise ConfigError(f"annotated is {self.annotated!r}: choose first or any")

    def open(self, split: str) -> Columns:
        n, rng = splits.size(self, split), np.random.default_rng((self.seed, splits.NAMES.index(split)))
        fixed = np.random.default_rng((self.seed, 9))
        codes, drift = fixed.standard_normal((len(EVENTS), self.dim)), fixed.standard_normal(self.dim)
        event = rng.integers(0, len(EVENTS), n)
        where = np.sort(rng.random((n, self.segments)).argsort(1)[:, :3], 1)
        # Each other segment shows an event of its own.
        others = rng.random((n, len(EVENTS)))
        others[np.arange(n), event] = 2.0
        kinds = others.argsort(1)[:, : self.segments]
        if self.segments >= len(EVENTS):
            kinds = (event[:, None] + 1 + rng.integers(0, len(EVENTS) - 1, (n, self.segments))) % len(EVENTS)
        np.put_along_axis(kinds, where, event[:, None], 1)
        t = np.linspace(0, 1, self.segments * self.clips)[:, None]
        video = np.repeat(codes[kinds], self.clips, axis=1) + self.drift * t * drift
        video = video + self.noise * rng.standard_normal(video.shape)
        spans = np.stack([where, where + 1], -1).astype(np.float32) / self.segments
        chosen = rng.integers(0, 3, n) if split == "train" and self.annotated == "any" else np.zeros(n, np.int64)
        rest = np.stack([np.delete(s, c, 0) for s, c in zip(spans, chosen)])
        return Columns({
            "video": video.astype(np.float32), "sentence": [[f"a person does a {EVENTS[e]}"] for e in event],
            "moment": spans[np.arange(n), chosen][:, None], "others": rest, "occurrences": spans,
        })  # fmt: skip

    def texts(self, split: str) -> Iterator[str]:
        return (text for row in self.open(split).columns["sentence"] for text in row)

    def view(self, record: Record, rng: np.random.Generator | None) -> dict[str, Any]:
        return record
