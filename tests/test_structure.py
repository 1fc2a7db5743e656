"""The shape of the code: which module may import which, what shared folders may hold, and how long files may be.

`TODO` holds what still breaks a rule: a new offence fails, and so does an entry that has been mended and not taken out.
"""

import re
from collections import defaultdict
from collections.abc import Iterable

import imports

FILES = imports.files()
ARROWS = imports.of_project()
LARGE = "masked/fourm"  # with its decoding, the stated exception from the limits on lines
SHARED = ("nn", "losses", "masking", "evals", "generation")
# A system's files about trained models: what its `build` needs does not import them. The recipes' evaluators are such files, too.
OUTSIDE = r"mmrep\.systems\..+\.(evals|steering|panels|weights|export|judged)|mmrep\.systems\.recipes\.(climate|emoji|emoji_locked)"

# From the bottom up: a module imports from its own level and from those below it. The first pattern that matches counts.
LEVELS = {
    "errors": r"mmrep\.errors",
    "files": r"mmrep\.(paths|raw|catalogue)",
    "modality": r"mmrep\.modality",
    "config": r"mmrep\.(config|limits)",
    "system": r"mmrep\.system",
    "solvers": r"mmrep\.solvers",
    "parts": r"mmrep\.(nn|losses|masking|generation|data|interop)(\..+)?",
    "model": r"mmrep\.model",
    "training": r"mmrep\.training(\..+)?",
    "evaluation": r"mmrep\.(evals|report)(\..+)?",
    "evaluators of systems": OUTSIDE,
    "api": r"mmrep\.(api|__main__)|mmrep",
    "configs": r"configs(\..+)?",
    "commands": r"experiments(\..+)?",
}
ORDER = list(LEVELS)
# On the level of the parts they are made of: they know neither model nor training, which do not know them.
SYSTEMS = r"mmrep\.systems(\..+)?"

TODO: dict[str, set[str]] = {
    "sizes": {
        "contrastive/symile has more than 500 lines",
        "mmrep.systems.tokenizers.vqvae has more than 200 lines",
        "tokenizers/vqvae has more than 500 lines",
        "recipes/finetune has more than 500 lines",
    },
    "users": {
        "mmrep.nn.set_prediction has 1 user(s): move it, and its test, to videolights",
    },
}


def only(found: Iterable[str], rule: str) -> None:
    """Fails for an offence that is not in `TODO[rule]`, and for an entry there that is no offence any more."""
    found = set(found)
    new, mended = sorted(found - TODO.get(rule, set())), sorted(TODO.get(rule, set()) - found)
    assert not new, "\n".join(new)
    assert not mended, "mended; take out of TODO:\n" + "\n".join(mended)


def level(module: str) -> int:
    names = [name for name, pattern in LEVELS.items() if re.fullmatch(pattern, module)]
    if not names and re.fullmatch(SYSTEMS, module):
        names = ["parts"]
    assert names, f"{module} has no level: give it one in LEVELS"
    return ORDER.index(names[0])


def system_of(module: str) -> str:
    """ "masked/croma" for mmrep.systems.masked.croma.evals; "" for what belongs to no system."""
    parts = module.split(".")
    return "/".join(parts[2:4]) if parts[:2] == ["mmrep", "systems"] and len(parts) > 3 else ""


def test_no_imports_go_in_circles():
    assert not imports.circles(ARROWS)
    packages: dict[str, set[str]] = defaultdict(set)
    for module, targets in ARROWS.items():
        packages[package(module)] |= {package(t) for t in targets} - {package(module)}
    assert not imports.circles(packages)


def package(module: str) -> str:
    """mmrep.nn for mmrep.nn.encoders.text; a system's evaluators stand apart from its model."""
    return "evaluators of systems" if re.fullmatch(OUTSIDE, module) else ".".join(module.split(".")[:2])


def test_no_import_goes_upward():
    found = []
    for module, targets in ARROWS.items():
        found += [f"{module} imports {t}, which stands above it" for t in targets if level(t) > level(module)]
        if level(module) < ORDER.index("api") and not system_of(module):
            found += [f"{module} imports {t}: shared code knows no system" for t in targets if system_of(t)]
    only(found, "upward")


def test_systems_import_no_other_system_and_no_config():
    found = []
    for module, targets in ARROWS.items():
        if own := system_of(module):
            found += [
                f"{module} imports {t}: what two systems share moves down"
                for t in targets
                if system_of(t) not in ("", own)
            ]
    only(found, "systems")


def unit(module: str) -> str:
    """Who uses a shared file: a system and its config together, a command, or another part of mmrep."""
    parts = module.split(".")
    if parts[0] == "configs":
        return parts[2].lstrip("_") if len(parts) > 2 else ""
    if parts[0] == "experiments":
        return module
    return system_of(module).rpartition("/")[2] or ".".join(parts[:2])


def users(file: str, importers: dict[str, set[str]]) -> set[str]:
    """The units that import a shared file, directly or through other shared files."""
    found, seen, open_ = set(), set(), [file]
    while open_:
        for module in importers[open_.pop()] - seen:
            seen.add(module)
            if shared(module):
                open_.append(module)
            else:
                found.add(unit(module))
    return found


def shared(module: str) -> bool:
    parts = module.split(".")
    return parts[0] == "mmrep" and len(parts) > 2 and parts[1] in SHARED


def test_shared_files_have_two_users():
    importers: dict[str, set[str]] = defaultdict(set)
    for module, targets in ARROWS.items():
        for target in targets:
            importers[target].add(module)
    found = []
    for module in filter(shared, ARROWS):
        # Each kind of encoder has its file in one place, however few use it.
        exempt = FILES[module].name == "__init__.py" or module.startswith("mmrep.nn.encoders.")
        if not exempt and len(by := users(module, importers)) < 2:
            place = f"move it, and its test, to {min(by)}" if by else "nothing imports it: delete it"
            found.append(f"{module} has {len(by)} user(s): {place}")
    only(found, "users")


def lines(module: str) -> int:
    return len(FILES[module].read_text(encoding="utf-8").splitlines())


def test_files_and_folders_keep_their_size():
    """A system's file has at most 200 lines and its folder 500; a config's file has at most 140."""
    found, folders = [], defaultdict(int)
    for module in FILES:
        own = system_of(module)
        limit = 140 if module.startswith("configs.") else 200 if own and own != LARGE else None
        folders[own] += lines(module)
        if limit and lines(module) > limit:
            found.append(f"{module} has more than {limit} lines")
    found += [f"{s} has more than 500 lines" for s, n in folders.items() if s not in ("", LARGE) and n > 500]
    only(found, "sizes")


# The tests of the tests' own reader.


def test_circles_are_found():
    arrows = {"a": ["b"], "b": ["c"], "c": ["a", "d"], "d": [], "e": ["f"], "f": ["e"]}
    assert imports.circles(arrows) == [["a", "b", "c"], ["e", "f"]]


def test_imports_are_read_from_functions_and_relative_ones_too(tmp_path):
    package = tmp_path / "p"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "a.py").write_text("import os\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import p.d\n")
    (package / "b.py").write_text("def f():\n    from p import a\n    from .c import x\n")
    (package / "c.py").write_text("from p.a import b\nx = 1\n")
    (package / "d.py").write_text("from . import c\nimport p.b\n")
    found = imports.graph(imports.files(tmp_path, ["p"]))
    assert found == {"p": set(), "p.a": set(), "p.b": {"p.a", "p.c"}, "p.c": {"p.a"}, "p.d": {"p.c", "p.b"}}
    assert imports.cone(found, ["p.d"]) == {"p.a", "p.b", "p.c", "p.d"}
