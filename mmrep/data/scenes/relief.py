"""Sensors of the scene's relief: how far each pixel is, and which way its surface faces.

The camera looks down; objects are pillows on the ground, thickest in the middle and rounded off to their outline, bigger ones thicker.
Colour and texture are independent of the relief: a model that predicts it from a picture uses shape, size and occlusion.
"""

import numpy as np
from jaxtyping import Float32, UInt8

from mmrep.data.scenes import raster
from mmrep.data.scenes.world import Scenes

GROUND = 1.0
THICKNESS = 3.0  # of a pillow's middle, in radii of its object (which are shares of the image side)


def depth(
    scenes: Scenes, size: int, distance: Float32[np.ndarray, "n K S S"] | None = None
) -> Float32[np.ndarray, "n S S 1"]:
    """Distance from the camera in [0, 1]; the ground is 1, a pixel has the distance of the object that it shows."""
    inside = raster.distance(scenes, size) if distance is None else distance
    shown = raster.front(scenes, inside)
    slot = np.maximum(shown.astype(int) - 1, 0)
    radius = np.take_along_axis(scenes.radius, slot.reshape(len(shown), -1), 1).reshape(slot.shape).astype(np.float32)
    edge = np.take_along_axis(inside, slot[:, None], 1)[:, 0] / np.float32(size)
    # A quarter circle from the outline inwards: steep at the edge, flat in the middle.
    rise = np.clip(edge / np.maximum(0.6 * radius, 1e-6), 0, 1)
    bulge = THICKNESS * radius * np.sqrt(1 - (1 - rise) ** 2)
    return np.clip(np.where(shown > 0, GROUND - bulge, GROUND), 0, 1).astype(np.float32)[..., None]


def normals(
    scenes: Scenes, size: int, distance: Float32[np.ndarray, "n K S S"] | None = None
) -> UInt8[np.ndarray, "n S S 3"]:
    """Unit normals of the relief as colours: (x + 1) / 2 to the right, (y + 1) / 2 upwards, (z + 1) / 2 to the camera."""
    height = -depth(scenes, size, distance)[..., 0]
    dy, dx = np.gradient(height, np.float32(1 / size), axis=(1, 2))
    normal = np.stack([-dx, dy, np.ones_like(dx)], axis=-1)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    return ((normal + 1) * np.float32(127.5) + np.float32(0.5)).astype(np.uint8)
