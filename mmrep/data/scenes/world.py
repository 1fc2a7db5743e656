"""The latent world: scenes as a struct of arrays, sampled by a counter-based hash so that scene i depends on (seed, i, spec) alone."""

import zlib
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt64

from mmrep.errors import ConfigError, near

SHAPES = (
    "circle", "square", "triangle", "star", "cross", "diamond", "ring", "heart", "hexagon", "moon", "arrow", "drop",
)  # fmt: skip
COLOURS = (
    "red", "orange", "yellow", "green", "blue", "purple", "cyan", "pink", "brown", "white", "black", "grey",
)  # fmt: skip
SIZES = ("small", "medium", "big")
TEXTURES = ("plain", "striped", "dotted", "checked")
MATERIALS = ("matte", "shiny")
GROUNDS = ("plain", "striped", "dotted", "checked", "wavy")
TINTS = ("white", "grey", "sand", "mint", "sky", "rose")
LIGHTS = ("day", "night")
STYLES = ("solid", "line")

RADII = (0.11, 0.15, 0.20)
"""Radius of each size in SIZES, as a share of the image side (free placement)."""

_CANDIDATES = 24
_GAP = 0.02


class Scenes(NamedTuple):
    """n scenes of at most K objects; slot k of scene i is an object exactly where valid[i, k], and slots fill from the front.

    Ids index the module's vocabularies (SHAPES, COLOURS, ...), whatever the spec, so they compare across domains.
    Positions: x to the right, y downwards, both in [0, 1]; radius in the same unit; rotation in radians, counter-clockwise;
    depth is the distance from the camera (nearer objects hide farther ones); temperature in degrees Celsius.
    `id` is the scene's index; `key` is the scene's own random key, from which sensors draw their nuisances (`uniform`).
    """

    id: Int[np.ndarray, "n"]
    key: UInt64[np.ndarray, "n"]
    valid: Bool[np.ndarray, "n K"]
    shape: Int[np.ndarray, "n K"]
    colour: Int[np.ndarray, "n K"]
    size: Int[np.ndarray, "n K"]
    texture: Int[np.ndarray, "n K"]
    material: Int[np.ndarray, "n K"]
    radius: Float[np.ndarray, "n K"]
    x: Float[np.ndarray, "n K"]
    y: Float[np.ndarray, "n K"]
    rotation: Float[np.ndarray, "n K"]
    depth: Float[np.ndarray, "n K"]
    temperature: Float[np.ndarray, "n K"]
    ground: Int[np.ndarray, "n"]
    tint: Int[np.ndarray, "n"]
    light: Int[np.ndarray, "n"]
    style: Int[np.ndarray, "n"]


@dataclass(frozen=True)
class WorldSpec:
    """What can occur, each value uniformly.

    n_objects:    least and most objects of a scene.
    shapes, colours, sizes, textures, materials, grounds, tints, lights, styles: names out of the module's vocabularies.
    distinct:     within a scene, "pair": no two objects share shape and colour; "each": no two share either (as long as the
                  allowed combinations suffice); "none": anything.
    held_out:     (shape, colour) pairs kept apart; `combinations`: the pairs that occur, any, only "seen" ones (train), or only
                  "unseen" ones (the compositional test).
    grid:         0 = free placement; g = centres of distinct cells of a g x g grid, every object within its cell.
    overlap:      free placement only: whether objects may hide one another. Without, radii of a crowded scene shrink until they fit.
    rotation:     largest rotation, radians, either way.
    """

    n_objects: tuple[int, int] = (1, 3)
    shapes: tuple[str, ...] = SHAPES[:8]
    colours: tuple[str, ...] = COLOURS[:8]
    sizes: tuple[str, ...] = ("small", "big")
    textures: tuple[str, ...] = ("plain",)
    materials: tuple[str, ...] = ("matte",)
    grounds: tuple[str, ...] = ("plain",)
    tints: tuple[str, ...] = TINTS
    lights: tuple[str, ...] = ("day",)
    styles: tuple[str, ...] = ("solid",)
    distinct: Literal["pair", "each", "none"] = "pair"
    held_out: tuple[tuple[str, str], ...] = ()
    combinations: Literal["any", "seen", "unseen"] = "any"
    grid: int = 0
    overlap: bool = False
    rotation: float = 0.15

    def __post_init__(self) -> None:
        for field, known in _VOCABULARIES.items():
            names = getattr(self, field)
            if not names:
                raise ConfigError(f"world.{field} is empty: name at least one of {', '.join(known)}")
            for name in names:
                if name not in known:
                    raise ConfigError(f"world.{field} has {name!r}, which this world does not have{near(name, known)}")
            if len(set(names)) < len(names):
                raise ConfigError(f"world.{field} names something twice: {', '.join(names)}")
        low, high = self.n_objects
        if not 1 <= low <= high <= 16:
            raise ConfigError(f"world.n_objects is {self.n_objects}: give (least, most) with 1 <= least <= most <= 16")
        if self.grid < 0 or (self.grid and self.grid**2 < high):
            raise ConfigError(f"world.grid {self.grid} has too few cells for {high} objects; 0 turns the grid off")
        if self.rotation < 0:
            raise ConfigError(f"world.rotation is {self.rotation}: it is the largest angle, at least 0")
        for shape, colour in self.held_out:
            if shape not in SHAPES or colour not in COLOURS:
                raise ConfigError(f"world.held_out has ({shape!r}, {colour!r}): give (shape, colour) names")
        pairs = combinations(self)
        if not len(pairs):
            raise ConfigError(
                f"world.combinations {self.combinations!r} leaves no (shape, colour) pair; see world.held_out"
            )
        most = {"none": high, "pair": len(pairs), "each": min(len({*s}) for s in pairs.T)}[self.distinct]
        if high > most:
            raise ConfigError(
                f"world.n_objects goes up to {high}, but world.distinct={self.distinct!r} allows {most} objects at most"
            )


_VOCABULARIES = {
    "shapes": SHAPES, "colours": COLOURS, "sizes": SIZES, "textures": TEXTURES, "materials": MATERIALS,
    "grounds": GROUNDS, "tints": TINTS, "lights": LIGHTS, "styles": STYLES,
}  # fmt: skip


def latin_pairs(shapes: tuple[str, ...], colours: tuple[str, ...], every: int = 4) -> tuple[tuple[str, str], ...]:
    """One in `every` (shape, colour) pairs along the diagonals, so that each shape and each colour is still seen with others."""
    return tuple((s, c) for i, s in enumerate(shapes) for j, c in enumerate(colours) if (i + j) % every == every - 1)


DOMAINS = ("clean", "texture", "night", "line", "seen", "unseen")


def domain(name: str, **changes: Any) -> WorldSpec:
    """The named domain shifts, with `changes` to any field of `WorldSpec`.

    clean: plain pale ground, daylight.  texture: patterned ground and four shapes that clean never shows.  night: dark, saturated.
    line: coloured outlines on paper.  seen/unseen: clean without / with only the held-out shape-colour pairs (`latin_pairs`).
    Raises ConfigError for an unknown name.
    """
    if name not in DOMAINS:
        raise ConfigError(f"domain {name!r} is not known{near(name, DOMAINS)}")
    if name in ("seen", "unseen"):
        given = WorldSpec(**{k: v for k, v in changes.items() if k in ("shapes", "colours")} | {"n_objects": (1, 1)})
        return WorldSpec(**{"held_out": latin_pairs(given.shapes, given.colours), "combinations": name} | changes)
    base = {
        "clean": WorldSpec(),
        "texture": WorldSpec(shapes=SHAPES[8:], grounds=GROUNDS[1:]),
        "night": WorldSpec(lights=("night",)),
        "line": WorldSpec(styles=("line",), tints=("white",)),
    }[name]
    return replace(base, **changes)


def combinations(spec: WorldSpec) -> Int[np.ndarray, "m 2"]:
    """The (shape id, colour id) pairs that may occur under `spec`."""
    held = set(spec.held_out)
    keep = {"any": lambda p: True, "seen": lambda p: p not in held, "unseen": lambda p: p in held}[spec.combinations]
    pairs = [(SHAPES.index(s), COLOURS.index(c)) for s in spec.shapes for c in spec.colours if keep((s, c))]
    return np.array(pairs, np.int64).reshape(-1, 2)


def _mix(x: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64 (Steele et al. 2014): a bijection of uint64 whose output bits appear independent."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def keys(seed: int, index: Int[np.ndarray, "n"]) -> UInt64[np.ndarray, "n"]:
    """One random key a scene: a hash of (seed, index)."""
    start = _mix(np.array([seed % 2**64], np.uint64) + np.uint64(0x9E3779B97F4A7C15))
    return _mix(index.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + start)


def random_bits(key: UInt64[np.ndarray, "n"], name: str, count: int) -> UInt64[np.ndarray, "n count"]:
    """64 random bits each, a pure function of (key, name): independent streams for different names."""
    stream = np.uint64(zlib.crc32(name.encode()) << 32) + np.arange(count, dtype=np.uint64)
    return _mix(key[:, None] ^ _mix(stream + np.uint64(0x9E3779B97F4A7C15)))


def uniform(key: UInt64[np.ndarray, "n"], name: str, *shape: int) -> Float[np.ndarray, "n ..."]:
    """Numbers in [0, 1), [n, *shape], a pure function of (key, name); a longer shape only adds numbers at the end."""
    bits = random_bits(key, name, int(np.prod(shape, dtype=np.int64)))
    return ((bits >> np.uint64(11)) * 2.0**-53).reshape(len(key), *shape)


def sample(seed: int, index: Int[np.ndarray, "n"], spec: WorldSpec) -> Scenes:
    """Scenes number `index` of world (seed, spec), in this order; a scene does not depend on the other indices."""
    key = keys(seed, index)
    low, high = spec.n_objects
    K = high
    count = low + np.floor(uniform(key, "count") * (high - low + 1)).astype(np.int64)

    def pick(field: str, *shape: int) -> np.ndarray:
        known, names = _VOCABULARIES[field], getattr(spec, field)
        ids = np.array([known.index(name) for name in names])
        return ids[np.floor(uniform(key, field, *shape) * len(ids)).astype(np.int64)]

    shape, colour = _pick_pairs(uniform(key, "pairs", K), combinations(spec), spec.distinct)
    size = pick("sizes", K)
    valid = np.arange(K) < count[:, None]
    if spec.grid:
        x, y = _cells(uniform(key, "cells", spec.grid**2), spec.grid, K)
        radius = np.array(RADII)[size] * (0.47 / spec.grid / RADII[-1])
    else:
        radius = np.array(RADII)[size] * (0.93 + 0.14 * uniform(key, "radius", K))
        x, y, radius = _scatter(uniform(key, "place", K, _CANDIDATES, 2), radius, valid, spec.overlap)
    return Scenes(
        id=index.astype(np.int64),
        key=key,
        valid=valid,
        shape=shape,
        colour=colour,
        size=size,
        texture=pick("textures", K),
        material=pick("materials", K),
        radius=radius,
        x=x,
        y=y,
        rotation=spec.rotation * (2 * uniform(key, "rotation", K) - 1),
        depth=1 + 9 * uniform(key, "depth", K),
        temperature=60 * uniform(key, "temperature", K),
        ground=pick("grounds"),
        tint=pick("tints"),
        light=pick("lights"),
        style=pick("styles"),
    )


def _pick_pairs(u: np.ndarray, pairs: np.ndarray, distinct: str) -> tuple[np.ndarray, np.ndarray]:
    """One allowed pair a slot, uniform over what earlier slots leave: shape and colour ids, each [n, K]."""
    n, K = u.shape
    free = np.ones((n, len(pairs)), bool)
    unused = free.copy()
    chosen = np.empty((n, K), np.int64)
    for k in range(K):
        if k and distinct == "each":
            last = pairs[chosen[:, k - 1]]
            free &= (pairs[None, :, 0] != last[:, :1]) & (pairs[None, :, 1] != last[:, 1:])
        elif k and distinct == "pair":
            free[np.arange(n), chosen[:, k - 1]] = False
        if k:
            unused[np.arange(n), chosen[:, k - 1]] = False
        # Held-out pairs can leave nothing that is new in both; then new as a pair has to do.
        open_ = np.where(free.any(1, keepdims=True), free, unused)
        rank = np.cumsum(open_, axis=1)
        chosen[:, k] = (rank <= np.floor(u[:, k] * rank[:, -1])[:, None]).sum(1)
    picked = pairs[chosen]
    return picked[..., 0], picked[..., 1]


def _cells(u: np.ndarray, grid: int, K: int) -> tuple[np.ndarray, np.ndarray]:
    cell = np.argsort(u, axis=1)[:, :K]
    return (cell % grid + 0.5) / grid, (cell // grid + 0.5) / grid


def _scatter(u: np.ndarray, radius: np.ndarray, valid: np.ndarray, overlap: bool) -> tuple[np.ndarray, ...]:
    """Each slot takes its first candidate that is clear of earlier slots, else the clearest: x, y, radius, each [n, K]."""
    n, K = radius.shape
    margin = radius[:, :, None, None] + 0.01
    candidates = margin + u * (1 - 2 * margin)
    place = candidates[:, :, 0].copy()
    if overlap:
        return place[..., 0], place[..., 1], radius
    for k in range(1, K):
        away = np.linalg.norm(candidates[:, k, :, None] - place[:, None, :k], axis=-1)
        clearance = (away - radius[:, None, :k] - radius[:, k, None, None] - _GAP).min(-1)
        best = np.where((clearance >= 0).any(1), (clearance >= 0).argmax(1), clearance.argmax(1))
        place[:, k] = candidates[np.arange(n), k, best]
    scale = np.ones(n)
    for k in range(1, K):
        for j in range(k):
            away = np.linalg.norm(place[:, k] - place[:, j], axis=-1)
            fits = np.maximum(away - _GAP / 2, 0.01) / (radius[:, k] + radius[:, j])
            scale = np.where(valid[:, k], np.minimum(scale, fits), scale)
    return place[..., 0], place[..., 1], radius * scale[:, None]


def take(scenes: Scenes, rows: np.ndarray | slice) -> Scenes:
    """The scenes at `rows` (indices, a mask or a slice)."""
    return Scenes(*(field[rows] for field in scenes))


def recolour(scenes: Scenes, object: int | Int[np.ndarray, "n"], colour: int | Int[np.ndarray, "n"]) -> Scenes:
    """The same scenes but for the colour id of one object slot each; everything else, nuisances included, stays."""
    changed = scenes.colour.copy()
    changed[np.arange(len(changed)), object] = colour
    return scenes._replace(colour=changed)


def swapped(scenes: Scenes) -> tuple[Scenes, Bool[np.ndarray, "n"]]:
    """The scenes with the colours of two objects exchanged, and where that was possible.

    Takes the first two objects that differ in shape and in colour and whose exchange makes two (shape, colour) pairs that the scene
    does not have, so that neither of the new objects is in the picture. Other scenes come back unchanged, False.
    """
    n, K = scenes.valid.shape
    colour, done, rows = scenes.colour.copy(), np.zeros(n, bool), np.arange(n)

    def absent(shape: np.ndarray, colour: np.ndarray) -> np.ndarray:
        same = (scenes.shape == shape[:, None]) & (scenes.colour == colour[:, None])
        return ~(same & scenes.valid).any(1)

    for j in range(K):
        for k in range(j + 1, K):
            differ = (scenes.shape[:, j] != scenes.shape[:, k]) & (scenes.colour[:, j] != scenes.colour[:, k])
            new = absent(scenes.shape[:, j], scenes.colour[:, k]) & absent(scenes.shape[:, k], scenes.colour[:, j])
            here = rows[~done & scenes.valid[:, k] & differ & new]
            colour[here, j], colour[here, k] = scenes.colour[here, k], scenes.colour[here, j]
            done[here] = True
    return scenes._replace(colour=colour), done
