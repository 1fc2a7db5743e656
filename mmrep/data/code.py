"""Functions of Python files with their comments, and made programs in two syntaxes."""

import ast
import hashlib
import os
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from mmrep.data import splits
from mmrep.data.columns import Columns, Record
from mmrep.data.syntax_trees import Tree, flatten, tree
from mmrep.errors import ConfigError, DataError

SKIPPED = ("site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__")


@dataclass(frozen=True)
class PythonFunctions:
    """The functions of all Python files below `path` ("": the standard library of the running Python), each once.

    Records: code, without docstring and decorators; tree, its syntax tree as words; comment, the docstring's first line, "" where there is
    none; file, "path:line".   documented: only functions with a docstring.   words: of the code, at least and at most.
    fractions: shares of train, val and test; all functions of a package, or of a file beside the packages, are in one split.
    """

    path: str | Path = ""
    documented: bool = True
    words: tuple[int, int] = (8, 200)
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", os.fspath(self.path))
        splits.check_fractions(self.fractions)
        if not 0 < self.words[0] <= self.words[1]:
            raise ConfigError(f"words is {self.words}: give the least and the largest number of words, in this order")

    def open(self, split: str) -> "Functions":
        splits.check(split)
        found = _functions(str(self.path) or sysconfig.get_paths()["stdlib"], *self.words)
        kept = [f for f in found if f["comment"] or not self.documented]
        chosen = splits.choose(
            kept, lambda f: splits.hashed(f["package"], self.fractions), split, str(self.path) or "the standard library",
            "set fractions, or documented=False" if self.documented else "set fractions",
        )  # fmt: skip
        return Functions(chosen)

    def texts(self, split: str) -> Iterator[str]:
        for record in self.open(split):
            yield from (record[name] for name in ("code", "tree", "comment") if record[name])

    def view(self, record: Record, rng: np.random.Generator | None) -> Record:
        return record


class Functions(Sequence[Record]):
    def __init__(self, records: Sequence[Record]) -> None:
        self.records = records

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, i: int) -> Record:  # type: ignore[override]
        return self.records[i]

    def digest(self) -> str:
        """Of all code and comments."""
        return hashlib.sha256(repr([(r["code"], r["comment"]) for r in self.records]).encode()).hexdigest()[:16]


@lru_cache(maxsize=4)
def _functions(path: str, least: int, most: int) -> tuple[Record, ...]:
    """All functions in the order of files and lines; files that Python cannot parse are left out."""
    root = Path(path)
    if not root.is_dir():
        raise DataError(f"{path} is not a folder: give one with Python files (.py)")
    found: dict[str, Record] = {}
    for file in sorted(root.rglob("*.py")):
        place = file.relative_to(root)
        if any(part in SKIPPED or part.startswith(".") for part in place.parts):
            continue
        try:
            module = ast.parse(file.read_bytes())
        except (SyntaxError, ValueError, RecursionError):
            continue
        for node in ast.walk(module):
            if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                continue
            comment, line = (ast.get_docstring(node) or "").strip().split("\n")[0], node.lineno
            try:
                code = ast.unparse(bare(node))
            except RecursionError:
                continue
            if least <= len(code.split()) <= most and max(code + comment) <= "\ud7ff":
                words = " ".join(flatten(tree(node)))
                found.setdefault(
                    code, {"code": code, "tree": words, "comment": comment, "file": f"{place.as_posix()}:{line}", "package": place.parts[0]}
                )  # fmt: skip
    return tuple(found.values())


def bare(node: ast.FunctionDef | ast.AsyncFunctionDef) -> ast.AST:
    """The function, changed in place: without its decorators, and without docstrings, also those of functions and classes in it."""
    node.decorator_list = []
    for part in ast.walk(node):
        if (
            isinstance(part, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
            and ast.get_docstring(part) is not None
        ):
            part.body = part.body[1:] or [ast.Pass()]
    return node


# Words of operators and numbers in each syntax, and in comments: no word is of two of them.
INFIX = ("plus", "minus", "times", "over"), (
    "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen",
    "sixteen",
)  # fmt: skip
PREFIX = ("add", "sub", "mul", "div"), (
    "i", "ii", "iii", "iv", "v", "vi", "vii", "viii", "ix", "x", "xi", "xii", "xiii", "xiv", "xv", "xvi",
)  # fmt: skip
ENGLISH = ("sum", "difference", "product", "quotient"), tuple(str(i + 1) for i in range(16))
PLACES = {1: ("whole", "a", "b"), 3: ("whole", "left", "right", "a", "b", "c", "d")}


@dataclass(frozen=True)
class Programs:
    """Made expressions of `operators` operators, 1 or 3, in two syntaxes without a common word, and comments that state `told` of their facts.

    A fact is an operator of 4 or a number of 16, with its place. No expression of the validation and test splits occurs in another split.
    Records: code and tree in one syntax, drawn for each record; comment; infix and prefix, the same expression in both syntaxes.
    """

    n_train: int = 4000
    n_val: int = 200
    n_test: int = 200
    operators: int = 1
    told: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        if self.operators not in PLACES:
            raise ConfigError(f"operators is {self.operators}: choose 1 or 3")
        if not 0 < self.told <= len(PLACES[self.operators]):
            raise ConfigError(f"told is {self.told}: expressions have {len(PLACES[self.operators])} facts")
        if self.n_val + self.n_test >= 4**self.operators * 16 ** (self.operators + 1):
            raise ConfigError(
                f"n_val is {self.n_val} and n_test {self.n_test}: there are too few expressions; lower them"
            )

    def open(self, split: str) -> Columns:
        n = splits.size(self, split)
        sizes = [4] * self.operators + [16] * (self.operators + 1)
        order = np.random.default_rng(self.seed).permutation(np.prod(sizes))
        ends = np.cumsum([0, self.n_test, self.n_val])
        rng = np.random.default_rng((self.seed, splits.NAMES.index(split)))
        own = {"test": order[: ends[1]], "val": order[ends[1] : ends[2]], "train": order[ends[2] :]}[split]
        facts = np.stack(np.unravel_index(rng.choice(own, n) if split == "train" else own, sizes), axis=1)
        places = PLACES[self.operators]
        told = np.sort(rng.permuted(np.tile(np.arange(len(places)), (n, 1)), axis=1)[:, : self.told], axis=1)
        columns: dict[str, Any] = {"code": [], "tree": [], "comment": [], "infix": [], "prefix": []}
        for row, some, first in zip(facts.tolist(), told.tolist(), rng.integers(0, 2, n).tolist()):
            trees = [expression(row, *syntax) for syntax in (INFIX, PREFIX)]
            codes = infix(trees[0]), prefix(trees[1])
            columns["code"].append(codes[first])
            columns["infix"].append(codes[0])
            columns["prefix"].append(codes[1])
            columns["tree"].append(" ".join(flatten(trees[first])))
            columns["comment"].append(
                " ".join(f"{places[i]} {ENGLISH[int(i >= self.operators)][row[i]]}" for i in some)
            )
        return Columns(columns)

    def texts(self, split: str) -> Iterator[str]:
        for name in ("code", "tree", "comment", "infix", "prefix"):
            yield from self.open(split).columns[name]

    def view(self, record: Record, rng: np.random.Generator | None) -> Record:
        return record


def expression(facts: Sequence[int], operators: Sequence[str], numbers: Sequence[str]) -> Tree:
    """The operators at the root, left and right, and the numbers from left to right, as a tree."""
    count = len(facts) // 2
    names, leaves = [operators[i] for i in facts[:count]], [numbers[i] for i in facts[count:]]
    if count == 1:
        return Tree(names[0], [*leaves])
    return Tree(names[0], [Tree(names[1], [*leaves[:2]]), Tree(names[2], [*leaves[2:]])])


def infix(node: Tree | str) -> str:
    if isinstance(node, str):
        return node
    left, right = map(infix, node.children)
    return f"( {left} {node.name} {right} )"


def prefix(node: Tree | str) -> str:
    return node if isinstance(node, str) else f"[ {node.name} {' '.join(map(prefix, node.children))} ]"
