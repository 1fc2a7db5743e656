"""A simulated writer and judge of triples about made things, with stated rates of errors: they stand for a multimodal language model."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmrep.data.synthesis import Draft, Plan
from mmrep.data.things import word
from mmrep.errors import DataError

TASKS = ("front", "back", "even", "odd")
ABOUT = {"front": (0, 1), "back": (2, 3), "even": (0, 2), "odd": (1, 3)}
FORMS = (("image", "text"), ("text", "image"), ("image+text", "text"), ("text", "text"))


def tell(values: Sequence[int], attributes: Sequence[int], language: int) -> str:
    """The words of these attributes of a thing."""
    return " ".join(word(a, values[a], language=language) for a in attributes)


@dataclass(frozen=True)
class ThingsWriter:
    """A Writer about records of `Things` with the field `attributes`, of 4 attributes or more.

    The target's text names the two attributes that the task is about. A query of text names all four, in language 0 where the target is text;
    beside a picture it names two at random. Hard negatives are the target's text with one other value.
    wrong: probability that the text about the picture is about a similar record instead.   error: that one of its values is another.
    """

    wrong: float = 0.0
    error: float = 0.0
    seed: int = 0

    def __call__(
        self, plan: Plan, record: Mapping[str, Any], similar: Sequence[Mapping[str, Any]], feedback: str
    ) -> Draft:
        if "attributes" not in record or plan.task not in ABOUT:
            raise DataError(
                f"ThingsWriter writes about made things, on the tasks {', '.join(TASKS)}; give another --writer"
            )
        rng = _rng(self.seed, plan, feedback)
        values = [int(v) for v in record["attributes"]]
        about, language = ABOUT[plan.task], int(plan.language)
        count = max(1, *values, *(int(v) for r in similar for v in r["attributes"])) + 1
        told = list(values)
        if similar and rng.random() < self.wrong:
            told = [int(v) for v in similar[int(rng.integers(len(similar)))]["attributes"]]
        spoken = about if "text" in plan.target else range(4)
        if rng.random() < self.error:
            a = spoken[int(rng.integers(len(spoken)))]
            told[a] = _other(rng, told[a], count)
        query, target = "", ""
        negatives: tuple[str, ...] = ()
        if "text" in plan.target:
            target = tell(told, about, language)
            wrong = []
            for i in range(2 * len(about)):
                changed = list(told)
                changed[about[i % len(about)]] = _other(rng, told[about[i % len(about)]], count)
                wrong.append(tell(changed, about, language))
            negatives = tuple(dict.fromkeys(wrong))
            if plan.query == "text":
                query = tell(values, range(4), 0)
            elif "text" in plan.query:
                query = tell(values, sorted(rng.permutation(4)[:2].tolist()), language)
        else:
            query = tell(told, range(4), language)
        return Draft(f"{plan.task} {language}", query, target, negatives)


@dataclass(frozen=True)
class ThingsJudge:
    """A Judge that compares the words about a record with its attributes; it overlooks wrong ones with probability 1 - `sharp`."""

    sharp: float = 0.9
    seed: int = 0

    def __call__(self, plan: Plan, record: Mapping[str, Any], draft: Draft) -> str:
        values, language = [int(v) for v in record["attributes"]], int(plan.language)
        if "text" in plan.target:
            found, true = draft.target, tell(values, ABOUT[plan.task], language)
        else:
            found, true = draft.query, tell(values, range(4), language)
        seen = _rng(self.seed + 1, plan, found).random() < self.sharp
        return "a word does not fit the record" if found != true and seen else ""


def _rng(seed: int, plan: Plan, what: str) -> np.random.Generator:
    return np.random.default_rng((seed, zlib.crc32(repr((plan, what)).encode())))


def _other(rng: np.random.Generator, value: int, count: int) -> int:
    """Another value in [0, count)."""
    return int((value + 1 + rng.integers(count - 1)) % count)
