"""Training triples (query, target, hard negatives) written about real records, each checked and revised (mmE5, Chen et al. 2025, arXiv 2502.08468).

    todo = plans(rng, 1000, tasks=("retrieval",), sides=(("image", "text"),), languages=("en",), similar=neighbours(vectors, 3))
    for row, rejected in synthesise(records, todo, write, judge):       # row: a JSON object, or None where no draft passed

A writer is any callable: of a multimodal language model, of a template (`write_captions`), of synthetic data whose truth is known.
"""

import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from mmrep.errors import ConfigError, DataError

Record = Mapping[str, Any]
SIDES = ("text", "image", "image+text")
DROPPED = "dropped: no draft passed"


class Plan(NamedTuple):
    """What is to be written about one record.

    record: its number.   similar: numbers of records like it, candidates of hard negatives.
    query, target: "text", "image" or "image+text".   Where both have a picture, the target's is that of the first similar record.
    """

    record: int
    similar: tuple[int, ...]
    task: str
    query: str
    target: str
    language: str

    @property
    def pictures(self) -> tuple[int | None, int | None, tuple[int, ...]]:
        """The records whose pictures are the query's, the target's and the negatives'; None and () without pictures."""
        query, target = "image" in self.query, "image" in self.target
        if not target:
            return self.record if query else None, None, ()
        if not query:
            return None, self.record, self.similar
        return self.record, self.similar[0], self.similar[1:]


class Draft(NamedTuple):
    """What a writer returns: the texts of a triple; "" or () on a side without text.

    negatives: texts of the hard negatives, where the target has text.
    """

    instruction: str
    query: str
    target: str
    negatives: tuple[str, ...] = ()


Writer = Callable[[Plan, Record, Sequence[Record], str], Draft]
"""Any callable (plan, record, similar records, feedback). feedback: why its draft before was rejected, "" at first; the next draft is a
refinement."""

Judge = Callable[[Plan, Record, Draft], str]
"""The reason why a draft is rejected, or "": a model's own evaluation of relevance and plausibility, say."""


def plans(
    rng: np.random.Generator, count: int, *, tasks: Sequence[str], sides: Sequence[tuple[str, str]], languages: Sequence[str],
    similar: Int[np.ndarray, "N K"], weights: Sequence[float] = (), cells: Callable[[str, tuple[str, str], str], bool] | None = None,
) -> list[Plan]:  # fmt: skip
    """`count` plans: a record, a task, the sides' modalities and a language, each drawn at random.

    similar: numbers of each record's similar ones.   weights: of the languages; empty: equal.
    cells:   which (task, sides, language) are drawn from; None: all.   Raises ConfigError where there is none, or a side is unknown.
    """
    for side in (s for pair in sides for s in pair):
        if side not in SIDES:
            raise ConfigError(f"a side of a triple is {side!r}: choose text, image or image+text")
    if any("image" in q and "image" in t for q, t in sides) and similar.shape[1] < 1:
        raise ConfigError("a triple with pictures on both sides needs similar records: give at least one a record")
    kept = [
        (t, s, k)
        for t in tasks
        for s in sides
        for k in range(len(languages))
        if cells is None or cells(t, s, languages[k])
    ]
    if not kept:
        raise ConfigError("tasks, sides and languages leave no cell to draw from: name at least one of each")
    shares = np.array([weights[k] if len(weights) else 1.0 for _, _, k in kept])
    drawn = rng.choice(len(kept), count, p=shares / shares.sum())
    rows = rng.integers(len(similar), size=count)
    plans = []
    for row, cell in zip(rows, drawn):
        task, (query, target), language = kept[cell]
        plans.append(Plan(int(row), tuple(similar[row].tolist()), task, query, target, languages[language]))
    return plans


def neighbours(vectors: Float[np.ndarray, "N *D"], k: int, block: int = 1024) -> Int[np.ndarray, "N K"]:
    """Numbers of the k records with the largest cosine to each, nearest first; fewer where there are fewer others."""
    x = np.asarray(vectors, np.float64).reshape(len(vectors), -1)
    x = x - x.mean(0)
    x /= np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    k, found = min(k, len(x) - 1), []
    for start in range(0, len(x), block):
        scores = x[start : start + block] @ x.T
        scores[np.arange(len(scores)), start + np.arange(len(scores))] = -np.inf
        found.append(np.argsort(-scores, axis=1, kind="stable")[:, :k])
    return np.concatenate(found)


def flaw(plan: Plan, draft: Draft) -> str:
    """Why the form of a draft does not fit its plan; "" where it does. A target in its own instruction would make the task trivial."""
    if not draft.instruction.strip():
        return "no instruction"
    for name, side, text in (("query", plan.query, draft.query), ("target", plan.target, draft.target)):
        if ("text" in side) != bool(text.strip()):
            return f"the {name} has no text" if "text" in side else f"the {name} has text, and its side is an image"
    if "text" in plan.target:
        if draft.target.lower() in draft.instruction.lower():
            return "the target is in the instruction"
        if not any(n.strip() for n in draft.negatives):
            return "no hard negative"
        if any(n.strip().lower() == draft.target.strip().lower() for n in draft.negatives):
            return "a hard negative is the target"
    return ""


def revise(
    plan: Plan, record: Record, similar: Sequence[Record], write: Writer, judge: Judge | None = None, attempts: int = 2
) -> tuple[Draft | None, tuple[str, ...]]:
    """(the first draft without flaw that the judge accepts, or None after `attempts`; the reasons of those rejected before).

    Each next draft is written with the reason of the one before.
    """
    reasons: list[str] = []
    for _ in range(attempts):
        draft = write(plan, record, similar, reasons[-1] if reasons else "")
        reason = flaw(plan, draft) or (judge(plan, record, draft) if judge else "")
        if not reason:
            return draft, tuple(reasons)
        reasons.append(reason)
    return None, tuple(reasons)


def synthesise(
    records: Sequence[Record], todo: Iterable[Plan], write: Writer, judge: Judge | None = None, *, attempts: int = 2,
    picture: Callable[[Record], Any] = lambda record: record["file"],
) -> Iterator[tuple[dict[str, Any] | None, tuple[str, ...]]]:  # fmt: skip
    """(row, reasons of the rejected drafts) of each plan; row is None, and DROPPED the last reason, where no draft passed.

    picture: what a row holds of a record's picture: the path of its file, or numbers.   See `tally`.
    """
    if attempts < 1:
        raise ConfigError(f"attempts is {attempts}: give at least 1")
    for plan in todo:
        draft, reasons = revise(plan, records[plan.record], [records[i] for i in plan.similar], write, judge, attempts)
        if draft is None:
            yield None, (*reasons, DROPPED)
            continue
        query, target, negatives = plan.pictures
        yield {
            "task": plan.task, "query": plan.query, "target": plan.target, "language": plan.language, "instruction": draft.instruction,
            "query_text": draft.query, "query_image": None if query is None else picture(records[query]),
            "target_text": draft.target, "target_image": None if target is None else picture(records[target]),
            "negative_text": [n for n in draft.negatives if n.strip()], "negative_image": [picture(records[i]) for i in negatives],
        }, reasons  # fmt: skip


def tally(reasons: Iterable[tuple[str, ...]]) -> dict[str, int]:
    """How many drafts were rejected for each reason, and plans dropped, the most frequent first."""
    return dict(Counter(r for some in reasons for r in some).most_common())


def write_captions(plan: Plan, record: Record, similar: Sequence[Record], feedback: str) -> Draft:
    """A writer for records with captions: the record's own is the text of either side, and those of similar records are the negatives.

    With pictures on both sides the query's text is the caption of the target's picture.   Raises DataError for a record without `text`.
    """
    texts = [_caption(r) for r in (record, *similar)]
    if "image" in plan.query and "image" in plan.target:
        texts = texts[1:]
    others = tuple(dict.fromkeys(t for t in texts[1:] if t != texts[0]))
    told = {"image": "a picture", "text": "a text", "image+text": "a picture with its text"}
    instruction = f"find {told[plan.target]} that belongs to the given {plan.query.replace('+', ' and ')}"
    query, target = (texts[0] if "text" in side else "" for side in (plan.query, plan.target))
    return Draft(instruction, query, target, others if "text" in plan.target else ())


def _caption(record: Record) -> str:
    if not isinstance(record.get("text"), (str, tuple)) or not record["text"]:
        raise DataError("a record has no text: write_captions needs captions; give another --writer")
    return record["text"] if isinstance(record["text"], str) else record["text"][0]


def content_id(text: str, image: Any) -> int:
    """A number in [0, 2^30) of a side's text and picture: equal sides have equal ones."""
    shown = image if isinstance(image, str) or image is None else np.asarray(image, np.float32).tobytes()
    return zlib.crc32(repr((text, shown)).encode()) & (2**30 - 1)
