"""Which module imports which, found by parsing the source; nothing is imported."""

import ast
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TypeAlias

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("mmrep", "configs", "experiments")
Graph: TypeAlias = Mapping[str, Collection[str]]


def files(root: Path = ROOT, packages: Iterable[str] = PACKAGES) -> dict[str, Path]:
    """{module: its file}, by dotted name; a package stands for its `__init__.py`."""
    found = {}
    for path in sorted(p for package in packages for p in (root / package).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(path: Path, module: str) -> set[tuple[str, str]]:
    """(module, name or "") of every import in a file, also of those inside functions, but not under `if TYPE_CHECKING`."""
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]

    def walk(statements: Iterable[ast.AST]) -> Iterator[tuple[str, str]]:
        for node in statements:
            if isinstance(node, ast.Import):
                yield from ((alias.name, "") for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                above = package[: len(package) - node.level + 1] if node.level else []
                base = ".".join([*above, *([node.module] if node.module else [])])
                yield from ((base, alias.name) for alias in node.names)
            elif not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)):
                for inner in ("body", "orelse", "finalbody", "handlers", "cases"):
                    if isinstance(found := getattr(node, inner, None), list):  # an expression's body is no list
                        yield from walk(found)

    return set(walk(ast.parse(path.read_text(encoding="utf-8")).body))


def graph(known: Mapping[str, Path], of: Mapping[str, Path] | None = None) -> dict[str, set[str]]:
    """{module: the modules among `known` that it imports}, for those in `of`, or all.

    `from a import b` is an import of a.b where that is a module, else of a.
    """
    return {
        module: {
            f"{base}.{name}" if f"{base}.{name}" in known else base for base, name in imported(path, module)
        }.intersection(known)
        - {module}
        for module, path in (known if of is None else of).items()
    }  # fmt: skip


@cache
def of_project() -> dict[str, set[str]]:
    """The graph of mmrep, configs and experiments."""
    return graph(files())


def cone(arrows: Graph, start: Iterable[str]) -> set[str]:
    """`start` and all that it imports, directly or not. A package's `__init__` runs before its modules and belongs to it;
    that of a top-level package, which imports everything for the user's convenience, does not."""
    found: set[str] = set()
    open_ = list(start)
    while open_:
        module = open_.pop()
        if module not in found:
            found.add(module)
            parent = module.rpartition(".")[0]
            open_ += [*arrows.get(module, ()), *([parent] if "." in parent and parent in arrows else [])]
    return found


def circles(arrows: Graph) -> list[list[str]]:
    """The strongly connected groups of more than one node (Tarjan), each sorted."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in arrows.get(node, ()):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            group = [stack.pop()]
            while group[-1] != node:
                group.append(stack.pop())
            if len(group) > 1:
                found.append(sorted(group))

    for node in arrows:
        if node not in index:
            visit(node)
    return sorted(found)
