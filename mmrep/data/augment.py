"""Training augmentations: frozen dataclasses that change one example, drawing from the generator they are given.

Each is a function (numpy generator, array) -> array of the same shape, fit for `Modality.augment`. Images are float32 [H, W, C] in
[0, 1] and stay there (`EachFrame` makes them augmentations of videos); waveforms are float32 [T] in [-1, 1], zero padded, and stay so.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from mmrep.errors import ConfigError

Image = Float[np.ndarray, "H W C"]
Wave = Float[np.ndarray, " T"]


@dataclass(frozen=True)
class EachFrame:
    """An augmentation of images as one of videos [T, H, W, C]: every frame is changed with the same draw."""

    change: Any

    def __call__(self, rng: np.random.Generator, video: Float[np.ndarray, "T H W C"]) -> Float[np.ndarray, "T H W C"]:
        bits, changed = rng.bit_generator, []
        start = bits.state
        for frame in video:
            bits.state = start
            changed.append(self.change(rng, frame))
        return np.stack(changed)


@dataclass(frozen=True)
class Warp:
    """One affine change, bilinear: turned, scaled, squeezed, sheared, shifted and perhaps mirrored; what comes in is `fill`.

    turn:    the largest angle, in degrees.   scale: range of the scale of both axes, drawn evenly in its logarithm.
    squeeze: the largest factor between the axes (1 = none).   shear: the largest shear.   shift: the largest shift, a share of the side.
    mirror:  probability of a left-right flip. Keep it 0 where left and right have names of their own.
    """

    turn: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    squeeze: float = 1.0
    shear: float = 0.0
    shift: float = 0.0
    mirror: float = 0.0
    fill: float = 1.0

    def __post_init__(self) -> None:
        low, high = self.scale
        if not 0 < low <= high or self.squeeze < 1:
            raise ConfigError(f"Warp: scale {self.scale} must rise above 0 and squeeze {self.squeeze} be at least 1")

    def __call__(self, rng: np.random.Generator, image: Image) -> Image:
        from PIL import Image as Picture

        height, width, channels = image.shape
        u = rng.uniform(-1.0, 1.0, 7).tolist()  # plain numbers: arrays this small would cost more than the pixels
        low, high = math.log(self.scale[0]), math.log(self.scale[1])
        size = math.exp(low + (high - low) * (u[0] + 1) / 2)
        ratio = self.squeeze ** (u[1] / 2)
        sine, cosine = math.sin(math.radians(self.turn * u[2])), math.cos(math.radians(self.turn * u[2]))
        sign = -1.0 if (u[6] + 1) / 2 < self.mirror else 1.0
        # The turn times [[x, shear], [0, y]].
        x, y, shear = sign * size * ratio, size / ratio, self.shear * u[3]
        forward = (cosine * x, cosine * shear - sine * y, sine * x, sine * shear + cosine * y)
        # From where in the input each output pixel is read: the inverse, about the centre.
        a, b, c, d = (v / (x * y) for v in (forward[3], -forward[1], -forward[2], forward[0]))
        left, top = width / 2 + self.shift * u[4] * width, height / 2 + self.shift * u[5] * height
        coefficients = (a, b, width / 2 - a * left - b * top, c, d, height / 2 - c * left - d * top)
        whole = (image * np.float32(255) + np.float32(0.5)).astype(np.uint8)
        picture = Picture.fromarray(whole[..., 0] if channels == 1 else whole)
        fill = round(self.fill * 255)
        moved = picture.transform(
            (width, height), Picture.Transform.AFFINE, coefficients, Picture.Resampling.BILINEAR,
            fillcolor=fill if channels == 1 else (fill,) * channels,
        )  # fmt: skip
        return (np.asarray(moved, np.float32) * np.float32(1 / 255)).reshape(image.shape)


@dataclass(frozen=True)
class Colour:
    """Brightness, contrast, saturation and hue, as one linear map of the colours (three channels).

    brightness: the largest shift.   contrast, saturation: the largest relative change.   hue: the largest turn, in degrees.
    grey: probability of a picture without colour.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    grey: float = 0.0

    def __call__(self, rng: np.random.Generator, image: Image) -> Image:
        u = rng.uniform(-1.0, 1.0, 5).tolist()
        saturation = 0.0 if (u[4] + 1) / 2 < self.grey else 1 + self.saturation * u[2]
        contrast = 1 + self.contrast * u[1]
        # Hue turns colours about the grey axis, saturation stretches what is perpendicular to it: a circulant matrix.
        sine, cosine = math.sin(math.radians(self.hue * u[3])), math.cos(math.radians(self.hue * u[3]))
        own, next_, last = (
            contrast * (1 / 3 + saturation * v)
            for v in (cosine * 2 / 3, -cosine / 3 - sine / math.sqrt(3), -cosine / 3 + sine / math.sqrt(3))
        )
        matrix = np.array([[own, last, next_], [next_, own, last], [last, next_, own]], np.float32)
        flat = image.reshape(-1, 3) @ matrix + np.float32(self.brightness * u[0] - 0.5 * self.contrast * u[1])
        return np.clip(flat, 0.0, 1.0, out=flat).reshape(image.shape)


@dataclass(frozen=True)
class Cutout:
    """A square of `share` of the side painted over with one random colour, with probability p (DeVries and Taylor 2017)."""

    share: float = 0.3
    p: float = 0.5

    def __call__(self, rng: np.random.Generator, image: Image) -> Image:
        u = rng.random(3)
        if u[0] >= self.p:
            return image
        height, width, channels = image.shape
        h, w = max(1, int(self.share * height)), max(1, int(self.share * width))
        top, left = int(u[1] * (height - h + 1)), int(u[2] * (width - w + 1))
        image = image.copy()
        image[top : top + h, left : left + w] = rng.random(channels, np.float32)
        return image


@dataclass(frozen=True)
class Loudness:
    """A gain drawn evenly in decibels from [-down, 0], and white noise of a level drawn up to `noise` (an RMS) where there is sound."""

    down: float = 12.0
    noise: float = 0.0

    def __call__(self, rng: np.random.Generator, wave: Wave) -> Wave:
        u = rng.random(2)
        wave = wave * np.float32(10 ** (-self.down * u[0] / 20))
        if self.noise:
            hiss = rng.standard_normal(len(wave), np.float32) * np.float32(self.noise * u[1])
            wave = np.clip(wave + hiss * (wave != 0), -1.0, 1.0)
        return wave


@dataclass(frozen=True)
class DropPieces:
    """Each piece of a text but its first and last (BOS and EOS) is left out with probability p; one is always kept. Ids, 0 = padding."""

    p: float = 0.1

    def __call__(self, rng: np.random.Generator, ids: np.ndarray) -> np.ndarray:
        count = int((ids > 0).sum())
        if count <= 3:
            return ids
        keep = rng.random(count) >= self.p
        keep[np.array([0, count - 1, rng.integers(1, count - 1)])] = True
        return np.pad(ids[:count][keep], (0, len(ids) - keep.sum()))


@dataclass(frozen=True)
class DropNumbers:
    """Each number of a vector is set to 0 with probability p, the others grow by 1 / (1 - p) (dropout of the input)."""

    p: float

    def __call__(self, rng: np.random.Generator, vector: np.ndarray) -> np.ndarray:
        kept = rng.random(vector.shape) >= self.p
        return (vector * kept / (1 - self.p)).astype(vector.dtype)
