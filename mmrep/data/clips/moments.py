"""Records made of clips: videos with labelled moments, or with captions of frames in the place of labels; single frames."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from mmrep.data import splits
from mmrep.data.clips import ClipData, ClipSpec
from mmrep.data.columns import Columns, Record
from mmrep.errors import ConfigError

QUERIES = ("labels", "captions", "shuffled", "blind")
SPEC = ClipSpec(24, 4, shortest=3, shapes=6, colours=4, verbs=4, frame_noise=0.3)


@dataclass(frozen=True)
class MomentData:
    """Synthetic clips of several events as codes (see `mmrep.data.clips`), and a text that describes one of the events.

    Records: video float32 [T, dim]; text; moment float32 [1, 2], start and end in [0, 1]; saliency float32 [T] in [0, 1], 0 outside the
    moment and growing from 1/3 at its ends to 1 at its middle.
    queries: "labels": the event's text and moment.   "captions": in training, pseudo-labels: the caption of a random frame (a share
        spec.frame_noise of captions tells something else), the stretch between the cuts around it, and saliency 1 there.
        "shuffled": the same with the captions of other videos.   "blind": labels, and one and the same text.
    """

    n_train: int = 2000
    n_val: int = 100
    n_test: int = 500
    seed: int = 0
    queries: Literal["labels", "captions", "shuffled", "blind"] = "labels"
    spec: ClipSpec = field(default_factory=lambda: SPEC)
    dim: int = 64
    noise: float = 0.5

    def __post_init__(self) -> None:
        if self.queries not in QUERIES:
            raise ConfigError(f"queries is {self.queries!r}: choose from {', '.join(QUERIES)}")

    def clips(self) -> ClipData:
        return ClipData(
            self.n_train, self.n_val, self.n_test, self.seed, self.spec, ("codes", "clauses", "spans", "frames"), dim=self.dim, noise=self.noise
        )  # fmt: skip

    def open(self, split: str) -> Columns:
        n = splits.size(self, split)
        rng, c = (
            np.random.default_rng((self.seed, splits.NAMES.index(split))),
            self.clips().columns(split, np.arange(n)),
        )
        pseudo = split == "train" and self.queries in ("captions", "shuffled")
        frame = rng.integers(0, self.spec.frames, n)
        event = c["frame_event"][np.arange(n), frame] if pseudo else c["event"]
        moment = c["spans"][np.arange(n), event]
        texts = (
            [c["frame_captions"][i][t] for i, t in enumerate(frame)]
            if pseudo
            else [row[e] for row, e in zip(c["clauses"], event)]
        )
        if self.queries == "blind":
            texts = ["video"] * n
        elif pseudo and self.queries == "shuffled":
            texts = texts[1:] + texts[:1]
        middle = (np.arange(self.spec.frames) + 0.5) / self.spec.frames
        centre, half = moment.mean(1, keepdims=True), 0.5 * (moment[:, 1:] - moment[:, :1])
        near = 1 - np.abs(middle - centre) / half
        saliency = np.where(near > 0, 1.0 if pseudo else np.round(4 + 8 * near) / 12, 0.0)
        return Columns({
            "video": c["codes"], "text": texts, "moment": moment[:, None], "saliency": saliency.astype(np.float32),
        })  # fmt: skip

    def texts(self, split: str) -> Iterator[str]:
        yield "video"
        yield from self.clips().texts(split)

    def view(self, record: Record, rng: np.random.Generator | None) -> dict[str, Any]:
        return record


@dataclass(frozen=True)
class FrameData:
    """Single frames of clips whose sensors have "video": image uint8 [S, S, 3], a frame of each clip, and text, the word for its shape."""

    clips: ClipData

    def open(self, split: str) -> Columns:
        n = splits.size(self.clips, split)
        c = self.clips.columns(split, np.arange(n))
        frame = np.random.default_rng((self.clips.seed, splits.NAMES.index(split))).integers(
            0, self.clips.spec.frames, n
        )
        names = self.clips.class_names("shape")
        return Columns(
            {"image": c["video"][np.arange(n), frame], "text": [names[s] for s in c["shape"]], "shape": c["shape"]}
        )

    def texts(self, split: str) -> Iterator[str]:
        yield from self.clips.class_names("shape")

    def view(self, record: Record, rng: np.random.Generator | None) -> dict[str, Any]:
        return record
