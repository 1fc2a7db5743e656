"""Real 3D models with names in many languages: the furniture of Sweet Home 3D as point clouds.

An optional source: nothing is downloaded. `apt install sweethome3d-furniture` (Debian, Ubuntu) puts catalogues, zip files that end in .sh3f, where
`Furniture()` finds them; a folder of such files does as well. CC BY 3.0 and CC0, see the package.
"""

import hashlib
import io
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from mmrep import paths
from mmrep.data import decode, splits
from mmrep.data.columns import Columns, Record
from mmrep.errors import ConfigError, DataError

USUAL = Path("/usr/share/sweethome3d/furniture")
PACKAGE = "sweethome3d-furniture"
_SURFACE = 2048  # points kept of each model
_MARKS = ("blend swap", "scpts")  # tags that name where a model is from


@dataclass(frozen=True)
class Furniture:
    """Records: points and points_b float32 [n_points, 3], two deformations of a model, as those of `ShapeData` (turned about the vertical axis, scaled,
    other points of its surface, noise); text, its name, tags and category in lower case; name and category; name_<language>; image uint8 [H, W, 3], its
    icon; shape int32, equal for equal texts.

    languages: of the names beside the English one, as the catalogues' files name them ("de", "zh_CN").   noise: of the points, where a model
    fits into [-1, 1]^3.   folder: empty: where the package puts its catalogues.
    The first use samples the surfaces of all models (about a minute), which are kept in the cache.

    The split keeps together models of one English name but for its number, and those whose meshes have equally many vertices and faces: copies in
    another colour.
    """

    n_points: int = 96
    noise: float = 0.02
    languages: tuple[str, ...] = ()
    folder: str = ""
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)

    def __post_init__(self) -> None:
        splits.check_fractions(self.fractions)
        if not 2 <= self.n_points <= _SURFACE or self.noise < 0:
            raise ConfigError(
                f"n_points is {self.n_points} and noise {self.noise}: give 2 to {_SURFACE} points, and 0 or more"
            )

    @property
    def attribution(self) -> tuple[str, ...]:
        return (
            "3D models: Sweet Home 3D's catalogues by Kator Legaz, Scopia, Reallusion and contributors of Blend Swap (CC BY 3.0, CC0).",
        )

    def open(self, split: str) -> Columns:
        """The models of `split`. Raises DataError where the package is missing or a language is in no catalogue."""
        splits.check(split)
        models, surfaces, groups = _models(self.folder)
        side = lambda i: splits.hashed(groups[i], self.fractions)  # noqa: E731
        rows = splits.choose(range(len(models)), side, split, "furniture", "set fractions")
        ids = {text: i for i, text in enumerate(sorted({m.text for m in models}))}
        columns: dict[str, Any] = {
            "surface": surfaces[list(rows)], "row": np.array(rows, np.int32), "text": [models[i].text for i in rows],
            "name": [models[i].name for i in rows], "category": [models[i].category for i in rows],
            "shape": np.array([ids[models[i].text] for i in rows], np.int32), "image": [models[i].icon for i in rows],
        }  # fmt: skip
        for language in self.languages:
            if not any(language in m.names for m in models):
                known = ", ".join(sorted({k for m in models for k in m.names}))
                raise DataError(f"no catalogue has names in {language!r}; there are {known}")
            columns[f"name_{language}"] = [models[i].names.get(language, models[i].name) for i in rows]
        return Columns(columns)

    def texts(self, split: str) -> Iterator[str]:
        columns = self.open(split).columns
        for name in ("text", *(f"name_{k}" for k in self.languages)):
            yield from columns[name]

    def view(self, record: Record, rng: np.random.Generator | None) -> Record:
        rng = rng or np.random.default_rng(int(record["row"]))
        shown = {k: v for k, v in record.items() if k != "surface"}
        return shown | {name: self._cloud(record["surface"], rng) for name in ("points", "points_b")}

    def _cloud(self, surface: Float[np.ndarray, "S 3"], rng: np.random.Generator) -> Float[np.ndarray, "N 3"]:
        x = surface[rng.choice(len(surface), self.n_points, replace=False)]
        angle = rng.uniform(0, 2 * np.pi)
        turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
        x = (x - x.mean(0)) @ turn.T * rng.uniform(0.8, 1.25, 3)
        return (x + self.noise * rng.standard_normal(x.shape)).astype(np.float32)


class Model(NamedTuple):
    name: str
    text: str
    category: str
    names: dict[str, str]
    icon: np.ndarray
    place: str
    rotation: tuple[float, ...]


@lru_cache(maxsize=2)
def _models(folder: str) -> tuple[list[Model], Float[np.ndarray, "M S 3"], list[str]]:
    """(models, points of their surfaces, groups of the split)."""
    root = Path(folder).expanduser() if folder else USUAL
    files = sorted(root.glob("*.sh3f"))
    if not files:
        raise DataError(
            f"{root} holds no catalogue of furniture (.sh3f): apt install {PACKAGE}, or give Furniture.folder"
        )
    models: list[Model] = []
    sampled: list[np.ndarray] = []
    sizes: list[list[int]] = []
    for path in files:
        with zipfile.ZipFile(path) as archive:
            own = _catalogue(archive)
            points, size = _surfaces(archive, own, path.stem)
        models += own
        sampled.append(points)
        sizes += size.tolist()
    keys = [(f"name {_base(m.name)}", "mesh {} {}".format(*s)) for m, s in zip(models, sizes)]
    return models, np.concatenate(sampled), [models[i].place for i in splits.joined(keys)]


def _base(name: str) -> str:
    return " ".join(re.sub(r"\d+", " ", name.lower()).split())


def properties(data: bytes) -> dict[str, str]:
    """A Java .properties file: Latin-1 with \\uXXXX."""
    found = {}
    for line in re.sub(r"\\\r?\n\s*", "", data.decode("latin-1")).splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.lstrip().startswith(("#", "!")):
            plain = re.sub(r"\\u([0-9a-fA-F]{4})", lambda m: chr(int(m[1], 16)), value.strip())
            found[key.strip()] = re.sub(r"\\(.)", r"\1", plain)
    return found


def _catalogue(archive: zipfile.ZipFile) -> list[Model]:
    """The models of a catalogue that have a name and an .obj."""
    english: dict[str, str] = {}
    others: dict[str, dict[str, str]] = {}
    for entry in archive.namelist():
        if match := re.fullmatch(r"PluginFurnitureCatalog(?:_(\w+))?\.properties", entry):
            read = properties(archive.read(entry))
            if match[1]:
                others[match[1]] = read
            else:
                english = read
    inside, found = {*archive.namelist()}, []
    for key, name in english.items():
        number = key.removeprefix("name#")
        place = english.get(f"model#{number}", "").lstrip("/")
        if number == key or not name or not place.endswith(".obj") or place not in inside:
            continue
        category = english.get(f"category#{number}", "")
        words = [name, *english.get(f"tags#{number}", "").split(","), category]
        kept = dict.fromkeys(w.strip().lower() for w in words if w.strip() and w.strip().lower() not in _MARKS)
        icon = english.get(f"icon#{number}", "").lstrip("/")
        picture = decode.image(archive.read(icon), icon) if icon in inside else np.full((8, 8, 3), 255, np.uint8)
        names = {k: o[key] for k, o in others.items() if o.get(key)}
        turn = tuple(float(v) for v in english.get(f"modelRotation#{number}", "1 0 0 0 1 0 0 0 1").split())
        found.append(Model(name, ", ".join(kept), category, names, picture, place, turn))
    return found


def _surfaces(
    archive: zipfile.ZipFile, models: list[Model], stem: str
) -> tuple[Float[np.ndarray, "M S 3"], Int[np.ndarray, "M 2"]]:
    """(points, numbers of vertices and triangles) of the models, from the cache where it has them."""
    stamp = repr([(m.place, m.rotation, archive.getinfo(m.place).CRC) for m in models])
    kept = paths.make_cache("furniture") / f"{stem}-{hashlib.sha256(stamp.encode()).hexdigest()[:16]}.npz"
    if paths.exists(kept):
        with np.load(io.BytesIO(paths.read(kept)), allow_pickle=False) as stored:
            return stored["points"], stored["sizes"]
    points, sizes = np.zeros((len(models), _SURFACE, 3), np.float32), np.zeros((len(models), 2), np.int32)
    for i, model in enumerate(models):
        vertices, triangles = mesh(archive.read(model.place), f"{archive.filename}: {model.place}")
        sizes[i] = len(vertices), len(triangles)
        vertices = vertices @ np.reshape(model.rotation, (3, 3)).T
        upright = np.stack([vertices[:, 0], -vertices[:, 2], vertices[:, 1]], 1)  # y is up in the files
        x = sample(upright, triangles, _SURFACE, np.random.default_rng(0))
        low, high = x.min(0), x.max(0)
        points[i] = (x - (low + high) / 2) / max(float((high - low).max()) / 2, 1e-9)
    packed = io.BytesIO()
    np.savez_compressed(packed, points=points, sizes=sizes)
    paths.replace(kept, packed.getvalue())
    return points, sizes


def mesh(data: bytes, where: str = "") -> tuple[Float[np.ndarray, "V 3"], Int[np.ndarray, "T 3"]]:
    """(vertices, triangles) of a Wavefront OBJ; a polygon is a fan around its first corner. Raises DataError for a file without faces."""
    vertices, triangles = [], []
    for line in data.splitlines():
        if line.startswith(b"v "):
            vertices.append(line.split()[1:4])
        elif line.startswith(b"f "):
            corners = [int(c.split(b"/", 1)[0]) for c in line.split()[1:]]
            corners = [c - 1 if c > 0 else len(vertices) + c for c in corners]
            triangles += [(corners[0], corners[i], corners[i + 1]) for i in range(1, len(corners) - 1)]
    faces = np.array(triangles, np.int64).reshape(-1, 3)
    if not len(faces) or faces.min() < 0 or faces.max() >= len(vertices):
        raise DataError(f"{where}: no mesh: the file has {len(vertices)} vertices and {len(faces)} triangles")
    return np.array(vertices, np.float64), faces


def sample(
    vertices: Float[np.ndarray, "V 3"], triangles: Int[np.ndarray, "T 3"], n: int, rng: np.random.Generator
) -> Float[np.ndarray, "n 3"]:
    """Points drawn evenly over the surface."""
    a, b, c = (vertices[triangles[:, i]] for i in range(3))
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    area = area if area.sum() > 0 else np.ones(len(area))
    chosen = rng.choice(len(triangles), n, p=area / area.sum())
    u, v = rng.random((2, n, 1))
    u, v = np.where(u + v > 1, 1 - u, u), np.where(u + v > 1, 1 - v, v)
    return a[chosen] + u * (b - a)[chosen] + v * (c - a)[chosen]
