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


# Words of operators, numbers and brackets in each syntax, and of operators and numbers in comments: no word is of two of them.
INFIX = ("plus", "minus", "times", "over"), ("one", "two", "three", "four", "five", "six", "seven", "eight")
PREFIX = ("add", "sub", "mul", "div"), ("i", "ii", "iii", "iv", "v", "vi", "vii", "viii")
ENGLISH = ("sum", "difference", "product", "quotient"), ("1", "2", "3", "4", "5", "6", "7", "8")
PLACES = ("whole", "left", "right", "a", "b", "c", "d")


@dataclass(frozen=True)
class Programs:
    """Made expressions of three operators and four numbers in two syntaxes without a common word, and comments that tell `told` of these 7.

    Records: code and tree in one syntax, drawn for each record; comment; infix and prefix, the same expression in both syntaxes.
    """

    n_train: int = 4000
    n_val: int = 400
    n_test: int = 400
    told: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.told <= len(PLACES):
            raise ConfigError(f"told is {self.told}: comments tell 1 to {len(PLACES)} facts")

    def open(self, split: str) -> Columns:
        n = splits.size(self, split)
        rng = np.random.default_rng((self.seed, splits.NAMES.index(split)))
        facts = np.concatenate([rng.integers(0, 4, (n, 3)), rng.integers(0, 8, (n, 4))], axis=1)
        told = np.sort(rng.permuted(np.tile(np.arange(len(PLACES)), (n, 1)), axis=1)[:, : self.told], axis=1)
        columns: dict[str, Any] = {"code": [], "tree": [], "comment": [], "infix": [], "prefix": []}
        for row, some, first in zip(facts.tolist(), told.tolist(), rng.integers(0, 2, n).tolist()):
            trees = [expression(row, *syntax) for syntax in (INFIX, PREFIX)]
            codes = infix(trees[0]), prefix(trees[1])
            columns["code"].append(codes[first])
            columns["infix"].append(codes[0])
            columns["prefix"].append(codes[1])
            columns["tree"].append(" ".join(flatten(trees[first])))
            columns["comment"].append(" ".join(f"{PLACES[i]} {ENGLISH[int(i > 2)][row[i]]}" for i in some))
        return Columns(columns)

    def texts(self, split: str) -> Iterator[str]:
        for name in ("code", "tree", "comment", "infix", "prefix"):
            yield from self.open(split).columns[name]

    def view(self, record: Record, rng: np.random.Generator | None) -> Record:
        return record


def expression(facts: Sequence[int], operators: Sequence[str], numbers: Sequence[str]) -> Tree:
    """The operators at the root, left and right, and the four numbers, as a tree."""
    names, leaves = [operators[i] for i in facts[:3]], [numbers[i] for i in facts[3:]]
    return Tree(names[0], [Tree(names[1], [*leaves[:2]]), Tree(names[2], [*leaves[2:]])])


def infix(node: Tree | str) -> str:
    if isinstance(node, str):
        return node
    left, right = map(infix, node.children)
    return f"( {left} {node.name} {right} )"


def prefix(node: Tree | str) -> str:
    return node if isinstance(node, str) else f"[ {node.name} {' '.join(map(prefix, node.children))} ]"
