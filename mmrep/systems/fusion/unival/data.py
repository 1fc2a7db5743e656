"""Tasks as prompts and answers: captions, questions, regions, and whether a text describes what is shown."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmrep.data.columns import Record
from mmrep.errors import ConfigError, near

TASKS = ("caption", "question", "ground", "region")
MODALITIES = ("image", "video", "sound")


def bins(box: Sequence[float] | np.ndarray, count: int = 1000) -> str:
    """A box of numbers in [0, 1] as words: <bin_i>, i = x (count - 1), rounded half to even."""
    return " ".join(f"<bin_{round(float(np.clip(x, 0, 1)) * (count - 1))}>" for x in np.asarray(box, np.float64))


def negative(caption: str, other: str, names: Sequence[str], hard: float, rng: np.random.Generator) -> tuple[str, bool]:
    """(a text, whether it is false of what `caption` describes): with probability `hard` one of its names is replaced, else `other`."""
    words = caption.split()
    at = [i for i, word in enumerate(words) if word in names]
    free = [name for name in names if name not in words]
    if at and free and rng.random() < hard:
        words[at[int(rng.integers(len(at)))]] = free[int(rng.integers(len(free)))]
        return " ".join(words), True
    return other, other.split() != words


@dataclass(frozen=True)
class Tasks:
    """`source` with prompt, answer, match_prompt and match_answer in its records, and shown: the number of the modality that goes in.

    Fields of the source's records: the modalities; for "caption" its text, for "question" question and reply, for "ground" and "region"
    thing and box; `present`, where it is there (see `mmrep.data.mixture.Balanced`): which of `tasks` the record owns.
    A training record shows one of its modalities and tasks, drawn anew; evaluation the first of each, and has <task>_prompt, <task>_answer
    and shown_<modality> of all, for evaluators' `fields`.
    text:  the field of the caption.   bins: of regions.   names: words of things, for hard negatives; hard: their share.
    """

    source: Any
    modalities: tuple[str, ...] = ("image",)
    tasks: tuple[str, ...] = ("caption", "question", "ground")
    text: str = "caption"
    bins: int = 1000
    names: tuple[str, ...] = ()
    hard: float = 0.4

    def __post_init__(self) -> None:
        for field, known in (("modalities", MODALITIES), ("tasks", TASKS)):
            given = getattr(self, field)
            if not given or any(name not in known for name in given):
                wrong = next((name for name in given if name not in known), "")
                raise ConfigError(f"{field} is {given}{near(wrong, known)}")
        if not 0 <= self.hard <= 1 or self.bins < 2:
            raise ConfigError(f"hard is {self.hard} and bins {self.bins}: give a share in [0, 1], and at least 2 bins")

    def open(self, split: str) -> "TaskRecords":
        return TaskRecords(self, self.source.open(split))

    def texts(self, split: str) -> Iterator[str]:
        """Prompts and answers of all records, in which every word occurs."""
        yield from ("yes", "no", *self.names)
        for what in self.modalities:
            yield from (f"what does the {what} describe", f"does the {what} describe what")
        yield "which region does the text describe what does the region describe"
        yield from self.source.texts(split)

    def pair(self, task: str, record: Record, modality: str) -> tuple[str, str]:
        """(prompt, answer) of one task."""
        if task == "question":
            return str(record["question"]), str(record["reply"])
        if task == "caption":
            return f"what does the {modality} describe", str(record[self.text])
        where = bins(record["box"], self.bins)
        if task == "ground":
            return f"which region does the text {record['thing']} describe", where
        return f"what does the region describe {where}", str(record["thing"])

    def view(self, record: Record, rng: np.random.Generator | None) -> Record:
        found = dict(self.source.view(record, rng))
        owned = [t for i, t in enumerate(self.tasks) if "present" not in found or found["present"][i] > 0]
        draw = (lambda x: x[0]) if rng is None else (lambda x: x[int(rng.integers(len(x)))])
        modality = draw(self.modalities)
        found["prompt"], found["answer"] = self.pair(draw(owned), found, modality)
        text, false = str(found[self.text]), False
        if rng is None or rng.random() < 0.5:
            some = np.random.default_rng(len(text)) if rng is None else rng
            text, false = negative(text, str(found["another"]), self.names, self.hard, some)
        found["match_prompt"], found["match_answer"] = f"does the {modality} describe {text}", "no" if false else "yes"
        found["shown"] = np.int32(MODALITIES.index(modality))
        if rng is None:
            for task in self.tasks:
                found[f"{task}_prompt"], found[f"{task}_answer"] = self.pair(task, found, modality)
            found |= {f"shown_{name}": np.int32(MODALITIES.index(name)) for name in self.modalities}
        return found


class TaskRecords(Sequence[Record]):
    """The source's records with another one's caption as `another`."""

    def __init__(self, data: Tasks, records: Any) -> None:
        self.data, self.records = data, records

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, i: int) -> Record:  # type: ignore[override]
        n = len(self.records)
        other = dict(self.data.source.view(self.records[(i + 1 + (7919 * i) % max(n - 1, 1)) % n], None))
        return {**self.records[i], "another": other[self.data.text]}
