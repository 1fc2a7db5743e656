"""Syntax trees as sequences of words, and back: a node is <name,left> ... <name,right> around its children, a leaf its text."""

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from mmrep.errors import DataError

_MARK = re.compile(r"<([^\s,<>]+),(left|right)>")


@dataclass
class Tree:
    """A node; its children are nodes and texts of leaves, in order."""

    name: str
    children: list["Tree | str"] = field(default_factory=list)


def tree(node: ast.AST) -> Tree:
    """Python's own syntax tree: a node by its class, a list of several nodes by its field; names and constants are leaves."""
    root = Tree(type(node).__name__)
    todo = [(node, root)]

    def add(value: object, field: str, parent: Tree) -> None:
        if not isinstance(value, ast.AST):
            # The text of a constant; its kind goes with it, "1" and 1 differ.
            parent.children.append(value if isinstance(value, str) and field != "value" else repr(value))
        elif not value._fields:
            parent.children.append(type(value).__name__)
        elif not isinstance(value, ast.expr_context):
            parent.children.append(own := Tree(type(value).__name__))
            todo.append((value, own))

    while todo:
        node, parent = todo.pop()
        for name, value in ast.iter_fields(node):
            if isinstance(value, list) and value:
                group = Tree(name)
                parent.children.append(group)
                for part in value:
                    add(part, name, group)
            elif (value is not None and not isinstance(value, (list, ast.expr_context))) or (
                name == "value" and isinstance(node, ast.Constant)
            ):
                add(value, name, parent)
    return root


def flatten(root: Tree) -> list[str]:
    """The mapping F of UniXcoder (Guo et al. 2022, algorithm 1), word by word; trees of any depth. A leaf that looks like a marker, or has spaces, is escaped."""
    words: list[str] = []
    todo: list[Tree | str | tuple[str]] = [root]
    while todo:
        item = todo.pop()
        if isinstance(item, tuple):
            words.append(f"<{item[0]},right>")
        elif isinstance(item, str):
            words.append(_escape(item))
        else:
            words.append(f"<{item.name},left>")
            todo += [(item.name,), *reversed(item.children)]
    return words


def unflatten(words: Sequence[str]) -> Tree:
    """The tree that `flatten` was given. Raises DataError for words that are none, e.g. because the end was cut off."""
    top = Tree("")
    path = [top]
    for i, word in enumerate(words):
        mark = _MARK.fullmatch(word)
        if mark is None:
            path[-1].children.append(_unescape(word))
        elif mark[2] == "left":
            own = Tree(mark[1])
            path[-1].children.append(own)
            path.append(own)
        elif path.pop().name != mark[1] or not path:
            raise DataError(f"word {i}, {word!r}, closes another node than the one that is open")
    if len(path) > 1 or len(top.children) != 1 or isinstance(top.children[0], str):
        raise DataError(f"{len(words)} words are no whole tree: {len(path) - 1} nodes are open at the end")
    return top.children[0]


def _escape(leaf: str) -> str:
    text = re.sub(r"\s", lambda m: f"\\u{ord(m[0]):04x}", leaf.replace("\\", "\\\\"))
    return f"\\{text}" if text.startswith("<") else text or "\\e"


def _unescape(word: str) -> str:
    def plain(mark: re.Match[str]) -> str:
        return chr(int(mark[2], 16)) if mark[2] else "" if mark[1] == "e" else mark[1]

    return re.sub(r"\\(u([0-9a-f]{4})|.)", plain, word)
