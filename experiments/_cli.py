"""What the commands share: SLUG -> config module, typed overrides, and errors as one sentence with exit code 2."""

import argparse
import ast
import contextlib
import dataclasses
import importlib
import io
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mmrep.errors import ConfigError, DataError, near

if TYPE_CHECKING:
    from mmrep.config import Experiment

ROOT = Path(__file__).resolve().parent.parent
SIZES = ("tiny", "small", "paper")


class Entry(NamedTuple):
    """A system as its config file states it, read without importing anything."""

    slug: str
    family: str
    title: str
    sizes: tuple[str, ...]
    path: Path


def entries() -> list[Entry]:
    """Every config, in the order of family and slug."""
    found = []
    for path in sorted((ROOT / "configs").glob("*/*.py")):
        if not path.stem.startswith("_"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            title = (ast.get_docstring(tree) or path.stem).splitlines()[0]
            found.append(Entry(path.stem, path.parent.name, title.rstrip("."), _sizes(tree), path))
    return found


def _sizes(tree: ast.Module) -> tuple[str, ...]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "SIZES" for t in node.targets):
            return tuple(ast.literal_eval(node.value))
    return SIZES


def find(slug: str) -> Entry:
    """The config of `slug`. Raises ConfigError with the nearest slug."""
    known = {e.slug: e for e in entries()}
    if slug not in known:
        raise ConfigError(f"no system {slug!r}{near(slug, known)}")
    return known[slug]


def module(slug: str) -> Any:
    """The imported config module of `slug`."""
    entry = find(slug)
    return importlib.import_module(f"configs.{entry.family}.{entry.slug}")


def experiment(slug: str, size: str, overrides: Sequence[str] = ()) -> "Experiment":
    """get_config(size) of `slug` with typed overrides ("--optim.lr", "3e-4") applied."""
    entry = find(slug)
    if size not in entry.sizes:
        raise ConfigError(f"{slug} has no size {size!r}{near(size, entry.sizes)}")
    return override(module(slug).get_config(size), overrides)


def override(config: "Experiment", args: Sequence[str]) -> "Experiment":
    """`config` with typed overrides. Raises ConfigError naming the field: an unknown one with its near names, or a wrong type."""
    if not args:
        return config
    import tyro

    known = set(_fields(config))
    for arg in args:
        name = arg.split("=")[0]
        if name.startswith("--") and name[2:].replace("-", "_") not in known:
            hint = near(name[2:].replace("-", "_"), known, "--fields lists them")
            raise ConfigError(f"{name} is no field of this config{hint}")
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            return tyro.cli(type(config), default=config, args=list(args), config=(tyro.conf.FlagConversionOff,))
    except SystemExit:
        raise ConfigError(_sentence(said.getvalue())) from None


def _fields(config: Any, prefix: str = "") -> Iterator[str]:
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        parts = list(enumerate(value)) if isinstance(value, tuple) else []
        if dataclasses.is_dataclass(value):
            yield from _fields(value, f"{prefix}{f.name}.")
        elif parts and all(dataclasses.is_dataclass(v) for _, v in parts):
            for i, v in parts:
                yield from _fields(v, f"{prefix}{f.name}.{i}.")
        else:
            yield prefix + f.name


def _sentence(box: str) -> str:
    lines = [re.sub(r"[│╭╮╰╯─]", " ", line).strip() for line in box.splitlines()]
    said = (line for line in lines if line.strip("-"))
    body = [*takewhile(lambda line: not line.startswith(("For full helptext", "Argument helptext")), said)]
    return " ".join(body[1:4] if len(body) > 1 else body) or "the command line could not be read"


class Command(NamedTuple):
    """A parsed command line."""

    slug: str
    size: str
    experiment: "Experiment"
    options: argparse.Namespace
    overrides: tuple[str, ...]


def parser(prog: str, description: str, *, size: bool = True) -> argparse.ArgumentParser:
    """The parser every command starts from: SLUG [--size SIZE]."""
    p = argparse.ArgumentParser(
        prog=f"python -m experiments.{prog}", description=description, allow_abbrev=False,
        epilog="Any field of the config can be given as --a.b value; SLUG --fields lists them." if size else None,
    )  # fmt: skip
    p.add_argument("slug", help="a system; python -m experiments.list shows all")
    if size:
        p.add_argument("--size", default="small", help="tiny (seconds), small (minutes on 2 cores) or paper")
        p.add_argument("--fields", action="store_true", help="list the config's fields with their values, and stop")
    return p


def parse(p: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> Command:
    """Parses SLUG, the command's own options and the config's overrides."""
    options, rest = p.parse_known_args(argv)
    stray = [a for a in rest[:1] if not a.startswith("-")]
    if stray:
        raise ConfigError(f"unexpected argument {stray[0]!r}: overrides are written --field value")
    config = experiment(options.slug, options.size, rest)
    if options.fields:
        for name in _fields(config):
            print(f"--{name.replace('_', '-')}  {_value(config, name)!r}")
        raise SystemExit(0)
    return Command(options.slug, options.size, config, options, tuple(rest))


def _value(config: Any, name: str) -> Any:
    for part in name.split("."):
        config = config[int(part)] if part.isdigit() else getattr(config, part)
    return config


def main(run: Callable[[], Any]) -> None:
    """Runs a command; an error that the user can mend is one sentence on standard error and exit code 2."""
    _ask_for_huge_pages()
    try:
        run()
    except (ConfigError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("interrupted; the same command resumes from the last checkpoint", file=sys.stderr)
        raise SystemExit(130) from None


def _ask_for_huge_pages() -> None:
    """Starts the command again with huge pages for glibc's large blocks. GLIBC_TUNABLES set to anything, or none, leaves it as it is.

    XLA's CPU backend allocates its scratch memory anew in every step: hundreds of MB of first touches, a fault for every 4 kB.
    """
    started = getattr(sys.modules["__main__"], "__spec__", None)
    command = started is not None and started.name.startswith("experiments.")
    if command and sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"  # read by the C library as the process starts
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def enable_compile_cache() -> None:
    """Keeps compiled programs on disk between runs, so that a restart and a second seed start at once."""
    import jax

    from mmrep import paths

    folder = os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(paths.cache() / "xla")
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def dump(row: dict[str, Any]) -> None:
    """One JSON line on standard output."""
    print(json.dumps(row, ensure_ascii=False, default=float))
