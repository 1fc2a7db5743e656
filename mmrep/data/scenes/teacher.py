"""Sensor: a global embedding, in the place of a pretrained encoder's.

A FROZEN network of random weights that reads the latent scene, not its pixels: each object's shape, colour, size and coarse place go
through a random layer and tanh, objects are added up, and a second random layer gives a unit vector. Scenes alike have
embeddings alike, and a model that predicts it from a picture has found what is in it.
"""

from functools import cache

import numpy as np
from jaxtyping import Float32

from mmrep.data.scenes.world import COLOURS, SHAPES, SIZES, Scenes

DIM = 64
HIDDEN = 128
PLACES = 4  # along each side
SEED = 21


@cache
def _weights() -> tuple[dict[str, np.ndarray], np.ndarray]:
    random = np.random.RandomState(SEED)  # whose stream is the same in every version of NumPy
    sizes = {"shape": len(SHAPES), "colour": len(COLOURS), "size": len(SIZES), "x": PLACES, "y": PLACES}
    first = {name: random.standard_normal((count, HIDDEN)) / np.sqrt(len(sizes)) for name, count in sizes.items()}
    return first, random.standard_normal((HIDDEN, DIM)) / np.sqrt(HIDDEN)


def teacher(scenes: Scenes) -> Float32[np.ndarray, "n 64"]:
    """Unit vectors."""
    first, second = _weights()

    def cell(at: np.ndarray) -> np.ndarray:
        return np.clip(np.floor(at * PLACES), 0, PLACES - 1).astype(int)

    one_hot = {
        "shape": scenes.shape,
        "colour": scenes.colour,
        "size": scenes.size,
        "x": cell(scenes.x),
        "y": cell(scenes.y),
    }
    summed = np.zeros((*scenes.valid.shape, HIDDEN))
    for name, ids in one_hot.items():
        summed += first[name][ids]
    hidden = np.where(scenes.valid[..., None], np.tanh(summed), 0).sum(1)
    # One product a scene: a result does not depend on the scenes beside it.
    out = (hidden[:, None] @ second)[:, 0]
    return (out / np.linalg.norm(out, axis=1, keepdims=True)).astype(np.float32)
