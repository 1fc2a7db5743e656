"""Everything imported is declared, requirements.txt installs what the two commands need, and the core runs without the extras."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions

import pytest

from mmrep import catalogue

PROJECT = tomllib.loads((catalogue.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
COMMANDS = ("data", "emoji", "eval", "report", "dev")  # what `make train` and `make test` need beside the core
# No feature needs these: they are imported where a user names them (refused with a sentence if missing), or only if installed.
OPTIONAL = {"open_clip", "torch", "wandb", "apache_beam", "pillow_heif", "gcp_storage_emulator"}
# Import names whose distribution has another name.
NAMES = {
    "PIL": "pillow",
    "sklearn": "scikit-learn",
    "faiss": "faiss-cpu",
    "orbax": "orbax-checkpoint",
    "absl": "absl-py",
}


def normal(requirement: str) -> str:
    """ "scikit-learn" of "scikit_learn>=1.6,<2"."""
    match = re.match(r"[\w.-]+", requirement)
    assert match, requirement
    return match[0].lower().replace("_", "-")


def declared(*extras: str) -> dict[str, str]:
    """{name: requirement} of the core and some extras."""
    found = [r for extra in extras for r in EXTRAS[extra] if not r.startswith("mmrep[")]
    return {normal(r): r for r in [*PROJECT["dependencies"], *found]}


def imported(*folders: str) -> dict[str, str]:
    """{distribution: a file that imports it}."""
    found, known = {}, packages_distributions()
    for path in (p for folder in folders for p in (catalogue.ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            for name in {n.split(".")[0] for n in names} - set(sys.stdlib_module_names) - OPTIONAL:
                found[normal(NAMES.get(name) or known.get(name, [name])[0])] = str(path)
    tests = list((catalogue.ROOT / "tests").rglob("*.py"))
    own = {"mmrep", "configs", "experiments", "tests"} | {p.stem for p in tests} | {p.parent.name for p in tests}
    return {k: v for k, v in found.items() if k.replace("-", "_") not in own}


def test_nothing_imported_is_undeclared():
    extras = [e for e in EXTRAS if e != "dev"]
    undeclared = {k: v for k, v in imported("mmrep", "configs", "experiments").items() if k not in declared(*extras)}
    assert not undeclared, "declare these in pyproject.toml"
    undeclared = {k: v for k, v in imported("tests").items() if k not in declared(*EXTRAS)}
    assert not undeclared, "declare these in pyproject.toml, under dev"


def test_requirements_are_those_of_the_two_commands():
    lines = (catalogue.ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    listed = {normal(line): line for line in lines if line and not line.startswith("#")}
    assert listed == declared(*COMMANDS), "write requirements.txt anew from pyproject.toml"


TRAIN = """
import sys
sys.modules.update(dict.fromkeys({absent}))  # importing them fails as if they were not installed

import dataclasses, pathlib
from mmrep import catalogue
from mmrep.training.loop import train

config = dataclasses.replace(catalogue.experiment("clip", "tiny"), evals=())
print(train(config, pathlib.Path({folder!r}), progress=False).rows[-1]["step"])
"""


@pytest.mark.slow
def test_the_core_trains_a_system_without_the_extras(tmp_path):
    tops = {dist: name for name, dist in NAMES.items()}
    needed_by_the_core_itself = {"scipy", "absl-py", "array-record"}
    extra = set(declared(*COMMANDS)) - set(declared()) - needed_by_the_core_itself
    absent = {tops.get(name, name.replace("-", "_")) for name in extra} | {"tensorboardX"}
    code = TRAIN.format(absent=absent, folder=str(tmp_path / "run"))
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=catalogue.ROOT, env=environment
    )
    assert done.returncode == 0 and int(done.stdout) > 0, done.stderr[-2000:]
    assert (tmp_path / "run" / "metrics.jsonl").exists()
