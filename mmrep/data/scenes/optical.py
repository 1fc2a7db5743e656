"""Sensor: a multispectral map from above. It shows colours, through haze, clouds and at night, and not the material of an object."""

import numpy as np
from jaxtyping import Float32, UInt8

from mmrep.data.scenes import raster
from mmrep.data.scenes.rgb import COLOUR_VALUES, TINT_VALUES
from mmrep.data.scenes.world import COLOURS, LIGHTS, TINTS, Scenes, keys, random_bits, uniform

BANDS = ("blue", "green", "red", "red edge", "near infrared", "shortwave infrared")

_INFRARED = {
    "red": (0.55, 0.40, 0.30), "orange": (0.65, 0.70, 0.45), "yellow": (0.80, 0.60, 0.65), "green": (0.45, 0.90, 0.35),
    "blue": (0.25, 0.20, 0.15), "purple": (0.50, 0.75, 0.20), "cyan": (0.35, 0.30, 0.55), "pink": (0.75, 0.55, 0.80),
    "brown": (0.40, 0.50, 0.70), "white": (0.95, 0.90, 0.40), "black": (0.08, 0.10, 0.12), "grey": (0.48, 0.45, 0.50),
}  # fmt: skip
SPECTRA = np.array([(*COLOUR_VALUES[c][::-1], *_INFRARED[c]) for c in COLOURS], np.float32)
_GROUND = np.array([(*(0.6 * v for v in TINT_VALUES[t][::-1]), 0.5, 0.6, 0.55) for t in TINTS], np.float32)
_CLOUD = np.array([0.95, 0.93, 0.92, 0.90, 0.85, 0.60], np.float32)
_HAZE = np.array([0.40, 0.30, 0.22, 0.15, 0.10, 0.04], np.float32)  # scattering falls with the wavelength
_CELL = 10.0  # pixels between two independent values of the weather, whatever the size of the map


def optical(
    scenes: Scenes,
    size: int,
    seed: int = 0,
    grain: float = 0.02,
    distance: Float32[np.ndarray, "n K S S"] | None = None,
) -> UInt8[np.ndarray, "n S S 6"]:
    """Reflectance of each band of BANDS in 0..255: the spectrum of a pixel's surface, under light, haze and clouds.

    seed chooses the pixel noise, of standard deviation `grain` of full scale 1; light and weather are the scene's own.
    """
    inside = raster.distance(scenes, size) if distance is None else distance
    n, K = scenes.valid.shape
    shown = raster.front(scenes, inside)
    tone = 1 + 0.2 * (uniform(scenes.key, "optical tone", K, 1) - 0.5)
    table = np.concatenate([_GROUND[scenes.tint][:, None], SPECTRA[scenes.colour] * tone], axis=1).astype(np.float32)
    image = table[np.arange(n)[:, None, None], shown]
    light = np.where(scenes.light == LIGHTS.index("night"), 0.08, 0.75 + 0.35 * uniform(scenes.key, "sun"))
    image = image * light.astype(np.float32)[:, None, None, None]
    haze = (0.8 * uniform(scenes.key, "haze amount", 1, 1).astype(np.float32) * _smooth(scenes, size, "haze"))[
        ..., None
    ]
    day = np.minimum(light, 1).astype(np.float32)[:, None, None, None]
    image = image * (1 - 0.5 * haze) + day * haze * _HAZE
    cover = clouds(scenes, size)[..., None]
    image = image + cover * (day * _CLOUD - image)
    if grain:
        # A word holds four uniforms of 16 bits; their sum has standard deviation 3^-1/2.
        words = random_bits(keys(seed, scenes.key.view(np.int64)), "optical grain", size * size * len(BANDS))
        sums = words.view(np.uint16).reshape(n, size, size, len(BANDS), 4).sum(-1, dtype=np.float32)
        image = image + np.float32(grain * 3**0.5) * (sums / np.float32(65536) - np.float32(2))
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)


def clouds(scenes: Scenes, size: int) -> Float32[np.ndarray, "n S S"]:
    """Opacity in [0, 1] of the clouds over each pixel; about half of the scenes have few or none."""
    level = np.float32(1.0) - np.float32(0.55) * uniform(scenes.key, "cloudiness", 1, 1).astype(np.float32)
    return np.clip((_smooth(scenes, size, "clouds") - level) * np.float32(8), 0, 1)


def _smooth(scenes: Scenes, size: int, name: str) -> Float32[np.ndarray, "n S S"]:
    """A random field in [0, 1], smooth over about _CELL pixels."""
    at = (np.arange(size) + 0.5) / _CELL
    low = np.floor(at).astype(int)
    step = at - low
    blend = (step * step * (3 - 2 * step)).astype(np.float32)
    count = int(low[-1]) + 2
    knots = uniform(scenes.key, name, count, count).astype(np.float32)
    rows = knots[:, low] * (1 - blend)[:, None] + knots[:, low + 1] * blend[:, None]
    return rows[:, :, low] * (1 - blend) + rows[:, :, low + 1] * blend
