"""Panels in, one self-contained HTML file out."""

import base64
import io
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mmrep import paths
from mmrep.errors import DataError
from mmrep.report.panels import Number, Panel, Picture, Sound, Words

_MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)


def write_page(
    path: paths.Place | str, title: str, lead: str, panels: Sequence[Panel], attribution: Sequence[str] = ()
) -> paths.Place:
    """Writes the page to `path`, whole or not at all, and returns the path.

    lead: one or two sentences below the title. attribution: sources and licences, printed in the footer.
    Images, sounds and styles are inside the file; it loads nothing.
    """
    path = paths.at(path)
    if not paths.is_url(path):
        Path(path.parent).mkdir(parents=True, exist_ok=True)
    paths.replace(path, render(title, lead, panels, attribution))
    return path


def render(title: str, lead: str, panels: Sequence[Panel], attribution: Sequence[str] = ()) -> str:
    """The page's HTML."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )  # fmt: skip
    environment.globals |= {"media": media, "decimal": decimal, "chance": chance, "svg_uri": svg_uri}
    environment.tests["a_number"] = lambda cell: isinstance(cell, Number)
    template = environment.get_template("page.html.jinja")
    html = template.render(title=title, lead=lead, panels=panels, attribution=attribution)
    return html.encode("utf-8", "replace").decode("utf-8")  # half of a surrogate pair has no UTF-8


def decimal(value: float) -> str:
    """A number in a table or below a candidate: 0.123, 12.3, 1,234."""
    if not math.isfinite(value):
        return str(float(value))
    whole = float(value).is_integer() and abs(value) >= 1
    return f"{value:,.{0 if whole or abs(value) >= 1000 else 1 if abs(value) >= 10 else 3}f}"


def chance(number: Number, better: str) -> str:
    """ "chance 0.1", "not better than chance 0.1", or "" where chance is unknown."""
    if number.chance is None:
        return ""
    text = f"chance {number.chance:.2g}" if abs(number.chance) < 1 else f"chance {decimal(number.chance)}"
    above = number.value > number.chance if better != "lower" else number.value < number.chance
    return text if above or not better else f"not better than {text}"


def media(thing: Any) -> dict[str, str]:
    """A Picture, Words or Sound (or bare pixels, or bare text) as {kind, uri, text, caption, lang}. Raises DataError for another type."""
    if isinstance(thing, str):
        thing = Words(thing)
    elif isinstance(thing, np.ndarray):
        thing = Picture(thing)
    match thing:
        case Picture(pixels, caption):
            high, wide = (*np.shape(pixels)[:2], 0, 0)[:2]
            small = "strip" if wide >= 3 * max(high, 1) else "small" if max(high, wide) <= 32 else ""
            return {"kind": "picture", "uri": picture_uri(pixels), "text": small, "caption": caption, "lang": ""}
        case Words(text, caption, lang):
            return {"kind": "words", "uri": "", "text": text, "caption": caption, "lang": lang}
        case Sound(waveform, rate, caption):
            return {"kind": "sound", "uri": sound_uri(waveform, rate), "text": "", "caption": caption, "lang": ""}
    raise DataError(f"a page cannot show a {type(thing).__name__}: give uint8 pixels, text, Picture, Words or Sound")


def picture_uri(pixels: np.ndarray, side: int = 224) -> str:
    """uint8 [H, W] or [H, W, 1 | 3 | 4] as a data URI of at most `side` pixels a side (a strip: twice as wide): PNG, or JPEG where that is much smaller."""
    pixels = np.asarray(pixels)
    pixels = pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
    colours = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (3, 4))
    if pixels.dtype != np.uint8 or 0 in pixels.shape or not colours:
        raise DataError(f"a picture is {pixels.dtype} {list(pixels.shape)}: give uint8 [H, W] or [H, W, 1, 3 or 4]")
    image = Image.fromarray(np.ascontiguousarray(pixels))
    image.thumbnail((2 * side if image.width >= 3 * image.height else side, side), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True)
    if out.tell() <= 24_000 or image.mode == "RGBA":
        return _uri("image/png", out)
    image.save(out := io.BytesIO(), "JPEG", quality=88)
    return _uri("image/jpeg", out)


def sound_uri(waveform: np.ndarray, rate: int, seconds: float = 8.0) -> str:
    """A mono waveform [T] without the zeros at its end, at most `seconds` long, as MP3 where the rate allows it, else as WAV."""
    import soundfile

    wave = np.asarray(waveform)
    if wave.ndim != 1 or not wave.size:
        raise DataError(f"a sound has shape {list(wave.shape)}: give a mono waveform [T]")
    scale = 32768.0 if wave.dtype == np.int16 else 1.0
    wave = np.clip(np.nan_to_num(wave[: int(seconds * rate)].astype(np.float32) / scale), -1, 1)
    loud = np.flatnonzero(np.abs(wave) > 1e-4)
    wave, out = wave[: loud[-1] + 1] if len(loud) else wave[:1], io.BytesIO()
    mp3 = rate in _MP3_RATES and "MP3" in soundfile.available_formats()
    soundfile.write(out, wave, rate, format="MP3" if mp3 else "WAV")
    return _uri("audio/mpeg" if mp3 else "audio/wav", out)


def svg_uri(figure: Any) -> str:
    """A matplotlib figure as a data URI. Text stays text, so that the browser's fonts draw every script."""
    import matplotlib

    out = io.BytesIO()
    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": "mmrep", "font.family": "sans-serif"}
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # in matplotlib's own font, which is not used
        figure.savefig(out, format="svg", metadata={"Date": None})
    return _uri("image/svg+xml", out)


def _uri(kind: str, content: io.BytesIO) -> str:
    return f"data:{kind};base64,{base64.b64encode(content.getvalue()).decode()}"
