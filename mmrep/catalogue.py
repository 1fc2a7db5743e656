"""The systems of this installation, found by their config files. Listing them imports no config and no JAX."""

import ast
import importlib
import importlib.util
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from mmrep.errors import ConfigError, near

if TYPE_CHECKING:
    from mmrep.config import Experiment

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "configs"
ASSETS = Path(__file__).resolve().parent / "assets"
SIZES = ("tiny", "small", "paper")
Kind = Literal["paper", "recipe", "tokenizer"]
_KINDS: dict[str, Kind] = {"recipes": "recipe", "tokenizers": "tokenizer"}


class Entry(NamedTuple):
    """A config as its source text describes it.

    title: first line of the docstring.   sizes, variants: the literals SIZES and VARIANTS of the module (or, in a package, of one of
    its files).   path: the file, or the package's `__init__.py`.
    """

    slug: str
    family: str
    title: str
    sizes: tuple[str, ...]
    variants: tuple[str, ...]
    path: Path

    @property
    def kind(self) -> Kind:
        """Published systems are papers; `configs/recipes` and `configs/tokenizers` are listed apart."""
        return _KINDS.get(self.family, "paper")


def entries(folder: Path = CONFIGS) -> list[Entry]:
    """Every `<family>/<slug>.py` and `<family>/<slug>/__init__.py` under `folder`, ordered by family and slug.

    Names that begin with an underscore are helpers and are left out.
    """
    found = [_entry(path, slug, family) for slug, (path, family) in _places(folder).items()]
    return sorted(found, key=lambda e: (e.family, e.slug))


def _places(folder: Path) -> dict[str, tuple[Path, str]]:
    """{slug: (its file, its family)}, without reading any: a config is named by its place."""
    files = [p for p in folder.glob("*/*.py") if not p.name.startswith("_")]
    packages = [p for p in folder.glob("*/*/__init__.py") if not p.parent.name.startswith("_")]
    found = {p.stem: (p, p.parent.name) for p in files}
    return found | {p.parent.name: (p, p.parent.parent.name) for p in packages}


def _entry(path: Path, slug: str, family: str) -> Entry:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    title = (ast.get_docstring(tree) or slug).splitlines()[0].rstrip(".")
    trees = [tree]
    if path.name == "__init__.py":
        trees += [ast.parse(p.read_text(encoding="utf-8")) for p in sorted(path.parent.glob("*.py")) if p != path]
    return Entry(slug, family, title, _literal(trees, "SIZES", SIZES), _literal(trees, "VARIANTS", ()), path)


def _literal(trees: list[ast.Module], name: str, default: tuple[str, ...]) -> tuple[str, ...]:
    """The tuple assigned to `name` at the top of the first module that has it."""
    for node in (node for tree in trees for node in tree.body):
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
            return tuple(ast.literal_eval(node.value))
    return default


def families(found: list[Entry]) -> list[str]:
    """The families of `found`: those of papers, the largest first, then recipes and tokenizers."""
    count = Counter(e.family for e in found)
    return sorted(count, key=lambda family: (family in _KINDS, -count[family], family))


def find(slug: str) -> Entry:
    """The config of `slug`. Raises ConfigError with the nearest slug."""
    path, family = _place(slug)
    return _entry(path, slug, family)


def _place(slug: str) -> tuple[Path, str]:
    known = _places(CONFIGS)
    if slug not in known:
        raise ConfigError(f"no system {slug!r}{near(slug, known)}")
    return known[slug]


def shipped(slug: str) -> Path | None:
    """The file of the trained model of `slug` that comes with mmrep, at its size small; None where there is none."""
    path = ASSETS / f"{slug}.safetensors"
    return path if path.is_file() else None


def module(slug: str) -> Any:
    """The imported config module of `slug`. Raises ConfigError for an unknown slug, or where another `configs` hides this one."""
    _, family = _place(slug)
    check_import("configs")
    return importlib.import_module(f"configs.{family}.{slug}")


def check_import(package: str) -> None:
    """Raises ConfigError where importing `package` ("configs", "experiments") would find a user's folder of the same name."""
    spec = importlib.util.find_spec(package)
    places = [Path(p).resolve() for p in (spec.submodule_search_locations or ())] if spec else []
    if places and ROOT / package not in places:
        raise ConfigError(
            f"{places[0]} hides mmrep's own package {package!r}: rename that folder, or run from another directory"
        )


def experiment(slug: str, size: str = "small", variant: str = "") -> "Experiment":
    """get_config(size, variant) of `slug`. Raises ConfigError for an unknown slug, size or variant, with the nearest name."""
    entry = find(slug)
    if size not in entry.sizes:
        raise ConfigError(f"{slug} has no size {size!r}{near(size, entry.sizes)}")
    if variant and not entry.variants:
        raise ConfigError(f"{slug} has no variants: leave out {variant!r}")
    if variant and variant not in entry.variants:
        raise ConfigError(f"{slug} has no variant {variant!r}{near(variant, entry.variants)}")
    get_config = module(slug).get_config
    return get_config(size, variant) if variant else get_config(size)
