"""What a page can hold: frozen dataclasses of plain values. Panels check their own shapes and raise ConfigError."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from mmrep.errors import ConfigError


def _check(ok: bool, sentence: str) -> None:
    if not ok:
        raise ConfigError(sentence)


class Number(NamedTuple):
    """A measured value; `chance` is what guessing gets, `spread` a standard deviation over seeds or folds."""

    value: float
    chance: float | None = None
    spread: float | None = None


class Column(NamedTuple):
    """A column of numbers. `better` says which end is emphasised, where at least two rows have a value."""

    name: str
    better: Literal["higher", "lower", ""] = "higher"
    digits: int = 3


@dataclass(frozen=True)
class Numbers:
    """A table: rows are (name, one cell a column); a cell is a Number, a plain number, text, or None for "not measured"."""

    title: str
    rows: Sequence[tuple[str, Sequence[Any]]]
    columns: Sequence[Any]
    note: str = ""

    def __post_init__(self) -> None:
        for name, cells in self.rows:
            _check(
                len(cells) == len(self.columns),
                f"Numbers {self.title!r}: row {name!r} has {len(cells)} cells, but there are {len(self.columns)} columns",
            )


@dataclass(frozen=True)
class Curves:
    """Training curves of metrics.jsonl rows.

    groups: (plot title, metric names or patterns such as "train/loss*"), one plot each; empty = run.default_groups(rows).
    smoothing: weight of the two-sided exponential average, drawn over faint raw values where a curve has at least 30 points; 0 = raw only.
    log: titles of the plots with a logarithmic axis.
    """

    title: str
    rows: Sequence[Mapping[str, Any]]
    groups: Sequence[tuple[str, Sequence[str]]] = ()
    smoothing: float = 0.8
    log: Sequence[str] = ()
    note: str = ""

    def __post_init__(self) -> None:
        _check(
            0 <= self.smoothing < 1, f"Curves {self.title!r}: smoothing is {self.smoothing}: a weight lies in [0, 1)"
        )


class Picture(NamedTuple):
    """uint8 [H, W] or [H, W, 1|3|4]; `caption` is printed below, `alt` read aloud instead of it where given."""

    pixels: np.ndarray
    caption: str = ""
    alt: str = ""


class Words(NamedTuple):
    """A text; `lang` (BCP 47: "ja", "zh-Hans") picks the right letter forms, writing direction is found by the browser."""

    text: str
    caption: str = ""
    lang: str = ""


class Sound(NamedTuple):
    """A waveform [T] in [-1, 1] (float) or int16, at `rate` samples a second."""

    waveform: np.ndarray
    rate: int
    caption: str = ""


Media = Picture | Words | Sound | np.ndarray | str


class Candidate(NamedTuple):
    """Something retrieved, its score, and whether it is a right answer."""

    media: Any
    score: float
    right: bool = False


@dataclass(frozen=True)
class Item:
    """One query. `rank` (from 1) is that of the first right answer among `pool` candidates; `right` is shown beside the
    candidates where none of them is right."""

    query: Any
    candidates: Sequence[Candidate]
    rank: int | None = None
    pool: int | None = None
    right: Candidate | None = None


@dataclass(frozen=True)
class Gallery:
    """Queries, what they retrieved, and where the right answer stands."""

    title: str
    items: Sequence[Item]
    note: str = ""


@dataclass(frozen=True)
class Grid:
    """A table of media (pictures, words, sounds): cells[row][column]."""

    title: str
    columns: Sequence[str]
    rows: Sequence[str]
    cells: Sequence[Sequence[Any]]
    note: str = ""

    def __post_init__(self) -> None:
        _check(
            len(self.cells) == len(self.rows) and all(len(row) == len(self.columns) for row in self.cells),
            f"Grid {self.title!r}: cells must be {len(self.rows)} rows of {len(self.columns)}",
        )


def retrieve(query: Any, pool: Sequence[Any], scores: Any, right: Sequence[int], k: int = 5) -> Item:
    """The Item of a query whose similarity to each member of `pool` (media) is `scores` [len(pool)]; `right` indexes the answers.

    Ties count against the query: a wrong candidate with the same score, or one with NaN for the right answer, goes first.
    """
    order_by = np.asarray(scores, np.float64)
    _check(
        order_by.shape == (len(pool),),
        f"scores have shape {order_by.shape} for a pool of {len(pool)}: give one score each",
    )
    is_right = np.zeros(len(pool), bool)
    is_right[np.asarray(right, int)] = True
    order = np.lexsort((is_right, -np.nan_to_num(order_by, nan=-np.inf, posinf=np.inf, neginf=-np.inf)))
    shown = [Candidate(pool[i], float(order_by[i]), bool(is_right[i])) for i in order[:k]]
    ranks = np.flatnonzero(is_right[order])
    rank = int(ranks[0]) + 1 if len(ranks) else None
    first = int(order[ranks[0]]) if len(ranks) else None
    beside = Candidate(pool[first], float(order_by[first]), True) if first is not None and (rank or 0) > k else None
    return Item(query, tuple(shown), rank, len(pool), beside)


@dataclass(frozen=True)
class Heatmap:
    """A matrix [R, C] of values, e.g. similarities; NaN = no value. `right` lists the (row, column) cells that ought to be high.

    low, high: the ends of the colour scale, None = those of the matrix.
    """

    title: str
    matrix: np.ndarray
    row_labels: Sequence[str]
    column_labels: Sequence[str]
    note: str = ""
    right: Sequence[tuple[int, int]] = ()
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        want = (len(self.row_labels), len(self.column_labels))
        _check(
            np.shape(self.matrix) == want,
            f"Heatmap {self.title!r}: the matrix has shape {np.shape(self.matrix)}, the labels say {want}",
        )


@dataclass(frozen=True)
class EmbeddingMap:
    """Points [N, 2] of several series (modalities or categories), e.g. from figures.project_2d.

    series, labels: one name and one label a point. thumbnails: one uint8 picture or None a point, drawn at the point.
    pairs: index pairs joined by a faint line, e.g. a picture and its own caption.
    """

    title: str
    points: np.ndarray
    series: Sequence[str]
    labels: Sequence[str]
    thumbnails: Sequence[Any] = ()
    pairs: Sequence[tuple[int, int]] = ()
    note: str = ""

    def __post_init__(self) -> None:
        n = len(self.points)
        _check(
            np.shape(self.points) == (n, 2) and bool(np.isfinite(self.points).all()),
            f"EmbeddingMap {self.title!r}: points have shape {np.shape(self.points)}: give finite numbers [N, 2]",
        )
        for name in ("series", "labels", "thumbnails"):
            found = len(getattr(self, name))
            _check(
                found == n or (name == "thumbnails" and not found),
                f"EmbeddingMap {self.title!r}: {found} {name} for {n} points: give one each",
            )


@dataclass(frozen=True)
class Config:
    """A config's JSON values, folded until asked for."""

    title: str
    json: Any


@dataclass(frozen=True)
class Versions:
    """Names and versions, or any short facts of a run."""

    title: str
    versions: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Text:
    """Paragraphs of plain text; markup in them is shown, not obeyed."""

    title: str
    paragraphs: Sequence[str]


Panel = Numbers | Curves | Gallery | Grid | Heatmap | EmbeddingMap | Config | Versions | Text


def best(values: Sequence[float | None], better: str) -> list[bool]:
    """Which values are the best of at least two finite ones; ties are all marked, and nothing is where all are equal."""
    finite = [v for v in values if v is not None and math.isfinite(v)]
    if not better or len(finite) < 2 or min(finite) == max(finite):
        return [False] * len(values)
    top = max(finite) if better == "higher" else min(finite)
    return [v == top for v in values]
