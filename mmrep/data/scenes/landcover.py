"""Labels: the surface of each pixel, by colour (visible to the optical sensor) and by material (visible to radar)."""

import numpy as np
from jaxtyping import Float32, UInt8

from mmrep.data.scenes import raster
from mmrep.data.scenes.world import COLOURS, MATERIALS, Scenes

CLASSES = 1 + len(COLOURS) * len(MATERIALS)


def landcover(
    scenes: Scenes, size: int, distance: Float32[np.ndarray, "n K S S"] | None = None
) -> UInt8[np.ndarray, "n S S"]:
    """0 for the ground, else 1 + colour id * number of materials + material id of the object that a pixel shows."""
    shown = raster.front(scenes, raster.distance(scenes, size) if distance is None else distance)
    cover = 1 + scenes.colour * len(MATERIALS) + scenes.material
    table = np.concatenate([np.zeros((len(cover), 1), np.uint8), cover.astype(np.uint8)], axis=1)
    return table[np.arange(len(cover))[:, None, None], shown]
