"""What a report page shows: frozen dataclasses of plain values, each with a title. Shapes are checked; a wrong one raises ConfigError."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from mmrep.errors import ConfigError


class Number(NamedTuple):
    """A measured value and its chance level, where that is known."""

    value: float
    chance: float | None = None


class Column(NamedTuple):
    """A column of numbers. `better`: which end is best; "" marks nothing."""

    name: str
    better: Literal["higher", "lower", ""] = "higher"


@dataclass(frozen=True)
class Table:
    """rows: (name, one cell a column); a cell is a Number, text, or None where nothing was measured."""

    title: str
    columns: Sequence[Column]
    rows: Sequence[tuple[str, Sequence[Any]]]
    note: str = ""

    def __post_init__(self) -> None:
        for name, cells in self.rows:
            if len(cells) != len(self.columns):
                raise ConfigError(
                    f"table {self.title!r}: row {name!r} has {len(cells)} cells for {len(self.columns)} columns"
                )

    def best(self, column: int) -> list[bool]:
        """Which cells of a column are best of at least two finite ones; all of several equal ones, none where all are equal."""
        cells = [row[column] for _, row in self.rows]
        values = [c.value if isinstance(c, Number) and math.isfinite(c.value) else None for c in cells]
        finite = [v for v in values if v is not None]
        if not self.columns[column].better or len(set(finite)) < 2:
            return [False] * len(values)
        top = max(finite) if self.columns[column].better == "higher" else min(finite)
        return [v == top for v in values]


@dataclass(frozen=True)
class Figure:
    """A matplotlib figure; `alt` describes it in words."""

    title: str
    figure: Any
    alt: str
    note: str = ""


class Picture(NamedTuple):
    """uint8 pixels [H, W] or [H, W, 1 | 3 | 4]."""

    pixels: np.ndarray
    caption: str = ""


class Words(NamedTuple):
    """A text; `lang` (BCP 47: "ja", "zh-Hans") selects the letter forms."""

    text: str
    caption: str = ""
    lang: str = ""


class Sound(NamedTuple):
    """A waveform [T], float in [-1, 1] or int16, with `rate` samples a second."""

    waveform: np.ndarray
    rate: int
    caption: str = ""


@dataclass(frozen=True)
class Grid:
    """A table of media (Picture, Words, Sound): cells[row][column]."""

    title: str
    columns: Sequence[str]
    rows: Sequence[str]
    cells: Sequence[Sequence[Any]]
    note: str = ""

    def __post_init__(self) -> None:
        if len(self.cells) != len(self.rows) or any(len(row) != len(self.columns) for row in self.cells):
            raise ConfigError(f"grid {self.title!r}: cells must be {len(self.rows)} rows of {len(self.columns)}")


class Candidate(NamedTuple):
    """A retrieved record, its score, its rank (from 1) and whether it is a right answer."""

    media: Any
    score: float
    rank: int
    right: bool = False


class Item(NamedTuple):
    """A query and its first candidates. rank: of the first right answer among `pool` candidates, None where there is none."""

    query: Any
    candidates: Sequence[Candidate]
    rank: int | None
    pool: int


@dataclass(frozen=True)
class Gallery:
    """Queries and what they retrieved."""

    title: str
    items: Sequence[Item]
    note: str = ""


@dataclass(frozen=True)
class Code:
    """A long text, folded."""

    title: str
    text: str
    note: str = ""


Panel = Table | Figure | Grid | Gallery | Code


def retrieve(query: Any, pool: Sequence[Any], scores: Any, right: Sequence[int], k: int = 5) -> Item:
    """The first k of `pool` by `scores` [N], and the first right answer (`right`: indices) behind them if it is not among them.

    Ties count against the query: a wrong candidate with the score of the right answer, or with NaN for it, goes first.
    """
    values = np.asarray(scores, np.float64)
    if values.shape != (len(pool),):
        raise ConfigError(f"scores have shape {values.shape} for a pool of {len(pool)}: give one score each")
    is_right = np.isin(np.arange(len(pool)), right)
    order = np.lexsort((is_right, -np.nan_to_num(values, nan=-np.inf)))
    ranked = [Candidate(pool[i], float(values[i]), n, bool(is_right[i])) for n, i in enumerate(order, 1)]
    first = next((c for c in ranked if c.right), None)
    shown = ranked[:k] + ([first] if first and first.rank > k else [])
    return Item(query, tuple(shown), first.rank if first else None, len(pool))
