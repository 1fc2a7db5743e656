"""From a video to captioned clips: cuts, key frames, measures, filters, and one caption from the texts of several experts (MMTrail).

A clip is annotated by experts, functions of a `Clip` that return fields of a `Record`; `merge` makes one caption of these.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from mmrep.errors import ConfigError

Frames = UInt8[np.ndarray, "T H W 3"]
COLOURS = ("red", "yellow", "green", "cyan", "blue", "magenta")


def hsv(frames: Frames) -> Int[np.ndarray, "T H W 3"]:
    """Hue in [0, 180), saturation and value in [0, 255], as OpenCV converts 8-bit pictures, its fixed-point rounding included."""
    r, g, b = np.moveaxis(frames.astype(np.int32), -1, 0)
    high = np.maximum(np.maximum(r, g), b)
    span = high - np.minimum(np.minimum(r, g), b)
    by_high, by_span = (np.round((n << 12) / np.maximum(d, 1)).astype(np.int32) for n, d in ((255, high), (30, span)))
    hue = np.where(high == r, g - b, np.where(high == g, b - r + 2 * span, r - g + 4 * span))
    hue = (hue * by_span + (1 << 11)) >> 12
    return np.stack([hue + 180 * (hue < 0), (span * by_high + (1 << 11)) >> 12, high], -1)


def cut_scores(frames: Frames) -> Float[np.ndarray, " T"]:
    """The change of each frame from the one before: mean |difference| of hue, saturation and value; 0 for the first.

    As PySceneDetect's ContentDetector: a plain difference of hues, although they are circular.
    """
    x = hsv(frames)
    return np.concatenate([[0.0], np.abs(np.diff(x, axis=0)).mean((1, 2, 3))]).astype(np.float32)


def scenes(frames: Frames, threshold: float = 30.0, shortest: int = 15) -> list[tuple[int, int]]:
    """(first frame, end) of each scene: cut where the score is at least `threshold` and `shortest` frames after the cut before."""
    cuts = [0]
    for t in np.flatnonzero(cut_scores(frames) >= threshold).tolist():
        if t - cuts[-1] >= shortest:
            cuts.append(t)
    return list(zip(cuts, [*cuts[1:], len(frames)]))


def key_frames(count: int) -> tuple[int, int, int]:
    """First, middle and last of `count` frames; the first three times where there are at most 3."""
    return (0, count // 2, count - 1) if count > 3 else (0, 0, 0)


def motion(frames: Frames) -> float:
    """Mean |change| of grey level from frame to frame, in [0, 255]: a stand-in for the size of the optical flow."""
    grey = frames.astype(np.float32).mean(-1)
    return float(np.abs(np.diff(grey, axis=0)).mean()) if len(frames) > 1 else 0.0


def sharpness(frames: Frames) -> float:
    """Variance of the Laplacian of the middle frame's grey levels; 0 for a blank picture."""
    grey = frames[len(frames) // 2].astype(np.float32).mean(-1)
    if min(grey.shape) < 3:
        return 0.0
    centre = grey[1:-1, 1:-1]
    return float((grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * centre).var())


class Clip(NamedTuple):
    """What an expert gets. sound: mono in [-1, 1] at `rate` samples a second, None without any.   fps: frames a second."""

    frames: Frames
    sound: Float[np.ndarray, " S"] | None = None
    rate: int = 16_000
    fps: float = 24.0


Expert = Callable[[Clip], Mapping[str, Any]]
"""Returns some of TEXTS: a string each, or a list of strings."""
TEXTS = ("caption", "objects", "background", "frame_caption", "music_caption", "vocal_caption")
VISUAL = TEXTS[:4]


@dataclass(frozen=True)
class Record:
    """A clip of a video: frames start to end, end excluded; measures; and the experts' texts, empty where there is nothing to describe."""

    video_id: str
    clip_id: str
    clip_start_end_idx: tuple[int, int]
    clip_duration: float
    of_score: float
    image_quality: float
    texts: Mapping[str, tuple[str, ...]]
    merge_caption: str = ""

    def to_json(self) -> dict[str, Any]:
        flat = asdict(self)
        texts = flat.pop("texts")
        return flat | {name: list(texts.get(name, ())) for name in TEXTS}


def record(video_id: str, number: int, span: tuple[int, int], clip: Clip) -> Record:
    """The record of clip `number`, without texts. Raises ConfigError where it has no frames."""
    if span[1] <= span[0]:
        raise ConfigError(
            f"clip {number} of {video_id} has frames {span[0]} to {span[1]}: an end must follow its start"
        )
    found = round(motion(clip.frames), 4), round(sharpness(clip.frames), 4)
    return Record(video_id, f"{video_id}{number:07d}", span, round(len(clip.frames) / clip.fps, 4), *found, {})


@dataclass(frozen=True)
class Filter:
    """Least and greatest values of clips that are kept. seconds; motion: `of_score`; sharpness: `image_quality`."""

    seconds: tuple[float, float] = (0.0, 600.0)
    motion: tuple[float, float] = (0.0, 255.0)
    sharpness: tuple[float, float] = (0.0, float("inf"))

    def reason(self, r: Record) -> str:
        """Why a record is dropped; empty where it is kept."""
        measures = {"seconds": r.clip_duration, "motion": r.of_score, "sharpness": r.image_quality}
        for name, value in measures.items():
            low, high = getattr(self, name)
            if not low <= value <= high:
                return f"{name} is {value:g}, not in [{low:g}, {high:g}]"
        return ""


def annotate(clip: Clip, experts: Sequence[Expert]) -> dict[str, tuple[str, ...]]:
    """The texts of all experts by field, in their order. Raises ConfigError for a field that a record does not have."""
    found: dict[str, tuple[str, ...]] = {}
    for expert in experts:
        for name, value in expert(clip).items():
            if name not in TEXTS:
                raise ConfigError(f"an expert returned {name!r}: choose from {', '.join(TEXTS)}")
            texts = (value,) if isinstance(value, str) else tuple(value)
            found[name] = (*found.get(name, ()), *(" ".join(str(t).split()) for t in texts if str(t).strip()))
    return {name: texts for name, texts in found.items() if texts}


def joined(texts: Mapping[str, Sequence[str]]) -> str:
    """All texts one after another: the baseline that repeats and contradicts itself."""
    return ", ".join(t for name in TEXTS for t in texts.get(name, ()))


def merge(texts: Mapping[str, Sequence[str]], words: int = 24, slots: Sequence[Sequence[str]] = ()) -> str:
    """One caption of at most `words` words: what is seen, then the music; half of the words are reserved for it where it needs them.

    slots: words that exclude each other ("red", "blue", ...). Of a slot's words in the texts about what is seen the most frequent is
    kept, at equal counts the first (the clip's caption comes first); those about music apart. Repeated words are left out, and speech is:
    transcripts are data for other uses. Empty where no expert saw or heard anything.
    """
    seen = _settled([t for name in VISUAL for t in texts.get(name, ())], slots)
    heard = _settled(texts.get("music_caption", ()), slots)
    room = max(words - len(seen), words // 2)
    heard = heard[:room]
    seen = seen[: words - len(heard)]
    return " ".join(seen) + (", " if seen and heard else "") + " ".join(heard)


def _settled(texts: Sequence[str], slots: Sequence[Sequence[str]]) -> list[str]:
    """The words of the texts in order, each once, and of each slot one alone."""
    words = [w for t in texts for w in re.findall(r"[\w'#-]+", t)]
    counts, wrong = Counter(w.lower() for w in words), set[str]()
    for slot in slots:
        known = [w for w in counts if w in slot]  # in the order of their first place
        wrong |= {*known} - {max(known, key=lambda w: counts[w])} if known else set()
    kept: dict[str, str] = {}
    for word in words:
        if word.lower() not in wrong:
            kept.setdefault(word.lower(), word)
    return list(kept.values())


def measure(clip: Clip) -> dict[str, Any]:
    """An expert without a model: brightness, the commonest hue and the pace of a clip, and loudness and pitch of its sound, in words."""
    x = hsv(clip.frames[list(key_frames(len(clip.frames)))])
    vivid = x[..., 1] > 60
    hue = (
        COLOURS[int(np.bincount((x[..., 0][vivid] // 30).astype(int) % 6, minlength=6).argmax())]
        if vivid.any()
        else "grey"
    )
    light = ("dark", "dim", "bright")[int(np.digitize(x[..., 2].mean(), (60, 150)))]
    pace = ("still", "slow", "fast")[int(np.digitize(motion(clip.frames), (1, 8)))]
    found: dict[str, Any] = {"caption": f"a {light} {hue} scene, {pace}"}
    loud = 0.0 if clip.sound is None or not len(clip.sound) else float(np.sqrt((clip.sound**2).mean()))
    if clip.sound is not None and loud > 1e-3:
        spectrum = np.abs(np.fft.rfft(clip.sound))
        centre = (spectrum * np.fft.rfftfreq(len(clip.sound), 1 / clip.rate)).sum() / spectrum.sum()
        pitch = ("low", "middle", "high")[int(np.digitize(centre, (500, 2000)))]
        found["music_caption"] = f"{'loud' if loud > 0.1 else 'quiet'} {pitch} sound"
    return found
