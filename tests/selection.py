"""Which tests a run takes: all (the default), those that a change calls for (--changed), or one part of all (--part 3/8).

--changed takes the config and parameter tree of every system (test_spec), the other generic tests and the own tests of the panel and of at
most six systems more (those whose config imports, directly or not, a file that the change touches), and the function-level tests that
import such a file, or name a system or a command that does. `slow` tests run only with all or a part.
"""

import hashlib
import re
import subprocess
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import imports
import pytest

# One of each kind of training. They run at every change, and carry the tests of what hardly depends on the system.
PANEL = ("clip", "filip", "albef", "modx", "multimae", "fourm", "vqvae", "invgc")
MOST = 6
# Systems that no config is named after: they are used by other systems' configs, and tested where a change meets them.
WITHOUT_CONFIG = {"finetune": "mmrep.systems.recipes.finetune"}


def git(*args: str, root: Path = imports.ROOT) -> str | None:
    """What git prints, or None without git, a repository or the commit."""
    try:
        return subprocess.run(["git", *args], cwd=root, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def changed_files(root: Path = imports.ROOT) -> set[str] | None:
    """The files that differ from where this branch left main, or on main from the commit before; None where git knows neither."""
    head = git("rev-parse", "HEAD", root=root)
    bases = [git("merge-base", "HEAD", name, root=root) for name in ("origin/main", "main")]
    base = next((b for b in bases if b and b != head), None) or git("rev-parse", "--verify", "HEAD~1", root=root)
    if base is None:
        return None
    differing = git("diff", "--name-only", base, root=root)
    new = git("ls-files", "--others", "--exclude-standard", root=root)
    return None if differing is None or new is None else {*differing.split("\n"), *new.split("\n")} - {""}


def owner(path: Path, slugs: Iterable[str]) -> str:
    """The system whose own tests a file under tests/systems holds, or "": test_filip_evals.py -> filip."""
    if "systems" not in path.parts:
        return ""
    stem = path.stem.removeprefix("test_")
    return max((s for s in slugs if stem == s or stem.startswith(f"{s}_")), key=len, default="")


def affected(changed: Collection[str], configs: Mapping[str, str]) -> list[str]:
    """The systems whose import cone meets `changed`, those first that share the changed files with the fewest others.

    configs: {slug: its config's module}.
    """
    arrows, files = imports.of_project(), imports.files()
    modules = {str(path.relative_to(imports.ROOT)): module for module, path in files.items()}
    touched = {modules[f] for f in changed if f in modules}
    tests = {owner(Path(f), configs) for f in changed if f.startswith("tests/systems/")}
    found = {slug: imports.cone(arrows, [module]) & touched for slug, module in configs.items()}
    users = Counter(module for meets in found.values() for module in meets)
    order = {s: min((users[m] for m in meets), default=0) for s, meets in found.items() if meets or s in tests}
    return sorted(order, key=lambda slug: (order[slug], digest(slug, *sorted(changed))))


def chosen(changed: Collection[str] | None, configs: Mapping[str, str]) -> set[str]:
    """The panel and at most `MOST` affected systems more."""
    panel = {s for s in PANEL if s in configs}
    return panel | set([s for s in affected(changed or (), configs) if s not in panel][:MOST])


def untouched(changed: Collection[str], configs: Mapping[str, str]) -> set[Path]:
    """The function-level test files that no changed file can make fail.

    A test depends on what it imports and, through commands and configs found by name, on every system and command whose name it contains.
    Texts, results and notebooks have their tests directly in tests/, which always run. All run where any other file changed that no module
    imports: a golden file, the dependencies, conftest.py.
    """
    root, folder = imports.ROOT, imports.ROOT / "tests"
    own = {p for p in folder.rglob("test_*.py") if p.relative_to(folder).parts[0] not in (p.name, "generic", "systems")}
    helpers = {m.removeprefix("tests."): p for m, p in imports.files(root, ("tests",)).items() if p.stem != "conftest"}
    files = imports.files() | helpers
    names = {str(path.relative_to(root)): module for module, path in files.items()}
    if any(f not in names and not re.match(r"(docs|results|notebooks)/|[^/]*\.md$", f) for f in changed):
        return set()
    touched, arrows = {names[f] for f in changed if f in names}, imports.of_project() | imports.graph(files, helpers)
    commands = {m.rpartition(".")[2]: m for m in files if m.startswith("experiments.")}
    by_name = commands | dict(configs)

    def depends(path: Path) -> bool:
        words = re.findall(r"\w+", path.read_text(encoding="utf-8"))
        cone = imports.cone(arrows, {names[str(path.relative_to(root))], *(by_name[w] for w in words if w in by_name)})
        return bool(cone & touched)

    return {path for path in own if not depends(path)}


def digest(*words: str) -> int:
    return int(hashlib.sha256("/".join(words).encode()).hexdigest()[:15], 16)


def part(text: str) -> tuple[int, int]:
    """(K, N) of "K/N"; of "commit/N" a K that the hash of the commit chooses, or 1 without git. Raises UsageError for anything else."""
    which, _, number = text.partition("/")
    if number.isdigit() and int(number):
        parts, commit = int(number), git("rev-parse", "HEAD") or ""
        chosen = (
            (1 + digest(commit) % parts if commit else 1) if which == "commit" else int(which) if which.isdigit() else 0
        )
        if 1 <= chosen <= parts:
            return chosen, parts
    raise pytest.UsageError(f"--part is {text!r}: write K/N with 1 <= K <= N, or commit/N")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--changed", action="store_true", help="the tests that the change since main calls for")
    parser.addoption(
        "--part", metavar="K/N", help="part K of N of all tests; K is a number, or commit: chosen by its hash"
    )


def unit(item: pytest.Item) -> str:
    """What shares state and stays together: a system's generic tests, or a file."""
    slug = item.callspec.params.get("slug") if hasattr(item, "callspec") else None
    return str(slug) if slug and item.path.parent.name == "generic" else item.path.stem


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Files of which no test would be kept: to import them, and the systems that they import, is most of the time of collecting."""
    path = collection_path
    if not path.name.startswith("test_") or path.parent.name == "generic":
        return None
    if config.getoption("--changed"):
        slug = owner(path, config.stash[SLUGS])
        left_out = (slug and slug not in config.stash[SYSTEMS]) or path in config.stash[UNTOUCHED]
        return True if left_out else None
    if config.getoption("--part"):
        number, parts = config.stash[PART]
        return True if digest(path.stem) % parts != number - 1 else None
    return None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    kept = items
    if config.getoption("--changed"):
        systems = config.stash[SYSTEMS]
        kept = [item for item in items if _called_for(item, systems, config.stash[SLUGS])]
    elif config.getoption("--part"):
        number, parts = config.stash[PART]
        kept = [item for item in items if digest(unit(item)) % parts == number - 1]
    config.hook.pytest_deselected(items=[item for item in items if item not in set(kept)])
    items[:] = kept


def _called_for(item: pytest.Item, systems: Collection[str], slugs: Collection[str]) -> bool:
    if item.get_closest_marker("slow"):
        return False
    generic = item.path.parent.name == "generic" and item.path.stem != "test_spec"
    slug = item.callspec.params.get("slug", "") if generic and hasattr(item, "callspec") else owner(item.path, slugs)
    return not slug or slug in systems


SYSTEMS, SLUGS, PART = pytest.StashKey[set[str]](), pytest.StashKey[set[str]](), pytest.StashKey[tuple[int, int]]()
UNTOUCHED = pytest.StashKey[set[Path]]()


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--changed"):
        from mmrep import catalogue

        configs = {e.slug: f"configs.{e.family}.{e.slug}" for e in catalogue.entries()}
        configs |= WITHOUT_CONFIG
        config.stash[SLUGS] = set(configs)
        changed = changed_files()
        config.stash[SYSTEMS] = chosen(changed, configs)
        config.stash[UNTOUCHED] = set() if changed is None else untouched(changed, configs)
    elif config.getoption("--part"):
        config.stash[PART] = part(config.getoption("--part"))


def pytest_report_header(config: pytest.Config) -> str:
    if config.getoption("--changed"):
        return f"systems tested in full: {', '.join(sorted(config.stash[SYSTEMS]))}"
    if config.getoption("--part"):
        return "part {} of {} of all tests".format(*config.stash[PART])
    return "all tests"
