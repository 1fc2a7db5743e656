"""Sensor: outlines of one pixel, on the nearer surface."""

import numpy as np
from jaxtyping import Float32, UInt8

from mmrep.data.scenes.world import Scenes

FOLD = (0.15, 0.3)
"""Steps of depth between neighbours of one object: below the first there is no edge, from the second on a full one."""


def edges(
    scenes: Scenes, shown: UInt8[np.ndarray, "n S S"], depth: Float32[np.ndarray, "n S S 1"]
) -> Float32[np.ndarray, "n S S 1"]:
    """1 where a pixel's object hides what its neighbour shows (the ground is behind all), and folds of the relief within an object.

    shown: masks.instances.   depth: relief.depth.
    """
    away = np.concatenate([np.full((len(shown), 1), np.inf), scenes.depth], axis=1).astype(np.float32)
    behind = np.take_along_axis(away, shown.reshape(len(shown), -1).astype(int), 1).reshape(shown.shape)
    out = np.zeros(shown.shape, np.float32)
    low, high = FOLD
    for axis in (1, 2):
        a, b = (_part(v, axis) for v in (slice(None, -1), slice(1, None)))
        same = shown[a] == shown[b]
        # The higher side of a fold has it, as the nearer side of a border has that.
        step = depth[..., 0][b] - depth[..., 0][a]
        fold = np.clip((np.abs(step) - low) / (high - low), 0, 1)
        np.maximum(out[a], np.where(same, np.where(step > 0, fold, 0), behind[a] < behind[b]), out=out[a])
        np.maximum(out[b], np.where(same, np.where(step < 0, fold, 0), behind[b] < behind[a]), out=out[b])
    return out[..., None]


def _part(rows: slice, axis: int) -> tuple[slice, ...]:
    return (slice(None),) * axis + (rows,)
