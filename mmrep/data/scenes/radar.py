"""Sensor: a radar-like map. Backscatter by material, shape and edge, under speckle; colour, clouds and night leave no trace in it."""

import numpy as np
from jaxtyping import Float32, UInt8

from mmrep.data.scenes import raster
from mmrep.data.scenes.world import GROUNDS, MATERIALS, SHAPES, Scenes, keys, random_bits

BANDS = ("VV", "VH")
LOOKS = 4
"""Independent measurements that are averaged into a pixel; speckle of fewer is coarser."""

# Backscatter (linear) of (VV, VH).
_MATERIAL = np.array([{"matte": (0.08, 0.030), "shiny": (0.50, 0.050)}[m] for m in MATERIALS], np.float32)
_GROUND = np.array(
    [{"plain": (0.02, 0.004), "striped": (0.04, 0.008), "dotted": (0.03, 0.012), "checked": (0.05, 0.010), "wavy": (0.03, 0.006)}[g] for g in GROUNDS],
    np.float32,
)  # fmt: skip
# Straight walls throw the wave back twice, and turn its polarisation.
_CORNERS = np.array([1.0 + 1.5 * (s in ("square", "cross", "hexagon", "diamond", "triangle", "arrow")) for s in SHAPES])
_EDGE, _SHADOW = 1.5, 0.4
_FLOOR, _RANGE = -26.0, 30.0  # decibels


def radar(
    scenes: Scenes,
    size: int,
    seed: int = 0,
    looks: int = LOOKS,
    distance: Float32[np.ndarray, "n K S S"] | None = None,
) -> UInt8[np.ndarray, "n S S 2"]:
    """Backscatter in decibels over BANDS, -26 to 4 dB as 0..255, looked at from the left.

    seed chooses the speckle, multiplicative and gamma-distributed with mean 1 and variance 1 / looks; looks = 0: none.
    """
    power = backscatter(scenes, size, distance)
    if looks:
        own, pixels = keys(seed, scenes.key.view(np.int64)), size * size * len(BANDS)
        # A word holds four uniforms of 16 bits.
        words = random_bits(own, "speckle", -(-looks * pixels // 4)).view(np.uint16)[:, : looks * pixels]
        u = (words.reshape(-1, looks, size, size, len(BANDS)).astype(np.float32) + np.float32(0.5)) / np.float32(65536)
        power = power * -np.log(u).mean(1)
    decibels = 10 * np.log10(np.maximum(power, 1e-6))
    return (np.clip((decibels - _FLOOR) / _RANGE, 0, 1) * 255 + 0.5).astype(np.uint8)


def backscatter(
    scenes: Scenes, size: int, distance: Float32[np.ndarray, "n K S S"] | None = None
) -> Float32[np.ndarray, "n S S 2"]:
    """Backscatter before speckle, linear: of the ground's roughness and the objects' materials, walls bright to the left, dim to the right."""
    inside = raster.distance(scenes, size) if distance is None else distance
    n = len(inside)
    shown = raster.front(scenes, inside)
    material = _MATERIAL[scenes.material] * np.stack([np.ones_like(_CORNERS), _CORNERS], -1)[scenes.shape]
    table = np.concatenate([_GROUND[scenes.ground][:, None], material], axis=1).astype(np.float32)
    power = table[np.arange(n)[:, None, None], shown]
    slot = np.maximum(shown.astype(int) - 1, 0)[:, None]
    own = np.take_along_axis(inside, slot, 1)[:, 0]
    slope = np.take_along_axis(np.gradient(inside, axis=3), slot, 1)[:, 0]
    wall = np.where(shown > 0, raster.stroke(own, 2.0), 0)
    gain = 1 + wall * np.where(slope > 0, _EDGE * slope, _SHADOW * slope)
    return (power * np.clip(gain, 0.2, None)[..., None]).astype(np.float32)
