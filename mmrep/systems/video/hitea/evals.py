"""Which phrase of a caption describes a moment of its video."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from mmrep.errors import DataError
from mmrep.evals import checks
from mmrep.modality import FIRST_PIECE
from mmrep.model import Model
from mmrep.systems.video.hitea.losses import own_similarity


@dataclass(frozen=True)
class PhraseChoice:
    """Share of moments whose own phrase, out of those of the same caption, is the most similar one; chance is 1/E.

    A moment is the first `moment` frames of the event told, stretched to the clip's length as in training.
    phrases: a record field, a list of E texts in the order of events, which the caption contains.   event, frame_event: fields with the
    event told, and each frame's.
    Metrics: "<name> accuracy" by the phrase's words in the encoded caption, pooled by the moment (CME's similarity); "<name> alone accuracy"
    by the vector of the phrase, encoded without its caption.
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
        captions = [r[model.modality("text").source] for r in records]
        phrases = [p for r in records for p in r[self.phrases]]
        each = len(phrases) // len(records)
        words, valid = model.call("words", text=captions)
        ids, parts = model.tokenizer(captions, "text"), model.tokenizer(phrases, "text")
        own = np.repeat(np.arange(len(records)), each)
        where = np.stack([places(ids[i], part) for i, part in zip(own, parts)]) & valid[own]
        by_words = np.asarray(own_similarity(moments[own], words[own], where, self.temperature))
        by_text = (moments[own] * model.call("text", text=phrases)).sum(-1)
        found = {"accuracy": by_words, "alone accuracy": by_text}
        return {
            f"{self.name} {k}": float(np.mean(scores.reshape(-1, each).argmax(1) == told))
            for k, scores in found.items()
        }


def places(caption: Int[np.ndarray, " L"], phrase: Int[np.ndarray, " L"]) -> Bool[np.ndarray, " L"]:
    """Where the tokens of the phrase are in those of the caption, the first time. Raises DataError where they are not."""
    part = phrase[phrase >= FIRST_PIECE]
    for start in range(len(caption) - len(part) + 1):
        if len(part) and (caption[start : start + len(part)] == part).all():
            at = np.arange(len(caption))
            return (at >= start) & (at < start + len(part))
    raise DataError("PhraseChoice: a caption does not contain the tokens of one of its phrases; check phrases")
