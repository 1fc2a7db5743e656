"""Sensor: the colour picture."""

import numpy as np
from jaxtyping import Float32, UInt8

from mmrep.data.scenes import raster
from mmrep.data.scenes.world import (
    COLOURS,
    GROUNDS,
    LIGHTS,
    MATERIALS,
    STYLES,
    TEXTURES,
    TINTS,
    Scenes,
    keys,
    random_bits,
    take,
    uniform,
)

COLOUR_VALUES = {
    "red": (0.86, 0.15, 0.15), "orange": (0.96, 0.53, 0.08), "yellow": (0.95, 0.83, 0.12), "green": (0.16, 0.62, 0.24),
    "blue": (0.15, 0.33, 0.85), "purple": (0.52, 0.19, 0.70), "cyan": (0.10, 0.72, 0.80), "pink": (0.97, 0.48, 0.70),
    "brown": (0.48, 0.29, 0.14), "white": (1.00, 1.00, 1.00), "black": (0.07, 0.07, 0.08), "grey": (0.47, 0.48, 0.50),
}  # fmt: skip
TINT_VALUES = {
    "white": (0.95, 0.95, 0.95), "grey": (0.83, 0.84, 0.86), "sand": (0.93, 0.88, 0.78),
    "mint": (0.82, 0.92, 0.85), "sky": (0.80, 0.88, 0.95), "rose": (0.95, 0.85, 0.86),
}  # fmt: skip

_PALETTE = np.array([COLOUR_VALUES[c] for c in COLOURS], np.float32)
_TINTS = np.array([TINT_VALUES[t] for t in TINTS], np.float32)
_BLOCK = 32


def rgb(
    scenes: Scenes,
    size: int,
    seed: int = 0,
    grain: float = 0.0,
    antialias: bool = True,
    distance: Float32[np.ndarray, "n K S S"] | None = None,
) -> UInt8[np.ndarray, "n S S 3"]:
    """The scenes painted from far to near.

    seed:  chooses the pixel noise; every other nuisance (tone of a colour, phase of a pattern, lamp) is the scene's own.
    grain: standard deviation of the pixel noise, of full scale 1.
    antialias: soft edges; without, a pixel shows exactly the object that masks.instances names.
    """
    if not len(scenes.id):
        return np.zeros((0, size, size, 3), np.uint8)
    # Small blocks stay in cache: three times as fast as one pass over many scenes.
    parts = []
    for start in range(0, len(scenes.id), _BLOCK):
        rows = slice(start, start + _BLOCK)
        inside = None if distance is None else distance[rows]
        parts.append(_paint(take(scenes, rows), size, seed, grain, antialias, inside))
    return np.concatenate(parts)


def _paint(
    scenes: Scenes, size: int, seed: int, grain: float, antialias: bool, inside: np.ndarray | None
) -> np.ndarray:
    inside = raster.distance(scenes, size) if inside is None else inside
    night = scenes.light == LIGHTS.index("night")
    line = scenes.style == STYLES.index("line")
    n, K = scenes.valid.shape
    rows = np.arange(n)
    tone = 1 + 0.16 * (uniform(scenes.key, "tone", K, 1).astype(np.float32) - 0.5)
    colours = np.clip(
        _PALETTE[scenes.colour] * tone + 0.04 * (uniform(scenes.key, "hue", K, 3) - 0.5).astype(np.float32), 0, 1
    )
    colours = np.where(night[:, None, None], colours**1.6 * np.float32(1.05), colours)
    image = _ground(scenes, size, night, line)
    alpha = raster.coverage(inside) if antialias else (inside >= 0).astype(np.float32)
    if line.any():
        width = max(1.3, size / 22)
        paper = image.mean((2, 3), keepdims=True)
        ink = raster.stroke(inside, width) if antialias else ((inside >= 0) & (inside < width)).astype(np.float32)
    for slot in raster.far_to_near(scenes).T:
        fill = colours[rows, slot][:, :, None, None]
        if line.any():
            pen = ink[rows, slot][:, None]
            fill = np.where(line[:, None, None, None], paper * (1 - pen) + 0.92 * fill * pen, fill)
        fill = _finish(scenes, size, slot, fill)
        a = alpha[rows, slot][:, None]
        image = image + a * (fill - image)
    if night.any():
        image = np.where(night[:, None, None, None], image * _lamp(scenes, size), image)
    if grain:
        image = image + grain * _gauss(scenes, seed, (3, size, size))
    return np.ascontiguousarray((np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8).transpose(0, 2, 3, 1))


def _ground(scenes: Scenes, size: int, night: np.ndarray, line: np.ndarray) -> np.ndarray:
    """[n, 3, S, S] (or broadcastable to it) in [0, 1]."""
    tint = _TINTS[scenes.tint] * (1 - 0.06 * uniform(scenes.key, "ground tone", 1).astype(np.float32))
    tint = np.where(night[:, None], tint * np.array([0.13, 0.14, 0.24], np.float32), tint)
    tint = np.where(line[:, None], 0.5 + 0.5 * tint, tint).astype(np.float32)[:, :, None, None]
    patterned = np.nonzero(scenes.ground != GROUNDS.index("plain"))[0]
    image = np.broadcast_to(tint, (len(tint), 3, size, size)).copy()
    if len(patterned):
        u = uniform(scenes.key[patterned], "ground pattern", 4).astype(np.float32)[:, :, None, None]
        x, y = raster.pixel_grid(size)
        angle = np.pi * u[:, 0]
        a = np.cos(angle) * x + np.sin(angle) * y + u[:, 1]
        b = np.cos(angle) * y - np.sin(angle) * x + u[:, 2]
        names = [GROUNDS[g] for g in scenes.ground[patterned]]
        pattern = _pattern(names, a, b, 4.5 + 2 * u[:, 3], soft=0.35)
        image[patterned] *= 1 - 0.28 * pattern[:, None]
    return image


def _pattern(
    names: list[str], a: np.ndarray, b: np.ndarray, frequency: np.ndarray | np.float32, soft: float
) -> np.ndarray:
    """[m, S, S] in [0, 1] along axes a and b, one named pattern a row."""
    turn = np.float32(2 * np.pi) * frequency
    wavy = np.array([name == "wavy" for name in names])[:, None, None]
    sa = np.sin(turn * (a + np.where(wavy, 0.06 * np.sin(turn * b * 0.6), 0)))
    sb = np.sin(turn * b)
    kind = np.array(names)[:, None, None]
    field = np.where(kind == "dotted", (sa + sb) / 2 - 0.4, np.where(kind == "checked", sa * sb, sa))
    return np.clip(field / np.float32(soft) + 0.5, 0, 1).astype(np.float32)


def _finish(scenes: Scenes, size: int, slot: np.ndarray, fill: np.ndarray) -> np.ndarray:
    """Texture and gloss of the objects at `slot` upon their flat colours `fill` [n, 3, S, S] or [n, 3, 1, 1]."""
    rows = np.arange(len(slot))
    textured = np.nonzero(scenes.texture[rows, slot] != TEXTURES.index("plain"))[0]
    shiny = np.nonzero(scenes.material[rows, slot] == MATERIALS.index("shiny"))[0]
    if not len(textured) and not len(shiny):
        return fill
    fill = np.broadcast_to(fill, (len(slot), 3, size, size)).copy()
    if len(textured):
        u, v = raster.local(scenes, size, textured, slot[textured])
        names = [TEXTURES[t] for t in scenes.texture[textured, slot[textured]]]
        pattern = _pattern(names, u + 0.5, v + 0.5, np.float32(1.4), soft=0.5)
        fill[textured] += 0.62 * pattern[:, None] * (1 - fill[textured])
    if len(shiny):
        u, v = raster.local(scenes, size, shiny, slot[shiny])
        spot = np.clip(1.25 - ((u + 0.28) ** 2 + (v - 0.28) ** 2) / np.float32(0.09), 0, 1)
        fill[shiny] += 0.85 * spot[:, None] * (1 - fill[shiny])
    return fill


def _lamp(scenes: Scenes, size: int) -> np.ndarray:
    """The night's one lamp: [n, 3, S, S], a bluish pool of light with dark corners."""
    u = uniform(scenes.key, "lamp", 2).astype(np.float32)[:, :, None, None]
    x, y = raster.pixel_grid(size)
    away = (x - 0.25 - 0.5 * u[:, 0]) ** 2 + (y - 0.25 - 0.5 * u[:, 1]) ** 2
    pool = 0.45 + 0.55 * np.exp(-away / np.float32(0.18))
    return pool[:, None] * np.array([0.92, 0.95, 1.1], np.float32)[:, None, None]


def _gauss(scenes: Scenes, seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """About normal, [n, *shape]: sums of four bytes, added within the words of a hash that gives two of them."""
    count = int(np.prod(shape))
    bits = random_bits(keys(seed, scenes.key.view(np.int64)), "grain", (count + 1) // 2)
    pairs = (bits & np.uint64(0x00FF00FF00FF00FF)) + ((bits >> np.uint64(8)) & np.uint64(0x00FF00FF00FF00FF))
    total = (pairs & np.uint64(0x0000FFFF0000FFFF)) + ((pairs >> np.uint64(16)) & np.uint64(0x0000FFFF0000FFFF))
    noise = (total.view(np.uint32).astype(np.float32) - np.float32(510)) / np.float32(147.8)
    return noise[:, :count].reshape(-1, *shape)
