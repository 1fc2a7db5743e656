"""Sensor: regions, in the place of an object detector's: a feature vector, a box, classes and a confidence for each object.

A feature is a fixed random projection of the object's shape, colour and size, plus noise that is larger where the confidence is smaller.
"""

from functools import cache

import numpy as np
from jaxtyping import Float32, Int32

from mmrep.data.scenes.world import COLOURS, SHAPES, SIZES, Scenes, uniform

DIM = 32
SEED = 19


@cache
def _codes() -> dict[str, np.ndarray]:
    random = np.random.RandomState(SEED)  # whose stream is the same in every version of NumPy
    sizes = {"shape": len(SHAPES), "colour": len(COLOURS), "size": len(SIZES)}
    return {name: random.standard_normal((count, DIM)) / np.sqrt(len(sizes)) for name, count in sizes.items()}


def regions(
    scenes: Scenes,
) -> tuple[
    Float32[np.ndarray, "n K D"], Int32[np.ndarray, "n K"], Int32[np.ndarray, "n K"], Float32[np.ndarray, "n K"]
]:
    """(regions, shapes, colours, confidences in [0.5, 1]) of each slot, all zero in an empty one.

    D = 36: a feature of 32 numbers of about unit variance, then the box left, top, right, bottom in [0, 1] around the object's circle.
    """
    K = scenes.valid.shape[1]
    sure = 0.5 + 0.5 * uniform(scenes.key, "confidence", K)
    # A sum of three uniform numbers, of unit variance once scaled.
    noise = (uniform(scenes.key, "regions", K, DIM, 3).sum(-1) - 1.5) * 2
    feature = sum(codes[getattr(scenes, name)] for name, codes in _codes().items()) + (1.1 - sure[..., None]) * noise
    x, y, r = scenes.x, scenes.y, scenes.radius
    box = np.clip(np.stack([x - r, y - r, x + r, y + r], axis=-1), 0, 1)
    found = np.concatenate([feature, box], axis=-1)
    seen = scenes.valid
    shape, colour = (np.where(seen, ids, 0).astype(np.int32) for ids in (scenes.shape, scenes.colour))
    rows = np.where(seen[..., None], found, 0).astype(np.float32)
    return rows, shape, colour, np.where(seen, sure, 0).astype(np.float32)
