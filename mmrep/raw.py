"""Raw values, as files, arrays and notebooks hold them, -> checked pictures, waveforms and texts.

Every function takes `where`, the name that begins the sentence of its DataError. A range is checked before anything is clipped, cast or
resized, since each of these hides a wrong range.
"""

import re
import unicodedata
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8

from mmrep.errors import DataError

_CLIPPED = 1.5  # resampling overshoots a full-scale waveform a little; int16 samples given as floats are thousands
_OVERSHOOT = 1e-4  # what float arithmetic adds to a pixel of 1
_ORIENTATION = 0x0112
RESAMPLE = {"bicubic": "BICUBIC", "bilinear": "BILINEAR"}
_UPRIGHT = ("", "", "FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM", "TRANSPOSE", "ROTATE_270", "TRANSVERSE", "ROTATE_90")  # fmt: skip


def is_pil(value: Any) -> bool:
    """Whether `value` is a PIL picture; Pillow need not be imported to know."""
    return any(c.__module__ == "PIL.Image" and c.__name__ == "Image" for c in type(value).__mro__)


def rgb(picture: Any, where: str) -> UInt8[np.ndarray, "H W 3"]:
    """A PIL picture of any mode as RGB: EXIF orientation applied, transparency laid on white, 16 bits scaled to 8.

    Raises DataError for pixels without a stated range (mode F, more than 16 bits).
    """
    from PIL import Image

    try:
        # Only this tag is read: broken tags beside it do not affect the pixels.
        orientation = picture.getexif().get(_ORIENTATION)
    except Exception:
        orientation = None
    if isinstance(orientation, int) and 2 <= orientation <= 8:
        picture = picture.transpose(Image.Transpose[_UPRIGHT[orientation]])
    if picture.mode.startswith("I"):
        values = np.asarray(picture).astype(np.int64)
        if values.min() < 0 or values.max() > 65_535:
            raise DataError(f"{where}: 32-bit pixels beyond 16 bits: save the image with 8 or 16 bits")
        grey = np.round(values / 257.0).astype(np.uint8)
        if isinstance(clear := picture.info.get("transparency"), int):
            grey[values == clear] = 255
        return np.repeat(grey[..., None], 3, axis=2)
    if picture.mode == "F":
        raise DataError(f"{where}: floating-point pixels have no stated range: save the image with 8 or 16 bits")
    if picture.mode == "LAB":
        from PIL import ImageCms

        profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return np.asarray(ImageCms.profileToProfile(picture, *profiles, outputMode="RGB"))
    if picture.mode in ("La", "RGBa"):  # premultiplied by alpha
        picture = picture.convert("LA" if picture.mode == "La" else "RGBA")
    if picture.has_transparency_data:
        rgba = picture.convert("RGBA")
        return np.asarray(Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB"))
    return np.asarray(picture.convert("RGB"))


def pixels(
    value: Any,
    size: tuple[int, int],
    channels: int,
    where: str,
    crop: bool = False,
    short: int = 0,
    resample: str = "bicubic",
) -> Float[np.ndarray, "{size[0]} {size[1]} {channels}"]:
    """A picture as float32 in [0, 1], brought to `size` (height, width) by interpolation (`resample`), its aspect ratio not kept.

    value: a PIL picture; or an array [H, W] or [H, W, C] of uint8, bool, or floats in [0, 1]. One channel is repeated where 3 are wanted.
    crop: the shorter side is brought to `size` and the longer one cut at the centre (CLIP); with `short`, the shorter side is brought to
    that length, and both are cut.
    Raises DataError for another range, another integer type, or another number of channels.
    """
    array = _picture(value, channels, where) if is_pil(value) else numbers(value, where)
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or not array.size:
        raise DataError(f"{where}: expected an image [H, W] or [H, W, C], found shape {array.shape}")
    if array.shape[2] == 1 and channels == 3:
        array = np.repeat(array, 3, axis=2)
    if array.shape[2] != channels:
        first = "; the channels must come last" if array.shape[0] == channels else ""
        raise DataError(f"{where}: expected {channels} channels, found {array.shape[2]}{first}")
    if array.dtype == bool:
        array = array.astype(np.uint8) * np.uint8(255)
    if array.dtype.kind in "iu" and array.dtype != np.uint8:
        fix = "divide by 257 and give uint8" if array.dtype == np.uint16 else "give uint8 (0 to 255)"
        raise DataError(f"{where}: {array.dtype} pixels have no stated range: {fix}, or floats in [0, 1]")
    if array.dtype != np.uint8:
        low, high = float(array.min()), float(array.max())
        if not (low >= -_OVERSHOOT and high <= 1 + _OVERSHOOT):  # NaN too
            raise DataError(
                f"{where}: float pixels must be finite and within [0, 1], found {low:.4g}..{high:.4g}; give uint8 or scale them"
            )
    if crop:
        array = _centre(array, size, short, resample)
    if array.shape[:2] != size:
        array = _resize(array, size, resample)
    if array.dtype == np.uint8:
        return array.astype(np.float32) / 255.0
    return np.clip(array, 0.0, 1.0).astype(np.float32)


@runtime_checkable
class Timed(Protocol):
    """A clip that gives its frames by time, such as a film of `mmrep.data.videos`."""

    def frames_at(self, shares: Any, /) -> list[Any]:
        """The frames shown at these shares of the duration, each in [0, 1)."""
        ...


def segments(value: Any, number: int, where: str, rng: np.random.Generator | None = None) -> list[Any]:
    """`number` frames of a video: one of each of as many segments of equal duration (Wang et al. 2016, TSN), still as pictures.

    value: an array [T, H, W] or [T, H, W, C], a list of pictures, or a `Timed` clip. The frame shown at the middle of a segment is taken,
    or with `rng` at a random time in it: of T frames, frame floor((i + 1/2) T / number) or floor((i + u) T / number), u drawn evenly from
    [0, 1). With fewer than `number` frames some are repeated. Raises DataError for no frame, and another rank.
    """
    at = np.arange(number) + (0.5 if rng is None else rng.random(number))
    if isinstance(value, Timed):
        return value.frames_at(at / number)
    several = isinstance(value, (list, tuple))
    shown = value if several else numbers(value, where)
    if not several and shown.ndim not in (3, 4):
        raise DataError(f"{where}: expected a video [T, H, W] or [T, H, W, C], found shape {shown.shape}")
    if not len(shown):
        raise DataError(f"{where}: the video has no frame")
    return [shown[min(i, len(shown) - 1)] for i in (at * len(shown) / number).astype(int)]


def frames(
    value: Any,
    number: int,
    size: tuple[int, int],
    channels: int,
    where: str,
    crop: bool = False,
    short: int = 0,
    resample: str = "bicubic",
    rng: np.random.Generator | None = None,
) -> Float[np.ndarray, "{number} {size[0]} {size[1]} {channels}"]:
    """`number` frames of a video (see `segments`), each as `pixels` returns a picture. Raises DataError as `segments` and `pixels` do."""
    shown = segments(value, number, where, rng)
    return np.stack([pixels(frame, size, channels, where, crop, short, resample) for frame in shown])


def _picture(picture: Any, channels: int, where: str) -> np.ndarray:
    from PIL import Image

    if channels == 4 and picture.mode == "RGBA":
        return np.asarray(picture)
    if channels not in (1, 3):
        raise DataError(f"{where}: a picture in mode {picture.mode} does not have {channels} channels: give an array")
    array = rgb(picture, where)
    return array if channels == 3 else np.asarray(Image.fromarray(array).convert("L"))


def _centre(array: np.ndarray, size: tuple[int, int], short: int, resample: str) -> np.ndarray:
    """The picture resized until it just covers `size` (or its shorter side is `short`), its middle cut out."""
    height, width = array.shape[:2]
    cover = (short, short) if short else size
    if height * cover[1] < width * cover[0]:
        whole = cover[0], int(cover[0] * width / height)
    else:
        whole = int(cover[1] * height / width), cover[1]
    if (height, width) != whole:
        array = _resize(array, whole, resample)
    top, left = (whole[0] - size[0]) // 2, (whole[1] - size[1]) // 2
    return array[top : top + size[0], left : left + size[1]]


def _resize(array: np.ndarray, size: tuple[int, int], resample: str) -> np.ndarray:
    from PIL import Image

    shape, how = (size[1], size[0]), Image.Resampling[RESAMPLE[resample]]
    if array.dtype == np.uint8 and array.shape[2] in (1, 3, 4):
        squeezed = array[..., 0] if array.shape[2] == 1 else array
        resized = np.asarray(Image.fromarray(squeezed).resize(shape, how))
        return resized[..., None] if resized.ndim == 2 else resized
    bands = [
        array[..., c] if array.dtype == np.uint8 else array[..., c].astype(np.float32) for c in range(array.shape[2])
    ]
    return np.stack([np.asarray(Image.fromarray(b).resize(shape, how)) for b in bands], axis=-1)


def waveform(value: Any, where: str) -> Float[np.ndarray, " T"]:
    """Mono samples as float32 in [-1, 1]; integers are scaled by the range of their type.

    value: [T] of int16, int32 (24 bits as SciPy reads them, too), uint8 or int8; int64 within 16 bits; floats in [-1, 1].
    Raises DataError for another shape, for NaN, and for a range that is none of these.
    """
    wave = numbers(value, where)
    if wave.ndim != 1 or not len(wave):
        raise DataError(
            f"{where}: expected mono samples [T], found shape {wave.shape}; average the channels of each sample"
        )
    return np.clip(scaled(wave, where), -1.0, 1.0)


def scaled(wave: np.ndarray, where: str) -> Float[np.ndarray, "*T"]:
    """Samples of any shape as float32, full scale at 1; see `waveform`."""
    kind, bits = wave.dtype.kind, 8 * wave.dtype.itemsize
    if kind == "i" and bits == 64:
        if wave.min() < -(2**15) or wave.max() >= 2**15:
            raise DataError(f"{where}: int64 samples beyond 16 bits: give int16, int32 or floats in [-1, 1]")
        return (wave / 2.0**15).astype(np.float32)
    if kind == "i":
        return (wave / 2.0 ** (bits - 1)).astype(np.float32)
    if wave.dtype == np.uint8:
        return ((wave.astype(np.float32) - 128.0) / 128.0).astype(np.float32)
    if kind != "f":
        raise DataError(f"{where}: {wave.dtype} samples have no stated range: give int16, int32 or floats in [-1, 1]")
    if not np.isfinite(wave).all():
        raise DataError(f"{where}: the waveform has NaN or infinite samples")
    if (peak := float(np.abs(wave).max(initial=0.0))) > _CLIPPED:
        raise DataError(
            f"{where}: float samples must lie in [-1, 1], found a peak of {peak:.4g}: divide by 32768 if they were int16"
        )
    return wave.astype(np.float32)


def numbers(value: Any, where: str) -> np.ndarray:
    """`value` as an array of numbers or bools. Raises DataError for text, objects, and lists of unequal lengths."""
    try:
        array = np.asarray(value)
    except ValueError:
        raise DataError(f"{where}: expected numbers, found lists of unequal lengths") from None
    if array.dtype.kind in "OSUMmc":
        raise DataError(f"{where}: expected numbers, found {type(value).__name__} of {array.dtype}")
    return array


def text(value: Any, where: str) -> str:
    """A usable text, without the space around it. Raises DataError for another type, for an empty text, and where it is not UTF-8."""
    if isinstance(value, bytes):
        try:
            value = value.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise DataError(f"{where}: byte {error.start} is not UTF-8: save the text as UTF-8") from None
    if not isinstance(value, str):
        raise DataError(f"{where}: expected text, found {type(value).__name__}: put it in quotes")
    if any("\ud800" <= c <= "\udfff" for c in value):
        raise DataError(f"{where}: the text is not UTF-8 (it has half a character): save it as UTF-8")
    if blank(value):
        raise DataError(f"{where}: the text is empty: write one or remove the record")
    return value.strip()


def blank(value: str) -> bool:
    """Whether nothing of a text is visible: only space, control and format characters (a zero-width space, say)."""
    return not value.strip() or all(c.isspace() or unicodedata.category(c) in ("Cc", "Cf") for c in value)


def lines(value: str) -> tuple[str, ...]:
    """The lines of a text file that are not blank, split at LF, CRLF and CR only: captions may hold U+2028 and its like."""
    return tuple(line.strip() for line in re.split(r"\r\n|\n|\r", value) if not blank(line))
