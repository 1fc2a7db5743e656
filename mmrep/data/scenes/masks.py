"""Sensors: which object, and which class, each pixel shows."""

import numpy as np
from jaxtyping import Float32, UInt8

from mmrep.data.scenes import raster
from mmrep.data.scenes.world import SHAPES, Scenes

SEMSEG_CLASSES = ("ground", *SHAPES)


def instances(
    scenes: Scenes, size: int, distance: Float32[np.ndarray, "n K S S"] | None = None
) -> UInt8[np.ndarray, "n S S"]:
    """1 + object slot of each pixel, 0 for the ground. `distance` = raster.distance(scenes, size), where already at hand."""
    return raster.front(scenes, raster.distance(scenes, size) if distance is None else distance)


def semseg(
    scenes: Scenes, size: int, distance: Float32[np.ndarray, "n K S S"] | None = None
) -> UInt8[np.ndarray, "n S S"]:
    """Class id of each pixel, an index of SEMSEG_CLASSES: 0 ground, 1 + shape id."""
    return semseg_of(scenes, instances(scenes, size, distance))


def semseg_of(scenes: Scenes, shown: UInt8[np.ndarray, "n S S"]) -> UInt8[np.ndarray, "n S S"]:
    """The class map that belongs to an instance map."""
    classes = np.concatenate([np.zeros((len(shown), 1), np.uint8), (scenes.shape + 1).astype(np.uint8)], axis=1)
    return classes[np.arange(len(shown))[:, None, None], shown]
