"""From objects to pixels: signed distances of the shapes, and which object a pixel shows. Every image sensor paints with these."""

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float, Float32, Int, UInt8

from mmrep.data.scenes.world import SHAPES, Scenes

Sdf = Callable[[np.ndarray, np.ndarray], np.ndarray]


def pixel_grid(size: int) -> tuple[Float32[np.ndarray, "S S"], Float32[np.ndarray, "S S"]]:
    """x (to the right) and y (downwards) of the pixel centres, in [0, 1]."""
    at = ((np.arange(size) + 0.5) / size).astype(np.float32)
    return np.meshgrid(at, at)[0], np.meshgrid(at, at)[1]


def local(
    scenes: Scenes, size: int, row: Int[np.ndarray, "m"], slot: Int[np.ndarray, "m"]
) -> tuple[Float32[np.ndarray, "m S S"], Float32[np.ndarray, "m S S"]]:
    """Pixel centres in the frame of objects (row, slot): right and up, turned with the object, 1 = its radius."""
    at = ((np.arange(size) + 0.5) / size).astype(np.float32)
    f = [v[row, slot].astype(np.float32)[:, None] for v in (scenes.x, scenes.y, scenes.radius, scenes.rotation)]
    dx, dy = (at - f[0]) / f[2], (f[1] - at) / f[2]
    cos, sin = np.cos(f[3]), np.sin(f[3])
    u = (dx * cos)[:, None, :] + (dy * sin)[:, :, None]
    v = (dy * cos)[:, :, None] - (dx * sin)[:, None, :]
    return u, v


def distance(scenes: Scenes, size: int) -> Float32[np.ndarray, "n K S S"]:
    """Signed distance of every pixel to every object's outline in pixels, positive inside; empty slots are far outside."""
    n, K = scenes.valid.shape
    out = np.full((n, K, size, size), -1e3, np.float32)
    for shape in np.unique(scenes.shape[scenes.valid]):
        row, slot = np.nonzero(scenes.valid & (scenes.shape == shape))
        u, v = local(scenes, size, row, slot)
        out[row, slot] = SDFS[SHAPES[shape]](u, v) * (scenes.radius[row, slot] * size).astype(np.float32)[:, None, None]
    return out


def far_to_near(scenes: Scenes) -> Int[np.ndarray, "n K"]:
    """Slots in the painter's order."""
    return np.argsort(-scenes.depth, axis=1, kind="stable")


def front(scenes: Scenes, inside: Float32[np.ndarray, "n K S S"]) -> UInt8[np.ndarray, "n S S"]:
    """1 + the slot that each pixel shows, 0 for the ground; `inside` is `distance`, and a pixel belongs to whom its centre does."""
    shown = np.zeros((len(inside), *inside.shape[2:]), np.uint8)
    rows = np.arange(len(inside))
    for slot in far_to_near(scenes).T:
        covers = inside[rows, slot] >= 0
        shown = np.where(covers, (slot + 1).astype(np.uint8)[:, None, None], shown)
    return shown


def coverage(inside: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Share of the pixel inside the outline (a box-filter estimate of the area): the anti-aliased edge."""
    return np.clip(inside + np.float32(0.5), 0, 1)


def stroke(inside: Float[np.ndarray, "..."], width: float) -> Float[np.ndarray, "..."]:
    """Share of the pixel covered by an outline `width` pixels wide, drawn inside the edge."""
    half = np.float32(width / 2)
    return np.clip(half + np.float32(0.5) - np.abs(inside - half), 0, 1)


# The shapes, by signed distance (positive inside, 1 = radius): exact inside, and close enough outside for an edge of one pixel.
# The constructions of star and heart follow Inigo Quilez, "2D distance functions".


def _circle(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.float32(0.88) - np.sqrt(u * u + v * v)


def _ring(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.float32(0.19) - np.abs(np.sqrt(u * u + v * v) - np.float32(0.73))


def _square(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.float32(0.76) - np.maximum(np.abs(u), np.abs(v))


def _diamond(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return (np.float32(0.66) - np.abs(u) - np.float32(0.66) * np.abs(v)) / np.float32(np.hypot(1, 0.66))


def _cross(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    a, b = np.abs(u), np.abs(v)
    return np.float32(0.30) - np.maximum(np.minimum(a, b), np.maximum(a, b) - np.float32(0.60))


def _convex(corners: list[tuple[float, float]]) -> Sdf:
    """A convex polygon by its counter-clockwise corners: the nearest of its edges' half-planes."""
    edges = []
    for (ax, ay), (bx, by) in zip(corners, corners[1:] + corners[:1]):
        nx, ny = by - ay, ax - bx
        length = np.hypot(nx, ny)
        edges.append(tuple(np.float32(v) for v in (nx / length, ny / length, (nx * ax + ny * ay) / length)))

    def sdf(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        nearest = np.full(u.shape, 1e3, np.float32)
        for nx, ny, offset in edges:
            np.minimum(nearest, offset - nx * u - ny * v, out=nearest)
        return nearest

    return sdf


def _star(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    kx, ky = np.float32(np.cos(np.pi / 5)), np.float32(np.sin(np.pi / 5))
    x, y = np.abs(u), v + np.float32(0.05)
    t = 2 * np.maximum(kx * x - ky * y, 0)
    x, y = x - t * kx, y + t * ky
    t = 2 * np.maximum(-kx * x - ky * y, 0)
    x, y = np.abs(x + t * kx), y + t * ky - 1
    bx, by = np.float32(0.47) * ky, np.float32(0.47) * kx - 1
    h = np.clip((x * bx + y * by) / (bx * bx + by * by), 0, 1)
    return np.sqrt((x - bx * h) ** 2 + (y - by * h) ** 2) * np.sign(x * by - y * bx)


def _heart(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    scale = np.float32(0.62)
    x, y = np.abs(u) * scale, v * scale + np.float32(0.57)
    lobe = np.sqrt((x - 0.25) ** 2 + (y - 0.75) ** 2) - np.float32(np.sqrt(2) / 4)
    m = np.maximum(x + y, 0) / 2
    body = np.sqrt(np.minimum(x * x + (y - 1) ** 2, (x - m) ** 2 + (y - m) ** 2)) * np.sign(x - y)
    return -np.where(x + y > 1, lobe, body) / scale


def _moon(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    outer = np.float32(0.92) - np.sqrt((u - 0.1) ** 2 + v * v)
    bite = np.float32(0.72) - np.sqrt((u - 0.55) ** 2 + (v - 0.12) ** 2)
    return np.minimum(outer, -bite)


_HEAD = _convex([(-0.82, 0.0), (0.82, 0.0), (0.0, 0.95)])


def _arrow(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    shaft = np.float32(0.27) - np.abs(u)
    shaft = np.minimum(shaft, np.float32(0.5) - np.abs(v + np.float32(0.4)))
    return np.maximum(_HEAD(u, v), shaft)


_TIP = _convex([(-0.5, -0.05), (0.5, -0.05), (0.0, 0.98)])


def _drop(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.maximum(np.float32(0.56) - np.sqrt(u * u + (v + np.float32(0.32)) ** 2), _TIP(u, v))


SDFS: Mapping[str, Sdf] = {
    "circle": _circle,
    "square": _square,
    "triangle": _convex([(-0.87, -0.62), (0.87, -0.62), (0.0, 0.95)]),
    "star": _star,
    "cross": _cross,
    "diamond": _diamond,
    "ring": _ring,
    "heart": _heart,
    "hexagon": _convex([(0.88 * np.cos(a), 0.88 * np.sin(a)) for a in np.arange(6) * np.pi / 3]),
    "moon": _moon,
    "arrow": _arrow,
    "drop": _drop,
}
