"""Sensor: measures of the scene and of its image, those of 4M-21 (appendix of Bachmann et al. 2024) that a scene has."""

import numpy as np
from jaxtyping import Float32, UInt8

from mmrep.data import serialise
from mmrep.data.scenes import masks
from mmrep.data.scenes.world import SHAPES, Scenes

Measures = dict[str, np.ndarray]
"""By name of serialise.MEASURES: one number a scene."""


def of_picture(rgb: UInt8[np.ndarray, "n S S 3"]) -> Measures:
    """Of the image alone; levels in [0, 255], entropy in bits.

    brightness, contrast: mean and standard deviation of the grey levels.   saturation: mean of HSV's.
    colourfulness: Hasler and Suesstrunk 2003.   entropy: of the histogram of grey levels.
    """
    n = len(rgb)
    red, green, blue = np.moveaxis(rgb.reshape(n, -1, 3).astype(np.float32), -1, 0)
    grey = np.float32(0.299) * red + np.float32(0.587) * green + np.float32(0.114) * blue
    high = np.maximum(np.maximum(red, green), blue)
    low = np.minimum(np.minimum(red, green), blue)
    a, b = red - green, (red + green) / 2 - blue
    level = (grey + np.float32(0.5)).astype(np.int64) + 256 * np.arange(n)[:, None]
    share = np.bincount(level.reshape(-1), minlength=256 * n).reshape(n, 256) / grey.shape[1]
    return {
        "colourfulness": np.hypot(a.std(1), b.std(1)) + 0.3 * np.hypot(a.mean(1), b.mean(1)),
        "brightness": grey.mean(1),
        "contrast": grey.std(1),
        "saturation": 255 * ((high - low) / np.maximum(high, 1)).mean(1),
        "entropy": -(share * np.log2(np.where(share > 0, share, 1))).sum(1),
    }


def of_scene(
    scenes: Scenes,
    shown: UInt8[np.ndarray, "n S S"],
    inside: Float32[np.ndarray, "n K S S"],
    depth: Float32[np.ndarray, "n S S 1"],
) -> Measures:
    """Of the objects of the scene, by their visible pixels.

    instances, instance_diversity: objects, and different shapes.   semantic_diversity: different classes of semseg, the ground too.
    objectness: share of the picture that shows objects.   occlusion: share of the objects' area that others hide.
    geometric_complexity: circular variance of the relief's normals, 1 - |their mean|.

    shown: masks.instances.   inside: raster.distance.   depth: relief.depth.
    """
    n, size = len(shown), shown.shape[1]
    seen = (shown[:, None] == np.arange(1, scenes.valid.shape[1] + 1, dtype=np.uint8)[:, None, None]).any((2, 3))
    kinds = masks.semseg_of(scenes, shown).reshape(n, -1).astype(np.int64) + (len(SHAPES) + 1) * np.arange(n)[:, None]
    classes = np.bincount(kinds.reshape(-1), minlength=(len(SHAPES) + 1) * n).reshape(n, -1) > 0
    visible, own = (shown > 0).sum((1, 2)), (inside >= 0).sum((1, 2, 3))
    dy, dx = np.gradient(depth[..., 0], np.float32(1 / size), axis=(1, 2))
    normal = np.stack([dx, -dy, np.ones_like(dx)], axis=1)
    normal = (normal / np.sqrt((normal**2).sum(1, keepdims=True))).reshape(n, 3, -1)
    return {
        "instances": seen.sum(1),
        "instance_diversity": classes[:, 1:].sum(1),
        "objectness": visible / size**2,
        "semantic_diversity": classes.sum(1),
        "geometric_complexity": 1 - np.sqrt((normal.mean(2) ** 2).sum(1)),
        "occlusion": 1 - visible / np.maximum(own, 1) * (own > 0) - (own == 0),
    }


def texts(measures: Measures, serial: serialise.Serialised) -> list[str]:
    """Every scene's measures as `serialise.measures` writes them, by id."""
    names = sorted(measures, key=serialise.MEASURES.index)
    bins = np.stack([serialise.bins_of(name, measures[name], serial) for name in names], axis=1).tolist()
    keys = [f"v1={serialise.MEASURES.index(name)} v0=" for name in names]
    return [" ".join([f"{key}{i}" for key, i in zip(keys, row)]) for row in bins]
