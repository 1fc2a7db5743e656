"""Triples synthesised from a world whose truth is known."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from mmrep.data import splits
from mmrep.data.columns import Columns
from mmrep.data.synthesis import neighbours, plans, synthesise
from mmrep.data.things import Things
from mmrep.data.triples import NOTHING, fields
from mmrep.errors import ConfigError
from mmrep.systems.contrastive.mme5.writer import FORMS, TASKS, ThingsJudge, ThingsWriter

Record = Mapping[str, Any]


def held_out(task: str, form: tuple[str, str], language: int, languages: int = 4) -> bool:
    """A quarter of the cells of task, form and language: for each two of the three just one value of the third."""
    return (TASKS.index(task) + FORMS.index(form) + language) % languages == languages - 1


@dataclass(frozen=True)
class Synthetic:
    """Triples that a simulated writer writes about `world`: `labelled` correct ones of few cells, and `written` synthesised ones.

    A cell is a task, a form (the modalities of query and target) and a language. The labelled ones cover one task, two forms and one
    language. val and test hold the cells that no training set has (`held_out`), `tests` records each.
    breadth: cells of the synthesised triples: "broad" all others, "narrow" those of the labelled ones.
    wrong:   probability that a text is about another thing.   error: that one of its words is wrong.   checked: drafts are judged, and
             revised once; the judge finds a wrong word with probability `sharp`.   negatives: hard negatives of a record.
    Records have `cell` int32 besides the fields of Triples.
    """

    world: Things = Things(1000, 200, 200, (12,) * 4, told=(1.0,) * 4)
    labelled: int = 2000
    written: int = 0
    breadth: Literal["broad", "narrow"] = "broad"
    wrong: float = 0.0
    error: float = 0.0
    checked: bool = True
    sharp: float = 0.9
    negatives: int = 3
    tests: int = 64
    image: str = "regions"
    seed: int = 0

    def __post_init__(self) -> None:
        if len(self.world.factors) < 4 or self.world.objects or len(self.world.told) != 4:
            raise ConfigError("Synthetic.world needs one thing a record, 4 attributes or more and 4 languages")
        if self.labelled < 0 or self.written < 0 or self.labelled + self.written < 1 or self.negatives < 1:
            raise ConfigError(
                f"Synthetic.labelled is {self.labelled}, written {self.written}, negatives {self.negatives}: give triples, and a negative"
            )

    def open(self, split: str) -> Columns:
        splits.check(split)
        return _columns(self, split)

    def texts(self, split: str) -> Iterator[str]:
        yield from self.world.vocabulary
        yield from (f"{task} {language}" for task in TASKS for language in range(4))
        yield NOTHING

    def view(self, record: Record, rng: np.random.Generator | None) -> Record:
        return record


def labelled_cell(task: str, form: tuple[str, str], language: int) -> bool:
    """Whether the labelled triples cover the cell."""
    return TASKS.index(task) == 0 and FORMS.index(form) < 2 and language == 0


@lru_cache(maxsize=8)
def _columns(source: Synthetic, split: str) -> Columns:
    world, part = source.world, splits.NAMES.index(split)
    records = list(world.open(split))
    near = neighbours(np.stack([r["regions"] for r in records]), source.negatives + 1)
    rng = np.random.default_rng((source.seed, part, 41))
    truth, noisy = ThingsWriter(), ThingsWriter(source.wrong, source.error, source.seed)
    judge = ThingsJudge(source.sharp, source.seed) if source.checked else None
    rows: list[dict[str, Any]] = []

    def more(count: int, writer: ThingsWriter, judge: Any, kept: Any) -> None:
        wanted = len(rows) + count
        while len(rows) < wanted:  # dropped ones are written about another record
            todo = plans(
                rng, wanted - len(rows), tasks=TASKS, sides=FORMS, languages=tuple(map(str, range(4))), similar=near,
                cells=lambda t, f, k: kept(t, f, int(k)),
            )  # fmt: skip
            found = synthesise(records, todo, writer, judge, picture=lambda r: r[source.image])
            rows.extend(row for row, _ in found if row is not None)

    if split == "train":
        more(source.labelled, truth, None, labelled_cell)
        narrow = source.breadth == "narrow"
        more(source.written, noisy, judge, labelled_cell if narrow else lambda *cell: not held_out(*cell))
    else:
        for cell in [(t, f, k) for t in TASKS for f in FORMS for k in range(4) if held_out(t, f, k)]:
            more(source.tests, truth, None, lambda *other, cell=cell: other == cell)
    blank = np.zeros_like(records[0][source.image])
    made = [fields(row, source.negatives, blank, lambda image: image) for row in rows]
    columns: dict[str, Any] = {n: [r[n] for r in made] for n in made[0] if "text" in n or n == "instruction"}
    columns |= {n: np.stack([r[n] for r in made]) for n in made[0] if n not in columns}
    columns["cell"] = np.array(
        [16 * TASKS.index(r["task"]) + 4 * FORMS.index((r["query"], r["target"])) + int(r["language"]) for r in rows],
        np.int32,
    )
    return Columns(columns)
