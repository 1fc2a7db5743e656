"""Pictures and sounds as data URIs small enough for a page."""

import base64
import io
import itertools
from html import escape

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from mmrep.errors import DataError

_LOSSLESS_BYTES = 24_000
_MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)


def picture_uri(pixels: UInt8[np.ndarray, "..."], side: int = 224) -> str:
    """A data URI of a picture [H,W] or [H,W,1|3|4], made smaller where a side exceeds `side`.

    PNG (exact) where it is small; a large opaque picture, which is a photograph, becomes a JPEG. Raises DataError for another shape.
    """
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    if 0 in pixels.shape or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (3, 4))):
        raise DataError(f"a picture has shape {pixels.shape}: give uint8 [H, W] or [H, W, 1, 3 or 4]")
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if max(image.size) > side:
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
    png = io.BytesIO()
    image.save(png, "PNG", optimize=True)
    if png.tell() <= _LOSSLESS_BYTES or image.mode == "RGBA":
        return _uri("image/png", png.getvalue())
    jpeg = io.BytesIO()
    image.save(jpeg, "JPEG", quality=88)
    return _uri("image/jpeg", jpeg.getvalue())


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def trim(waveform: Float[np.ndarray, " T"], rate: int, seconds: float = 8.0) -> Float[np.ndarray, " S"]:
    """The waveform without the zeros that pad its end, at most `seconds` long, clipped to [-1, 1], finite."""
    waveform = np.nan_to_num(np.asarray(waveform, np.float32)[: max(1, int(seconds * rate))])
    loud = np.flatnonzero(np.abs(waveform) > 1e-4)
    return np.clip(waveform[: loud[-1] + 1] if len(loud) else waveform[:1], -1.0, 1.0)


def sound_uri(waveform: Float[np.ndarray, " T"], rate: int) -> str:
    """A data URI of a waveform in [-1, 1]: MP3, a fifth of the bytes, where library and sample rate allow it, else 16-bit WAV."""
    import soundfile

    out = io.BytesIO()
    if rate in _MP3_RATES and "MP3" in soundfile.available_formats():
        soundfile.write(out, waveform, rate, format="MP3")
        return _uri("audio/mpeg", out.getvalue())
    soundfile.write(out, waveform, rate, format="WAV", subtype="PCM_16")
    return _uri("audio/wav", out.getvalue())


def wave_svg(waveform: Float[np.ndarray, " T"], label: str, bins: int = 72) -> str:
    """The envelope (least and greatest value of each of `bins` stretches) of a waveform, scaled to its own peak."""
    edges = np.linspace(0, len(waveform), min(bins, len(waveform)) + 1).astype(int)
    parts = [waveform[a:b] for a, b in itertools.pairwise(edges)] or [np.zeros(1)]
    peak = max(float(np.abs(waveform).max(initial=0.0)), 1e-6)
    width = 100 / len(parts)
    bars = "".join(
        f"M{(i + 0.5) * width:.2f} {20 - 18 * p.max() / peak:.1f}V{20.6 - 18 * p.min() / peak:.1f}"
        for i, p in enumerate(parts)
    )
    return f'<svg class="wave" viewBox="0 0 100 40" preserveAspectRatio="none" role="img" aria-label="{escape(label)}"><path d="{bars}"/></svg>'
