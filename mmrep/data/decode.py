"""Bytes of a file, a shard member or a table cell -> raw record values; a value that cannot be used is one sentence."""

import importlib.util
import io
import os
import re
import stat
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from math import gcd

import numpy as np

from mmrep import paths, raw
from mmrep.errors import DataError

IMAGE = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff",
    ".jp2", ".j2k", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".qoi",
)  # fmt: skip
AUDIO = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".aifc", ".au", ".caf", ".w64", ".rf64")
FILMS = (".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi")
_STREAMED = 0x7FF00000  # SoX and arecord give a piped WAV a size near 2 GB, ffmpeg 0xFFFFFFFF


UNREAD = {
    ".heic": "for .heic and .heif: pip install pillow-heif", ".avif": "for .avif: a Pillow that was built with it",
    ".m4a": "for .m4a: pip install av", ".aac": "save .aac as .wav or .flac", ".jxl": "save .jxl as .png", ".svg": "draw .svg as .png",
    **dict.fromkeys(FILMS, "for films (.mp4, .webm, ...): pip install av"),
    **dict.fromkeys((".wmv", ".flv", ".mpg", ".mpeg"), "save .wmv, .flv and .mpg as .mp4"),
}  # fmt: skip
"""Advice for endings that are common and not always read."""


@cache
def image_endings() -> tuple[str, ...]:
    """The endings of images that can be decoded here: .avif and .heic depend on the installed packages."""
    from PIL import features

    endings = IMAGE + ((".avif",) if features.check("avif") else ())
    if importlib.util.find_spec("pillow_heif") is None:
        return endings
    import pillow_heif  # registering is what makes Pillow open them

    pillow_heif.register_heif_opener()
    return (*endings, ".heic", ".heif")


@cache
def audio_endings() -> tuple[str, ...]:
    """The endings of sounds that can be decoded here: .m4a where PyAV is installed."""
    return (*AUDIO, ".m4a") if importlib.util.find_spec("av") else AUDIO


@cache
def film_endings() -> tuple[str, ...]:
    """The endings of films, where PyAV is installed; else none."""
    return FILMS if importlib.util.find_spec("av") else ()


def advice(unread: Iterable[str]) -> str:
    """What to do about files of common endings that are not read here: "; for .m4a: pip install av"; empty where nothing helps."""
    endings = {os.path.splitext(name)[1].lower() for name in unread} - {*audio_endings(), *film_endings()}
    return "".join(f"; {hint}" for hint in dict.fromkeys(h for e, h in UNREAD.items() if e in endings))


def by_ending(names: Iterable[str]) -> str:
    """Files counted by ending, the most frequent first: "40 .jfif, 2 without ending"."""
    counts = Counter(os.path.splitext(os.path.basename(n))[1].lower() for n in names)
    parts = [f"{n} {ending or 'without ending'}" for ending, n in counts.most_common(8)]
    return ", ".join(parts) + (f" and {len(counts) - 8} other endings" if len(counts) > 8 else "")


@dataclass(frozen=True)
class Limits:
    """Limits of a single record; beyond them it is bad, so that one file cannot exhaust the memory.

    pixels: height x width of an image.   seconds: length of a sound.   characters: length of a text.   bytes: size of a file.
    """

    pixels: int = 64_000_000
    seconds: float = 600.0
    characters: int = 100_000
    bytes: int = 256_000_000


def read(path: str, limits: Limits = Limits(), where: str = "", most: int | None = None) -> bytes:
    """The content of the file `path`; `where` ("pairs.csv line 7: ") begins the sentence of an error.

    Raises DataError where the file is missing, unreadable or larger than `most` bytes (default limits.bytes).
    """
    most = limits.bytes if most is None else most
    try:
        if paths.is_url(path):
            content = paths.read(path, 0, most + 1)
            if len(content) > most:
                raise DataError(f"{where}{path} has more than the limit of {most:,} bytes: shrink it or raise limits")
            return content
        state = os.stat(path)
        size = state.st_size
        if not stat.S_ISREG(state.st_mode):  # a named pipe would keep its reader waiting for ever
            raise DataError(f"{where}{path} cannot be read (not a file): mend the path or remove the record")
        if size > most:
            raise DataError(
                f"{where}{path} has {size:,} bytes, more than the limit of {most:,}: shrink it or raise limits"
            )
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise DataError(
            f"{where}{path} cannot be read ({error.strerror or error}): mend the path or remove the record"
        ) from None


def fetched(data: bytes, where: str) -> None:
    """Raises DataError where `data` is a pointer that Git LFS left in place of the file."""
    if data.startswith(b"version https://git-lfs"):
        raise DataError(f"{where}: only a pointer of Git LFS to the file: fetch it with `git lfs pull`")


def locate(path: str) -> str:
    """`path`, or the same path in another Unicode normal form (macOS) or with backslashes (Windows); `path` itself where none exists.

    A URL of an object store stays what it is.
    """
    if paths.is_url(path):
        return str(paths.at(path))
    if os.path.lexists(path) or (path.isascii() and "\\" not in path):
        return path
    for spelled in (path, path.replace("\\", "/")):
        found = "/" if spelled.startswith("/") else ""
        for part in spelled.split("/"):
            there = os.path.join(found, part)
            if not os.path.lexists(there) and not part.isascii():
                try:
                    names = os.listdir(found or ".")
                except OSError:
                    names = []
                wanted = unicodedata.normalize("NFC", part)
                there = next(
                    (os.path.join(found, n) for n in names if unicodedata.normalize("NFC", n) == wanted), there
                )
            found = there
        if os.path.lexists(found):
            return found
    return path


def beside(table: str, path: str) -> str:
    """The path that `path`, a URL or relative to the file `table`, names; `table` may be a URL."""
    if paths.is_url(path):
        return path
    found = os.path.join(os.path.dirname(table), os.path.expanduser(path))
    if not paths.is_url(table) or os.path.isabs(found):
        return found
    scheme, _, rest = found.partition("://")
    return f"{scheme}://{os.path.normpath(rest)}"


def image(data: bytes, where: str, limits: Limits = Limits()) -> np.ndarray:
    """An encoded image as uint8 [H, W, 3]: first frame, EXIF rotation applied, transparency laid on white.

    Raises DataError, naming `where`, for truncated, unknown or oversized content.
    """
    fetched(data, where)
    from PIL import Image

    image_endings()
    try:
        # Pillow only warns of a bomb below twice its own limit; ours is checked before any pixel is decoded.
        with Image.open(io.BytesIO(data)) as opened:
            width, height = opened.size
            if width * height > limits.pixels:
                raise DataError(
                    f"{where}: the image has {width} x {height} pixels, more than the limit of {limits.pixels:,}: "
                    "shrink it or raise limits.pixels"
                )
            opened.load()
            return raw.rgb(opened, where)
    except DataError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise DataError(f"{where}: the image is a decompression bomb, beyond {limits.pixels:,} pixels") from None
    except Exception as error:  # Pillow's codecs raise many kinds for broken bytes
        raise DataError(f"{where}: not a whole image file ({brief(error)}): replace it") from None


def audio(data: bytes, where: str, rate: int, limits: Limits = Limits()) -> np.ndarray:
    """An encoded sound as mono float32 [T] in [-1, 1] at `rate` samples a second.

    Raises DataError, naming `where`, for truncated, empty, unknown or oversized content.
    """
    fetched(data, where)
    import soundfile

    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            seconds = file.frames / file.samplerate
            if seconds > limits.seconds:
                raise DataError(
                    f"{where}: the sound lasts {seconds:.0f} s, more than the limit of {limits.seconds:.0f}: "
                    "cut it or raise limits.seconds"
                )
            wave, found, frames = file.read(dtype="float32", always_2d=True), file.samplerate, file.frames
    except DataError:
        raise
    except Exception as error:  # libsndfile's wrapper raises RuntimeError, TypeError and its own, by format
        raise DataError(f"{where}: not a whole sound file ({brief(error)}): replace it") from None
    if not len(wave):
        raise DataError(f"{where}: the sound has no samples: replace it or remove it")
    if len(wave) < frames or _wav_cut(data):
        raise DataError(f"{where}: the sound is truncated: replace it")
    return resample(raw.scaled(wave, where).mean(axis=1), found, rate, where)


def resample(wave: np.ndarray, found: int, rate: int, where: str) -> np.ndarray:
    """Finite mono samples [T] at `found` samples a second -> float32 [T * rate / found] in [-1, 1] at `rate`."""
    from scipy.signal import resample_poly

    if not np.isfinite(wave).all():
        raise DataError(f"{where}: the waveform has NaN or infinite samples")
    if found != rate:
        common = gcd(found, rate)
        wave = resample_poly(wave, rate // common, found // common)
    return np.clip(wave, -1.0, 1.0).astype(np.float32)


def _wav_cut(data: bytes) -> bool:
    """Whether a WAV is shorter than its RIFF header says, unless it was streamed; libsndfile does not notice."""
    if data[:4] != b"RIFF":
        return False
    size = int.from_bytes(data[4:8], "little")
    return 0 < size < _STREAMED and size + 8 > len(data) + 1


def text(data: bytes, where: str, limits: Limits = Limits()) -> str:
    """UTF-8 bytes as text without byte-order mark. Raises DataError for another encoding or beyond limits.characters."""
    fetched(data, where)
    try:
        value = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: byte {error.start} is not UTF-8: save the text as UTF-8") from None
    return caption(value, where, limits)


def caption(value: object, where: str, limits: Limits = Limits()) -> str:
    """`value` where it is a usable text. Raises DataError for another type, an empty text or one beyond limits.characters."""
    if isinstance(value, str) and len(value) > limits.characters:
        raise DataError(
            f"{where}: the text has {len(value):,} characters, more than the limit of {limits.characters:,}: "
            "shorten it or raise limits.characters"
        )
    return raw.text(value, where)


def brief(error: Exception) -> str:
    """An error of a codec in at most 80 characters."""
    words = " ".join(re.sub(r"\s*<_io\.[^>]*>", "", str(error)).split())
    return (words if len(words) <= 80 else words[:77] + "...") or type(error).__name__
