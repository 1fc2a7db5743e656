"""Sensor: the picture's few main colours, by k-means over a whole block of scenes at once."""

import numpy as np
from jaxtyping import Float32, Int, UInt8

from mmrep.data import serialise
from mmrep.data.scenes.world import Scenes, uniform

PIXELS = 256
STEPS = 6


def lengths(scenes: Scenes, most: int) -> Int[np.ndarray, "n"]:
    """How many colours each scene's palette has: 1 to `most`, the scene's own draw."""
    return 1 + np.floor(uniform(scenes.key, "palette") * most).astype(np.int64)


def centres(rgb: UInt8[np.ndarray, "n S S 3"], length: Int[np.ndarray, "n"]) -> Float32[np.ndarray, "n L 3"]:
    """k-means centres in [0, 255], the commonest first; rows from `length` on mean nothing.

    Seen are PIXELS pixels, the same in every scene. The first centre starts at the pixel nearest to the mean, each next one at the
    pixel farthest from those before. A centre without near pixels stays: an image of one colour gives copies of it.
    """
    n, most = len(rgb), int(length.max(initial=1))
    seen = np.random.RandomState(0).permutation(rgb.shape[1] * rgb.shape[2])[:PIXELS]
    pixel = rgb.reshape(n, -1, 3)[:, seen].astype(np.float32)
    square = (pixel**2).sum(-1)

    def away(centre: np.ndarray) -> np.ndarray:
        """[n, P, k], squared."""
        # One product a scene: a result does not depend on the scenes beside it.
        return square[..., None] - 2 * pixel @ centre.swapaxes(1, 2) + (centre**2).sum(-1)[:, None]

    def at(i: np.ndarray) -> np.ndarray:
        return np.take_along_axis(pixel, i[:, None, None], 1)

    centre = at(away(pixel.mean(1, keepdims=True))[..., 0].argmin(1))
    nearest = away(centre)[..., 0]
    for _ in range(most - 1):
        new = at(nearest.argmax(1))
        nearest = np.minimum(nearest, away(new)[..., 0])
        centre = np.concatenate([centre, new], axis=1)
    there = np.arange(most) < length[:, None]
    count = np.zeros((n, most), np.float32)
    for _ in range(STEPS):
        owner = np.where(there[:, None], away(centre), np.inf).argmin(2)
        mine = (owner[:, None] == np.arange(most)[:, None]).astype(np.float32)
        count = mine.sum(2)
        centre = np.where(count[..., None] > 0, mine @ pixel / np.maximum(count, 1)[..., None], centre)
    order = np.argsort(np.where(there, -count, np.inf), axis=1, kind="stable")
    return np.take_along_axis(centre, order[..., None], 1)


def texts(rgb: UInt8[np.ndarray, "n S S 3"], scenes: Scenes, serial: serialise.Serialised) -> list[str]:
    """Every scene's palette as `serialise.palette` writes it."""
    length = lengths(scenes, serial.palette)
    return [serialise.palette(c[:k], serial) for c, k in zip(centres(rgb, length), length.tolist())]
