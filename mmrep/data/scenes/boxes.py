"""Sensor: the box around the visible part of each object."""

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from mmrep.data.scenes import masks
from mmrep.data.scenes.world import Scenes


def boxes(scenes: Scenes, size: int) -> tuple[Float32[np.ndarray, "n K 4"], Bool[np.ndarray, "n K"]]:
    """(left, top, right, bottom) in [0, 1] around each object's visible pixels, and which slots have any."""
    return boxes_of(masks.instances(scenes, size), scenes.valid.shape[1])


def boxes_of(
    shown: UInt8[np.ndarray, "n S S"], max_objects: int
) -> tuple[Float32[np.ndarray, "n K 4"], Bool[np.ndarray, "n K"]]:
    """The boxes that belong to an instance map; all zero where a slot shows no pixel."""
    size = shown.shape[1]
    slot = np.arange(1, max_objects + 1, dtype=np.uint8)
    is_slot = shown[:, None] == slot[:, None, None]
    across, down = is_slot.any(2), is_slot.any(3)
    valid = across.any(2)
    left, top = across.argmax(2), down.argmax(2)
    right, bottom = size - across[:, :, ::-1].argmax(2), size - down[:, :, ::-1].argmax(2)
    box = np.stack([left, top, right, bottom], axis=-1).astype(np.float32) / np.float32(size)
    return np.where(valid[..., None], box, np.float32(0)), valid
