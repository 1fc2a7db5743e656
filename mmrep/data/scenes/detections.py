"""Sensor: the boxes of visible objects as text, "v0=left v1=top v2=right v3=bottom circle ...", ordered from the top left corner."""

import numpy as np
from jaxtyping import Bool, Float32

from mmrep.data import serialise
from mmrep.data.scenes.world import SHAPES, Scenes


def texts(
    scenes: Scenes, box: Float32[np.ndarray, "n K 4"], valid: Bool[np.ndarray, "n K"], serial: serialise.Serialised
) -> list[str]:
    """What `serialise.boxes` writes of boxes.boxes_of, with the shape for a class."""
    return [
        serialise.boxes(
            [
                serialise.Box(left, top, right, bottom, SHAPES[k])
                for (left, top, right, bottom), k, there in zip(*row)
                if there
            ],
            serial,
        )
        for row in zip(box.tolist(), scenes.shape.tolist(), valid.tolist())
    ]
