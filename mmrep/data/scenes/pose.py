"""Sensor: position and rotation of the objects, as one vector (the counterpart of a body pose in pictures of people)."""

import numpy as np
from jaxtyping import Float32

from mmrep.data.scenes.world import Scenes

NUMBERS = 6


def pose(scenes: Scenes) -> Float32[np.ndarray, "n D"]:
    """D = 6 a slot: 1, x, y, radius, cosine and sine of the rotation; all 0 for an empty slot."""
    turned = np.cos(scenes.rotation), np.sin(scenes.rotation)
    each = np.stack([np.ones_like(scenes.x), scenes.x, scenes.y, scenes.radius, *turned], axis=-1)
    return np.where(scenes.valid[..., None], each, 0).reshape(len(scenes.id), -1).astype(np.float32)
