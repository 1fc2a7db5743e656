"""Whether the text attends to the frames that it is about."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmrep.evals import checks
from mmrep.model import Model


@dataclass(frozen=True)
class FrameAttention:
    """The attention that a video's own text pays to the frames of the event it describes, over their share of the frames; chance is 1.

    event: a record field with the number of the event told.   frame_event: one with the number of the event of each frame.
    sound: an infer function of the attention to the parts of the sound, shown on the report page below that to the frames.
    """

    event: str = "event"
    frame_event: str = "frame_event"
    sound: str = ""
    split: str = "test"
    name: str = "attention"

    def check(self, names: Sequence[str], split: checks.Open) -> None:
        """Raises ConfigError for a system without attention, or records without the fields."""
        for function in ("attention", *[self.sound] * bool(self.sound)):
            checks.functions(names, FrameAttention=function)
        checks.fields(split(self.split), [self.event, self.frame_event])

    def run(self, model: Model) -> dict[str, float]:
        weights = model.embed_split("attention", self.split)
        told = np.asarray(model.column(self.event, self.split))[:, None]
        about = np.asarray(model.column(self.frame_event, self.split)) == told
        return {f"{self.name} over even": float(np.mean((weights * about).sum(1) / about.mean(1)))}
