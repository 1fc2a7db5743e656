"""Whether the text attends to the frames that it is about."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

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

    def panels(self, model: Model) -> list[Any]:
        """Some clips with the attention of their text, and the frames of the event it tells."""
        from mmrep.report import strips
        from mmrep.report.panels import Figure

        weights, told = model.embed_split("attention", self.split), model.column(self.event, self.split)
        heard = {"sound": model.embed_split(self.sound, self.split)} if self.sound else {}
        events, shown = model.column(self.frame_event, self.split), []
        for i in strips.chosen(len(weights)):
            about = np.flatnonzero(np.asarray(events[i]) == told[i])
            truth = [(about[0] / len(events[i]), (about[-1] + 1) / len(events[i]))] if len(about) else np.zeros((0, 2))
            pictures = strips.frames(model, self.split, i)
            lanes = {"attention": weights[i]} | {name: found[i] for name, found in heard.items()}
            shown.append(strips.Strip(strips.words(model, self.split, i), pictures, lanes, {"told": truth}))
        note = f"Evenly spaced records of the {self.split} split, not chosen by hand; the bar below marks the event that the text tells."
        return [Figure("Frames that the text attends to", strips.draw(shown), f"attention to {len(shown)} clips", note)]
