"""Clips as users have them: animations, arrays and folders of pictures by Pillow and NumPy; films (.mp4, .webm) and their sound by PyAV.

A clip gives its frames by time: `frames_at(shares)` are the frames shown at these shares of its duration, so that clips of variable frame rate
are sampled evenly. Which shares a batch takes is the modality's rule (`mmrep.raw.segments`).
"""

import bisect
import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from mmrep import paths, raw
from mmrep.data import decode
from mmrep.data.decode import Limits
from mmrep.errors import DataError

ANIMATIONS = (".gif", ".webp", ".apng")
INSTALL = "films (.mp4, .webm, ...) need PyAV: pip install av"
_FORMATS = "mov,matroska,webm,avi"  # no playlist, which could name other files or addresses
_BROWSERS = 100  # milliseconds that a frame without a duration is shown
_LIMITS = Limits()
_SLACK = 1e-6  # of a share times a duration that ought to be the time of a frame


def is_film(data: bytes) -> bool:
    """Whether encoded bytes begin as an MP4, a WebM (Matroska) or an AVI does; their sound is read by `sound`."""
    return data[4:8] == b"ftyp" or data[:4] == b"\x1aE\xdf\xa3" or (data[:4] == b"RIFF" and data[8:12] == b"AVI ")


def video(path: str, limits: Limits = _LIMITS, where: str = "") -> Any:
    """The clip `path`: of a folder the list of its pictures in the order of their names, of a file what `encoded` returns.

    Raises DataError for a folder without pictures, a missing or broken file.
    """
    path = decode.locate(path)
    if not paths.is_dir(path):
        return encoded(decode.read(path, limits, where), f"{where}{path}", limits)
    names = sorted(n for n in paths.names(path) if n.lower().endswith(decode.image_endings()))
    if not names:
        raise DataError(f"{where}{path} has no pictures: put the frames there")
    files = [os.path.join(path, n) for n in names]
    return [decode.image(decode.read(f, limits, where), f"{where}{f}", limits) for f in files]


def encoded(data: bytes, where: str, limits: Limits = _LIMITS) -> Any:
    """A clip from the bytes of its file: a `Film`, an `Animation` (.gif, .webp, .apng, .tiff), or the list of a .npy array's frames.

    Raises DataError, naming `where`, for an animation or array that is not whole, or with more than limits.pixels pixels in all.
    A film is read when its frames are taken.
    """
    decode.fetched(data, where)
    if is_film(data) or where.lower().endswith(decode.FILMS):
        return Film(data, where, limits)
    if data.startswith(b"\x93NUMPY"):
        try:
            return list(np.load(io.BytesIO(data), allow_pickle=False))
        except ValueError as error:
            raise DataError(f"{where}: not a whole .npy file ({decode.brief(error)}): replace it") from None
    return _animation(data, where, limits)


@dataclass(frozen=True, eq=False)
class Animation:
    """Decoded pictures, and when each ends, in milliseconds from the start."""

    pictures: tuple[UInt8[np.ndarray, "_ _ 3"], ...] = field(repr=False)
    ends: tuple[int, ...]

    @property
    def seconds(self) -> float:
        return self.ends[-1] / 1000

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, i: int) -> UInt8[np.ndarray, "_ _ 3"]:
        return self.pictures[i]

    def frames_at(self, shares: Sequence[float] | Float[np.ndarray, " N"]) -> list[UInt8[np.ndarray, "_ _ 3"]]:
        """The pictures shown at `shares` of the duration, each in [0, 1)."""
        found = [bisect.bisect_right(self.ends, s * self.ends[-1] + _SLACK) for s in shares]
        return [self.pictures[min(i, len(self) - 1)] for i in found]


def _animation(data: bytes, where: str, limits: Limits) -> Animation:
    from PIL import Image, ImageSequence

    decode.image(data, where, limits)  # one frame, which meets every other error
    found: list[np.ndarray] = []
    ends: list[int] = []
    try:
        with Image.open(io.BytesIO(data)) as opened:
            for frame in ImageSequence.Iterator(opened):
                found.append(raw.rgb(frame, where))
                ends.append((ends[-1] if ends else 0) + int(frame.info.get("duration", 0) or _BROWSERS))
                if sum(f.shape[0] * f.shape[1] for f in found) > limits.pixels:
                    raise DataError(
                        f"{where}: the frames have more pixels than the limit of {limits.pixels:,}: raise limits.pixels"
                    )
    except DataError:
        raise
    except Exception as error:  # Pillow's codecs raise many kinds for broken bytes
        raise DataError(f"{where}: not a whole animation ({decode.brief(error)}): replace it") from None
    return Animation(tuple(found), tuple(ends))


# Films


@dataclass(frozen=True, eq=False)
class Film:
    """The bytes of a film, decoded when frames are taken: upright, with square pixels, uint8 [H, W, 3]."""

    data: bytes = field(repr=False)
    where: str
    limits: Limits = field(default_factory=Limits, repr=False)

    @property
    def seconds(self) -> float:
        """From the first picture to the end of the last. Raises DataError as `frames_at` does."""
        with _opened(self.data, self.where) as container:
            stream = _pictures(container)
            if stream is None:
                raise DataError(f"{self.where}: the film has no pictures: take it as a sound, or remove it")
            line = _timeline(container, stream, self.where, self.limits)
            return float((line.end - line.start) * stream.time_base)

    def frames_at(self, shares: Sequence[float] | Float[np.ndarray, " N"]) -> list[UInt8[np.ndarray, "_ _ 3"]]:
        """The frames shown at `shares` of the duration, each in [0, 1), in the order of `shares`.

        Raises DataError for a film that is broken, cut short or damaged, has no pictures, or goes beyond the limits.
        """
        with _opened(self.data, self.where) as container:
            stream = _pictures(container)
            if stream is None:
                raise DataError(f"{self.where}: the film has no pictures: take it as a sound, or remove it")
            width, height = stream.codec_context.width, stream.codec_context.height
            if width * height > self.limits.pixels:
                raise DataError(
                    f"{self.where}: the frames have {width} x {height} pixels, more than the limit of {self.limits.pixels:,}: "
                    "shrink it or raise limits.pixels"
                )
            line = _timeline(container, stream, self.where, self.limits)
            wanted = np.asarray([line.start + share * (line.end - line.start) + _SLACK for share in shares])
            order = np.argsort(wanted, kind="stable")
            shown = [_upright(f, stream) for f in _frames(container, stream, wanted[order], line, self.where)]
            return [shown[i] for i in np.argsort(order)]


def audio(data: bytes, where: str, rate: int, limits: Limits = _LIMITS) -> Float[np.ndarray, " T"]:
    """The sound of a film, or that of a sound file (see `decode.audio`). Raises DataError as these do, and for a silent film."""
    if not is_film(data):
        return decode.audio(data, where, rate, limits)
    heard = sound(data, where, rate, limits)
    if heard is None:
        raise DataError(f"{where}: the film has no sound: give it one, or remove it")
    return heard


def sound(data: bytes, where: str, rate: int, limits: Limits = _LIMITS) -> Float[np.ndarray, " T"] | None:
    """The sound of a film as mono float32 in [-1, 1] at `rate`, beginning when its pictures begin; None where it has no sound.

    Raises DataError for a film that is broken or goes beyond the limits.
    """
    with _opened(data, where) as container:
        if not container.streams.audio:
            return None
        stream, pictures = container.streams.audio[0], _pictures(container)
        begin = float(_timeline(container, stream, where, limits).start * stream.time_base)
        late = begin - float((pictures.start_time or 0) * pictures.time_base) if pictures is not None else 0.0
    wave, found = _samples(data, where)
    gap = round(late * found)
    wave = np.pad(wave, (gap, 0)) if gap > 0 else wave[-gap:]
    return decode.resample(np.clip(wave, -1.0, 1.0), found, rate, where) if len(wave) else None


def _samples(data: bytes, where: str) -> tuple[Float[np.ndarray, " T"], int]:
    """The samples of a film's sound, the mean of its channels, and their rate."""
    import av

    convert, parts, rate = av.AudioResampler(format="fltp"), [np.zeros(0, np.float32)], 1
    with _opened(data, where) as container:
        for frame in container.decode(audio=0):
            parts += [part.to_ndarray().mean(axis=0) for part in convert.resample(frame)]
            rate = frame.sample_rate
        parts += [part.to_ndarray().mean(axis=0) for part in convert.resample(None)] if len(parts) > 1 else []
    return np.concatenate(parts), rate


@contextmanager
def _opened(data: bytes, where: str) -> Iterator[Any]:
    """PyAV's container over `data`; all that FFmpeg raises within becomes one sentence."""
    if not decode.film_endings():
        raise DataError(f"{where}: {INSTALL}")
    import av

    try:
        with av.open(io.BytesIO(data), options={"format_whitelist": _FORMATS}) as container:
            for stream in (*container.streams.video, *container.streams.audio):
                stream.codec_context.thread_count = 1  # the loaders' threads are the parallelism
            yield container
    except DataError:
        raise
    except Exception as error:  # FFmpeg's errors, and PyAV's for values that no film has
        words = getattr(error, "strerror", None) or decode.brief(error)
        raise DataError(f"{where}: not a whole film ({words}): replace it") from None


def _pictures(container: Any) -> Any:
    """The first stream of pictures that is no cover; None where there is none."""
    from av.stream import Disposition

    return next((s for s in container.streams.video if not s.disposition & Disposition.attached_pic), None)


class _Timeline(NamedTuple):
    """A stream's first time, the end of its last frame, and the times from which decoding can begin, in units of its time base."""

    start: int
    end: int
    keys: list[int]


def _timeline(container: Any, stream: Any, where: str, limits: Limits) -> _Timeline:
    """The times of a stream's packets; none is decoded. Raises DataError for a film without frames, cut short or too long."""
    import av

    stamps, keys, ends, last = [], [], [0], 0.0
    for packet in container.demux():
        stamp = packet.dts if packet.pts is None else packet.pts
        if stamp is None or not packet.size or packet.is_discard:
            continue
        over = stamp + (packet.duration or 0)
        last = max(last, float(over * packet.time_base))
        if packet.stream.index == stream.index:
            stamps.append(stamp)
            ends.append(over)
            keys += [stamp] if packet.is_keyframe else []
    if not stamps:
        raise DataError(f"{where}: the film has no frame: replace it or remove it")
    claimed, found = (container.duration or 0) / av.time_base, last - (container.start_time or 0) / av.time_base
    if max(claimed, found) > limits.seconds:
        raise DataError(
            f"{where}: the film lasts {max(claimed, found):.0f} s, more than the limit of {limits.seconds:.0f}: "
            "cut it or raise limits.seconds"
        )
    if claimed - found > max(1.0, 0.1 * claimed):
        raise DataError(f"{where}: the film is cut short ({found:.1f} s of {claimed:.1f} s): replace it")
    return _Timeline(min(stamps), max(ends), sorted(keys))


def _frames(container: Any, stream: Any, wanted: Float[np.ndarray, " N"], line: _Timeline, where: str) -> Iterator[Any]:
    """The last frame whose time is not after each of the rising times `wanted`; the first frame where all are."""
    decoded: Iterator[Any] | None = None
    held: Any = None
    following: Any = None
    for time in wanted:
        key = line.keys[max(bisect.bisect_right(line.keys, time) - 1, 0)] if line.keys else line.start
        reached = following or held
        if decoded is None or (reached is not None and key > reached.pts):
            decoded, held, following = _from(container, stream, key, where), None, None
        while True:
            following = next(decoded, None) if following is None else following
            if following is None or (held is not None and following.pts > time):
                break
            held, following = following, None
        if held is None:
            raise DataError(f"{where}: the film has no frame that can be decoded: replace it or remove it")
        yield held


def _from(container: Any, stream: Any, key: int, where: str) -> Iterator[Any]:
    container.seek(key, stream=stream, backward=True)
    for frame in container.decode(stream):
        if frame.is_corrupt:
            raise DataError(f"{where}: a frame of the film is damaged: replace it")
        if frame.pts is not None:
            yield frame


def _upright(frame: Any, stream: Any) -> UInt8[np.ndarray, "H W 3"]:
    ratio = float(stream.sample_aspect_ratio or 1)
    width = max(1, round(frame.width * ratio)) if 0.1 < ratio < 10 else frame.width
    pixels = frame.reformat(width=width, height=frame.height, format="rgb24").to_ndarray()
    return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90)))
