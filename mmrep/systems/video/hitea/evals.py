"""Which phrase of a caption describes a moment of its video."""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import numpy as np

from mmrep.evals import checks
from mmrep.model import Model
from mmrep.systems.video.hitea.losses import moment_similarity


@dataclass(frozen=True)
class PhraseChoice:
    """Share of moments whose own phrase, out of those of the same caption, is the most similar one.

    A moment is the first `moment` frames of the event told, stretched to the clip's length as in training.
    phrases: a record field, a list of E texts in the order of events.   event, frame_event: fields with the event told, and each frame's.
    Metrics: "<name> accuracy" by words pooled by the moment (CME's similarity), "<name> whole accuracy" by the phrase's own vector.
    """

    moment: int = 4
    phrases: str = "clauses"
    event: str = "event"
    frame_event: str = "frame_event"
    temperature: float | None = 0.1
    split: str = "test"
    name: str = "phrase"

    def check(self, names: Sequence[str], split: checks.Open) -> None:
        """Raises ConfigError for a system without words or vectors, or records without the fields."""
        checks.functions(names, **{"PhraseChoice": "words", "PhraseChoice.text": "text", "PhraseChoice.video": "video"})
        checks.fields(split(self.split), [self.phrases, self.event, self.frame_event])

    def run(self, model: Model) -> dict[str, float]:
        records, field = model.records(self.split), model.modality("video").source
        told = np.array([r[self.event] for r in records])
        views = []
        for r, event in zip(records, told):
            video = np.asarray(r[field])
            start = int(np.argmax(np.asarray(r[self.frame_event]) == event))
            views.append(video[start + np.arange(len(video)) * self.moment // len(video)])
        moments = model.call("video", video=views)
        phrases = [p for r in records for p in r[self.phrases]]
        each = len(phrases) // len(records)
        words, valid = model.call("words", text=phrases)
        grouped = (x.reshape(len(records), each, *x.shape[1:]) for x in (words, valid))
        similar = jax.vmap(lambda m, w, v: moment_similarity(m, w, v, self.temperature))
        by_words = np.asarray(similar(moments[:, None], *grouped))[:, 0]
        own = np.repeat(np.arange(len(records)), each)
        by_text = (moments[own] * model.call("text", text=phrases)).sum(-1).reshape(len(records), each)
        found = {"accuracy": by_words, "whole accuracy": by_text}
        return {f"{self.name} {k}": float(np.mean(scores.argmax(1) == told)) for k, scores in found.items()}
