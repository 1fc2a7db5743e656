"""Questions about synthetic scenes, beside their captions."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmrep.data.columns import Record
from mmrep.data.scenes.source import SceneData
from mmrep.data.scenes.world import COLOURS, SHAPES
from mmrep.errors import ConfigError


@dataclass(frozen=True)
class Asked:
    """The records of `scenes`, with one question each: the colour of a shape, or the shape of a colour, that occurs once.

    text str: the question, in training for a share `share` of the records that have one; else the caption.
    answer int32: 0 where the text is a caption, else 1 + the answer.   question str, reply int32: always the question and the answer;
    the caption and -1 where nothing occurs once.   kind str: "colour", "shape" or "none".
    Answers are the world's colours, then its shapes.
    """

    scenes: SceneData
    share: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ConfigError(f"share is {self.share}: it is a share of the records, in [0, 1]")
        if not {"caption", "objects"} <= {*self.scenes.sensors}:
            raise ConfigError("scenes.sensors must have caption and objects, from which questions are made")

    @property
    def answers(self) -> tuple[str, ...]:
        return self.scenes.world.colours + self.scenes.world.shapes

    def open(self, split: str) -> "AskedRecords":
        return AskedRecords(self, self.scenes.open(split), self.share if split == "train" else 0.0)

    def texts(self, split: str) -> Iterator[str]:
        yield from (ask("colour", s) for s in self.scenes.world.shapes)
        yield from (ask("shape", c) for c in self.scenes.world.colours)
        yield from self.scenes.texts(split)

    def view(self, record: Record, rng: np.random.Generator | None) -> Record:
        return self.scenes.view(record, rng)


def ask(kind: str, about: str) -> str:
    return f"what colour is the {about}" if kind == "colour" else f"what shape is {about}"


class AskedRecords(Sequence[Record]):
    def __init__(self, data: Asked, scenes: Sequence[Record], share: float) -> None:
        self.data, self.scenes, self.share = data, scenes, share

    def __len__(self) -> int:
        return len(self.scenes)

    def class_names(self, field: str) -> tuple[str, ...]:
        return self.data.answers if field == "reply" else ()

    def __getitem__(self, i: int) -> Record:  # type: ignore[override]
        record = self.scenes[i]
        # A function of the scene alone, as its sensors are.
        rng = np.random.default_rng((self.data.scenes.seed, 5, int(record["id"])))
        question, reply, kind = self._question(record, rng)
        asked = kind != "none" and rng.random() < self.share
        text = question if asked else record["caption"]
        answer = {"answer": np.int32(reply + 1 if asked else 0), "reply": np.int32(reply)}
        return {**record, "text": text, "question": question, "kind": kind} | answer

    def _question(self, record: Record, rng: np.random.Generator) -> tuple[str, int, str]:
        here = {k: np.asarray(record[f"object_{k}"])[np.asarray(record["object_valid"])] for k in ("shape", "colour")}
        choices: list[Any] = []
        for kind, about in (("colour", "shape"), ("shape", "colour")):
            for value, wanted in zip(here[about].tolist(), here[kind].tolist()):
                if (here[about] == value).sum() == 1:
                    choices.append((kind, value, wanted))
        if not choices:
            return str(record["caption"]), -1, "none"
        kind, value, wanted = choices[int(rng.integers(len(choices)))]
        names, known = (SHAPES, COLOURS) if kind == "colour" else (COLOURS, SHAPES)
        return ask(kind, names[value]), self.data.answers.index(known[wanted]), kind
