"""gCOG: instructions as trees of operators over images of coloured letters, with one answer each (Ito et al. 2024, arXiv 2401.15030).

A task is a tuple in the order of its tokens: a leaf (operator, shape, colour); or (condition leaf, SWITCH, tokens of the left task, of the right
task), where the left one is executed if the condition is true. -1 is an attribute that a leaf leaves open. Cells are numbered in reading
order from 0, with 0-based coordinates (y, x).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from jaxtyping import Int

from mmrep.data import splits
from mmrep.data.columns import Blocks, Record
from mmrep.errors import ConfigError

OPERATORS = ("exist", "go", "getcolor", "getshape", "sumeven", "producteven", "productodd", "sumodd")
SWITCH = len(OPERATORS) + 1
BOOLEAN = ("exist", "sumeven", "producteven", "productodd", "sumodd")
# The operators of both halves of the systematic splits: alone, as conditions, and as leaves under them.
HALVES = (("exist", "sumeven", "producteven", "getshape"), ("sumodd", "productodd", "go", "getcolor"))
CONDITIONS = (("exist", "sumeven", "producteven"), ("sumodd", "productodd"))
LEAVES = (("sumeven", "producteven", "getcolor", "getshape"), ("exist", "sumodd", "productodd", "go"))
Leaf: TypeAlias = tuple[str, int, int]
Task: TypeAlias = tuple[Any, ...]
Objects: TypeAlias = tuple[tuple[int, int], ...]
"""Allowed (shape, colour) of a queried object."""


def tokens(depth: int) -> int:
    """Tokens of a task of this depth (1, 3, 5, ...), EOS included."""
    nodes = 1
    for _ in range(depth // 2):
        nodes = 2 + 2 * nodes
    return nodes + 1


@dataclass(frozen=True)
class GcogData:
    """Records: instruction int32 [tokens, 8], padded on the left, so that EOS is last: (operator, shape, colour, time, 0, 0, 0, EOS flag), 0 where
    a token has no such field, else 1 + the index, and a number of its own for an attribute left open; image int32 [grid^2 + 1, 3]: (colour, shape,
    EOS flag) of each cell, 0 where it is empty; answer int32, of True, False, cells, shapes, colours; operator, the leaf that gives it; depth.

    grid, shapes, colours: size of the world.   operators: that are asked for.
    split: "distractors": tasks of one operator.   "systematic": of one operator; each half of HALVES with one half of the objects, in the
        test with the other.   "pairs": of depth 3; conditions and leaves of one half, in the test of different halves.
        "productive": of depth 1 and 3, in the test of depth `deep`.
    distractors: at most so many in training and validation, evenly drawn; the test has as many in its field image, and exactly n of them in
        image_<n> for each n of `tested`, beside the same objects in the same cells, with the same answer.
    overlap: the systematic split of the authors, whose halves share objects: the first colours of all shapes, the last shapes in all colours.
    """

    n_train: int = 20_000
    n_val: int = 500
    n_test: int = 1000
    grid: int = 10
    shapes: int = 26
    colours: int = 10
    operators: tuple[str, ...] = OPERATORS
    split: Literal["distractors", "systematic", "pairs", "productive"] = "distractors"
    distractors: int = 5
    tested: tuple[int, ...] = ()
    deep: int = 5
    overlap: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if unknown := [o for o in self.operators if o not in OPERATORS]:
            raise ConfigError(f"operators names {unknown}: choose from {', '.join(OPERATORS)}")
        if not self.operators or (self.split in ("systematic", "pairs") and {*self.operators} != {*OPERATORS}):
            raise ConfigError(
                f"operators is {self.operators}: split {self.split!r} needs {'all' if self.operators else 'some'}"
            )
        if self.split == "productive" and not {*self.operators} & {*BOOLEAN}:
            raise ConfigError(f"operators is {self.operators}: a condition needs one of {', '.join(BOOLEAN)}")
        if self.deep < 3 or self.deep % 2 == 0:
            raise ConfigError(f"deep is {self.deep}: give an odd depth of 3 or more")
        if min(self.shapes, self.colours) < 4:
            raise ConfigError(f"shapes is {self.shapes} and colours {self.colours}: give at least 4 of each")
        most = max((self.distractors, *self.tested)) + tokens(self.depth) - 1
        if self.grid**2 < most:
            raise ConfigError(f"grid is {self.grid}: {most} objects and distractors need as many cells")

    @property
    def depth(self) -> int:
        """The largest depth of a task."""
        return {"distractors": 1, "systematic": 1, "pairs": 3, "productive": self.deep}[self.split]

    @property
    def answers(self) -> int:
        return 2 + self.grid**2 + self.shapes + self.colours

    @property
    def vocab(self) -> int:
        """Numbers of ids that instructions and images use: of the largest field."""
        return 3 + max(SWITCH, self.shapes, self.colours)

    def open(self, split: str) -> Blocks:
        return Blocks(self, split, splits.size(self, split))

    def texts(self, split: str) -> Iterator[str]:
        return iter(())

    def view(self, record: Record, rng: np.random.Generator | None) -> Record:
        return record

    def columns(self, split: str, rows: np.ndarray) -> dict[str, Any]:
        records = [self.record(split, int(i)) for i in rows]
        return {k: np.stack([r[k] for r in records]) for k in records[0]}

    def record(self, split: str, i: int) -> dict[str, Any]:
        rng = np.random.default_rng((self.seed, splits.NAMES.index(split), i))
        numbers = {"image": int(rng.integers(self.distractors + 1))}
        numbers |= {f"image_{n}": n for n in self.tested if split == "test"}
        while True:
            task, objects = self._task(rng, split == "test")
            found = scene(rng, leaves(task), max(numbers.values()), objects, (self.shapes, self.colours))
            if found is not None:
                break
        needed, others = found
        cells = rng.permutation(self.grid**2).tolist()
        images = {name: self.image([*needed, *others[:n]], cells) for name, n in numbers.items()}
        answer, operator = solve(task, images["image"], self)
        record: dict[str, Any] = {"instruction": self.instruction(task), **images, "answer": np.int32(answer)}
        return record | {"operator": np.str_(operator), "depth": np.int32(depth(task))}

    def instruction(self, task: Task) -> Int[np.ndarray, "L 8"]:
        found = np.zeros((tokens(self.depth), 8), np.int32)
        for row, node in zip(found[-len(task) - 1 :], task):
            if node == SWITCH:
                row[0] = SWITCH
            else:
                operator, shape, colour = node
                opened = self.shapes if shape < 0 else shape, self.colours if colour < 0 else colour
                row[:4] = OPERATORS.index(operator) + 1, opened[0] + 1, opened[1] + 1, 1
        found[-1, -1] = 1
        return found

    def image(self, objects: Sequence[tuple[int, int]], cells: Sequence[int]) -> Int[np.ndarray, "N 3"]:
        """The tokens of an image of (shape, colour) objects in these cells."""
        found = np.zeros((self.grid**2 + 1, 3), np.int32)
        for (shape, colour), cell in zip(objects, cells):
            found[cell, :2] = colour + 1, shape + 1
        found[-1, -1] = 1
        return found

    def _task(self, rng: np.random.Generator, test: bool) -> tuple[Task, Objects | None]:
        """A task, and the objects that it may name (None: all)."""
        if self.split == "distractors":
            return (self._leaf(rng, self.operators, None),), None
        if self.split == "systematic":
            half = int(rng.integers(2))
            objects = self._half(half != test)
            return (self._leaf(rng, HALVES[half], objects),), objects
        if self.split == "pairs":
            half = int(rng.integers(2))
            other = LEAVES[half if not test else 1 - half]
            return (
                self._leaf(rng, CONDITIONS[half], None),
                SWITCH,
                *(self._leaf(rng, other, None) for _ in range(2)),
            ), None
        return self._tree(rng, self.deep if test else int(rng.choice((1, 3)))), None

    def _tree(self, rng: np.random.Generator, depth: int) -> Task:
        if depth == 1:
            return (self._leaf(rng, self.operators, None),)
        conditions = [o for o in self.operators if o in BOOLEAN]
        return (self._leaf(rng, conditions, None), SWITCH, *self._tree(rng, depth - 2), *self._tree(rng, depth - 2))

    def _half(self, second: bool) -> Objects:
        """The objects of one half: the first colours of the first shapes, or the last of both; with `overlap` of all shapes, in all colours."""
        shapes, colours = self.shapes // 2, self.colours // 2
        if second:
            first = (shapes, 0 if self.overlap else colours)
            return tuple((s, c) for s in range(first[0], self.shapes) for c in range(first[1], self.colours))
        return tuple((s, c) for s in range(self.shapes if self.overlap else shapes) for c in range(colours))

    def _leaf(self, rng: np.random.Generator, operators: Sequence[str], objects: Objects | None) -> Leaf:
        operator = operators[int(rng.integers(len(operators)))]
        shape, colour = int(rng.integers(self.shapes)), int(rng.integers(self.colours))
        if objects is not None:
            shape, colour = objects[int(rng.integers(len(objects)))]
        return operator, -1 if operator == "getshape" else shape, -1 if operator == "getcolor" else colour


def leaves(task: Task) -> list[Leaf]:
    return [node for node in task if node != SWITCH]


def depth(task: Task) -> int:
    """1 of a leaf, 2 more for each switch above the deepest leaf."""

    def of(at: int) -> tuple[int, int]:
        if at + 1 == len(task) or task[at + 1] != SWITCH:
            return 1, at + 1
        left, at = of(at + 2)
        right, at = of(at)
        return 2 + max(left, right), at

    return of(0)[0]


def scene(
    rng: np.random.Generator, asked: Sequence[Leaf], distractors: int, objects: Objects | None, world: tuple[int, int]
) -> tuple[list[tuple[int, int]], list[tuple[int, int]]] | None:
    """(objects that the leaves need, distractors), so that every leaf has one answer; None where these leaves contradict each other.

    A queried shape or colour is that of one object, and so is an object whose place is asked for. exist is true half of the time, and
    distractors do not change it. world: numbers of shapes and colours.
    """
    found: list[tuple[int, int]] = []
    free = np.ones(world, bool)  # what a distractor may be
    absent: list[tuple[int, int]] = []

    def matches(shape: int, colour: int) -> list[tuple[int, int]]:
        return [o for o in found if shape in (-1, o[0]) and colour in (-1, o[1])]

    for operator, shape, colour in asked:
        free[slice(None) if shape < 0 else shape, slice(None) if colour < 0 else colour] = False
        if matches(shape, colour):
            continue
        if operator == "exist" and rng.random() < 0.5:
            absent.append((shape, colour))
            continue
        choices = objects or [(s, c) for s in range(world[0]) for c in range(world[1])]
        choices = [o for o in choices if shape in (-1, o[0]) and colour in (-1, o[1])]
        found.append(choices[int(rng.integers(len(choices)))])
    unique = all(len(matches(shape, colour)) == 1 for operator, shape, colour in asked if operator != "exist")
    allowed = np.argwhere(free)
    if not unique or any(o in found for o in absent) or (distractors and not len(allowed)):
        return None
    drawn: Any = allowed[rng.integers(len(allowed), size=distractors)] if distractors else []
    return found, [(int(s), int(c)) for s, c in drawn]


def solve(task: Task, image: Int[np.ndarray, "N 3"], data: GcogData) -> tuple[int, str]:
    """(number of the answer, the operator that gives it) of a task on an image. Raises ValueError where it has no single answer."""
    at = 0
    while at + 1 < len(task) and task[at + 1] == SWITCH:
        true = _answer(task[at], image, data) == 0
        at = at + 2 if true else _end(task, at + 2)
    return _answer(task[at], image, data), task[at][0]


def _end(task: Task, at: int) -> int:
    """The place behind the task that begins at `at`."""
    if at + 1 == len(task) or task[at + 1] != SWITCH:
        return at + 1
    return _end(task, _end(task, at + 2))


def _answer(leaf: Leaf, image: Int[np.ndarray, "N 3"], data: GcogData) -> int:
    operator, shape, colour = leaf
    cells = image[:-1]
    here = (
        (cells[:, 1] > 0)
        & (True if shape < 0 else cells[:, 1] == shape + 1)
        & (True if colour < 0 else cells[:, 0] == colour + 1)
    )
    places = np.flatnonzero(here)
    if operator == "exist":
        return int(not len(places))
    if operator in ("getcolor", "getshape"):
        values = {int(v) for v in cells[places, 0 if operator == "getcolor" else 1]}
    else:
        values = {*places.tolist()}
    if len(values) != 1:
        raise ValueError(f"{leaf} has {len(values)} answers on this image")
    value = values.pop()
    if operator == "go":
        return 2 + value
    if operator == "getshape":
        return 2 + data.grid**2 + value - 1
    if operator == "getcolor":
        return 2 + data.grid**2 + data.shapes + value - 1
    y, x = divmod(value, data.grid)
    number = y + x if operator.startswith("sum") else y * x
    return int((number % 2 == 0) != operator.endswith("even"))
