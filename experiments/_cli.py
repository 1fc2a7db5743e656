"""What the commands share: SLUG [options] [overrides] -> a config, and errors as one sentence with exit code 2."""

import contextlib
import dataclasses
import errno
import io
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeVar, get_args, get_type_hints

import tyro

from experiments import _overrides
from mmrep import catalogue, paths
from mmrep.errors import ConfigError, DataError, near

if TYPE_CHECKING:
    from mmrep.config import Data, Experiment
    from mmrep.model import Model

T = TypeVar("T")
FLAT = tyro.conf.arg(name="")  # a nested dataclass whose options carry no prefix
FOLDER = tyro.conf.arg(metavar="FOLDER")
_POSITIONAL = get_args(tyro.conf.Positional[str])[1]
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENOSPC, errno.ENAMETOOLONG, errno.EISDIR)
_DATA = ("data.source.", "data.eval_batch_size", "data.max_bad_records", "data.workers", "data.prefetch")
NOTE = "Any field of the config can be given as --a.b VALUE; SLUG --fields lists them."


@dataclasses.dataclass(frozen=True)
class Which:
    """The system that a command works on."""

    slug: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SLUG")]
    """a system; the command `list` shows all"""
    size: str = "small"
    """width and depth: tiny (seconds), small (minutes on 2 cores) or paper"""
    variant: str = ""
    """a stage or a task, for systems that have several"""
    fields: bool = False
    """list the config's fields with their values, and stop"""


@dataclasses.dataclass(frozen=True)
class Command(Generic[T]):
    """A parsed command line: the system, its config with the overrides applied, and the command's own options."""

    slug: str
    size: str
    variant: str
    experiment: "Experiment"
    options: T
    overrides: tuple[str, ...]

    def workdir(self, given: Path | None) -> paths.Place:
        """`given`, a folder or the URL of one, or runs/SLUG-SIZE[-VARIANT]."""
        return paths.at(given) if given else Path("runs") / "-".join(filter(None, (self.slug, self.size, self.variant)))

    def run_folder(self, given: Path | None) -> paths.Place:
        """The folder of a run that exists. Raises ConfigError where it holds none."""
        folder = self.workdir(given)
        if not paths.exists(folder / "config.json"):
            raise ConfigError(f"{folder} holds no run: train first, or give --workdir")
        from mmrep.training.workdir import read_config

        slug = read_config(folder).get("slug", self.slug)
        if slug != self.slug:
            raise ConfigError(
                f"{folder} holds a run of {slug}, not of {self.slug}: give its own name, or another --workdir"
            )
        return folder

    def trained(self, given: Path | None) -> "Model":
        """The model of the run's folder; where there is no run and none was given, the one that comes with mmrep.

        Raises ConfigError where there is neither.
        """
        import mmrep

        folder = self.workdir(given)
        shipped = catalogue.shipped(self.slug) if self.size == "small" and not self.variant else None
        if given is None and shipped and not paths.exists(folder / "config.json"):
            return mmrep.load(shipped)
        return mmrep.load(self.run_folder(given))

    def run_data(self, experiment: "Experiment", also: tuple[str, ...] = ()) -> "Data":
        """The data of the run's own config, with the overrides of where and how it is read.

        also: prefixes of overrides that the command itself takes.   Raises ConfigError for any other override.
        """
        return run_data(experiment, self.overrides, also)


def parse(options: type[T], description: str, argv: Sequence[str] | None = None, size: str = "small") -> Command[T]:
    """SLUG, the fields of the dataclass `options`, and overrides of the config. `size` is the default of --size.

    Raises ConfigError for an invalid command line.
    """
    which = Annotated[Which, FLAT, tyro.conf.arg(default=Which(tyro.MISSING, size))]
    whole: Any = dataclasses.make_dataclass("Options", [("which", which), ("own", Annotated[options, FLAT])])
    found, rest = _read(whole, f"{description}\n\n{NOTE}", argv)
    w = found.which
    config = catalogue.experiment(w.slug, w.size, w.variant)
    config = _overrides.override(config, rest, [name for name, _, _ in _flat(whole)])
    if w.fields:
        for name, hint in _overrides.fields(config):
            if _overrides.spelled(hint):
                print(f"--{name.replace('_', '-')}  {_overrides.value_of(config, name)!r}")
        raise SystemExit(0)
    return Command(w.slug, w.size, w.variant, config, found.own, tuple(rest))


def run_data(experiment: "Experiment", overrides: Sequence[str], also: tuple[str, ...] = ()) -> "Data":
    """See `Command.run_data`."""
    taken: list[str] = []
    for flag, values in _overrides.grouped(overrides):
        name = flag.removeprefix("--").replace("-", "_")
        if name.startswith(_DATA):
            taken += [flag, *values]
        elif not name.startswith(also or ("--",)):
            raise ConfigError(
                f"{flag}: the run's own config is used; only where its data is may change, e.g. --data.source.path"
            )
    return _overrides.override(experiment, taken).data


def parse_options(options: type[T], description: str, argv: Sequence[str] | None = None) -> T:
    """The fields of the dataclass `options`, for a command without overrides. Raises ConfigError."""
    return parse_with(options, description, (), argv)[0]


def parse_with(
    options: type[T], description: str, overrides: tuple[str, ...], argv: Sequence[str] | None = None
) -> tuple[T, list[str]]:
    """The fields of the dataclass `options`, and the words of overrides that begin with one of `overrides`.

    Raises ConfigError for any other word.
    """
    found, rest = _read(options, description, argv)
    for flag, _ in _overrides.grouped(rest):
        if flag.removeprefix("--").startswith(overrides or ("--",)):
            continue
        known = [name.replace("_", "-") for name, _, _ in _flat(options)]
        raise ConfigError(f"{flag} is no option of this command{near(flag[2:], known)}")
    return found, rest


def experiment(slug: str, size: str = "small", overrides: Sequence[str] = (), variant: str = "") -> "Experiment":
    """The config of `slug` with typed overrides (["--optim.lr", "3e-4"]) applied."""
    return _overrides.override(catalogue.experiment(slug, size, variant), overrides)


def _read(kind: type[T], description: str, argv: Sequence[str] | None) -> tuple[T, list[str]]:
    """(the options, the words that are none). Raises ConfigError where tyro refuses a word or misses one."""
    args = list(sys.argv[1:] if argv is None else argv)
    helping = any(word in ("-h", "--help") for word in args)
    try:
        with contextlib.nullcontext() if helping else contextlib.redirect_stderr(io.StringIO()):
            return tyro.cli(
                kind, prog=program(), description=description, args=args, return_unknown_args=True,
                config=(tyro.conf.FlagCreatePairsOff,),
            )  # fmt: skip
    except SystemExit:
        if helping:
            raise
        raise ConfigError(_mistake(kind, args)) from None


def _mistake(kind: type, args: Sequence[str]) -> str:
    """Why `args` are no options of `kind`, in one sentence."""
    first = next((i for i, word in enumerate(args) if word.startswith("--")), len(args))
    given = dict(_overrides.grouped(args[first:]))
    for name, hint, required in _flat(kind):
        flag = f"--{name.replace('_', '-')}"
        if flag in given and hint is not bool:
            try:
                _overrides.convert(flag, hint, given[flag][:1])
            except ConfigError as error:
                return str(error)
        positional = _POSITIONAL in getattr(hint, "__metadata__", ())
        if required and (first == 0 if positional else flag not in given):
            return f"{name.upper() if positional else flag} is missing: {program()} --help shows the options"
    return f"the command line is invalid: {program()} --help shows the options"


def _flat(kind: Any) -> list[tuple[str, Any, bool]]:
    """(name, type, whether it has no default) of every option, those of nested dataclasses included."""
    found, hints = [], get_type_hints(kind, include_extras=True)
    for f in dataclasses.fields(kind):
        bare = getattr(hints[f.name], "__origin__", hints[f.name])
        if dataclasses.is_dataclass(bare):
            found += _flat(bare)
        else:
            found.append((f.name, hints[f.name], f.default is dataclasses.MISSING))
    return found


def program() -> str:
    """How this command was started: "mmrep train" or "python -m experiments.train"."""
    return sys.argv[0] if sys.argv[0].startswith("mmrep ") else f"python -m experiments.{Path(sys.argv[0]).stem}"


def main(run: Callable[[], Any]) -> None:
    """Runs a command. An error that the user can correct is one sentence on standard error and exit code 2.

    A reader that closes the pipe early (`... | head`) ends the command without a message.
    """
    _use_huge_pages()
    try:
        catalogue.check_import("configs")
        run()
        sys.stdout.flush()
    except (ConfigError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more at its end
        raise SystemExit(141) from None
    except OSError as error:
        far = isinstance(error.filename, str) and paths.is_url(error.filename)
        if far:
            print(
                f"error: {error.filename} cannot be used ({error.strerror}): check URL, credentials and network",
                file=sys.stderr,
            )
            raise SystemExit(2) from None
        if error.errno not in _REFUSED or not error.filename:
            raise
        print(f"error: {error.filename} cannot be used ({error.strerror}): give another path", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("interrupted; the same command resumes from the last checkpoint", file=sys.stderr)
        raise SystemExit(130) from None


def _use_huge_pages() -> None:
    """Starts the command again with huge pages for glibc's large blocks. GLIBC_TUNABLES set to anything, or to nothing, prevents this.

    XLA's CPU backend allocates its scratch memory anew in every step: hundreds of MB of first touches, a page fault for every 4 kB.
    """
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    command = sys.argv[0].startswith("mmrep ") or (spec is not None and spec.name.startswith("experiments."))
    if command and sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"  # used by the C library when a process starts
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def enable_compile_cache() -> None:
    """Keeps compiled programs on disk between runs, so that a restart and a second seed start at once."""
    import jax

    folder = os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(paths.local_cache() / "xla")
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def dump(row: dict[str, Any]) -> None:
    """One JSON line on standard output."""
    print(json.dumps(row, ensure_ascii=False, default=float))
