"""Synthetic clips as a data source: computed in blocks on first use, nothing on disk."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool

from mmrep.data import splits
from mmrep.data.clips import sensors, sentences, timeline
from mmrep.data.clips.timeline import TIMBRES, TONES, VERBS, ClipSpec, Timeline
from mmrep.data.columns import BLOCK, Blocks
from mmrep.data.scenes.world import COLOURS, SHAPES, TINTS
from mmrep.errors import ConfigError, near

Columns = dict[str, Any]
SPLIT_START = {"train": 0, "val": 1 << 29, "test": 1 << 30}


@dataclass(frozen=True)
class ClipData:
    """Clips of a spec through a set of sensors.

    Every record has: id int32; shape, colour, verb: int32 ids of the event told; ground int32, of the clip; kind int32: what the caption is about (timeline.MODES);
    told int32 [spec.told_items] and shown int32 [spec.shown_items]: ids below spec.items, 0 for none; a caption is true of a clip that
    shows all it describes; event int32: the event described; sounds int32: events that are heard, 0 where the sound is missing. Sensors add:
        codes        codes float32 [T, dim], one vector a frame;   sound_codes: sound_codes float32 [T, dim], of the sound during it
        video        video uint8 [T, size, size, 3];   sound: sound float32 [T * hop] at `rate`
        caption      caption, and caption_foil, a false one in nearly the same words
        frames       frame_captions: a list of T texts;   clauses: clauses, a list of `events` texts, one an event, in order,
                     and clause, that of the event told
        topic        topic: the shapes that occur;   question: question, answer, question_kind int32 (sentences.QUESTIONS)
        spans        spans float32 [E, 2]: start and end of each event in [0, 1]; frame_event int32 [T]: the event that a frame shows
        saliency     saliency float32 [T] in [0, 1]: how much of the event told a frame shows

    seed: another seed is another set of clips.   size: of a frame in pixels.   rate, hop: samples a second and a frame.
    dim: of the codes.   noise: length of their noise, in lengths of one attribute's vector.   sound_noise: of the sound's codes; None: `noise`.
    grain: standard deviation of the pixel noise, and amplitude of the hiss.
    """

    n_train: int = 4000
    n_val: int = 500
    n_test: int = 500
    seed: int = 0
    spec: ClipSpec = field(default_factory=ClipSpec)
    sensors: tuple[str, ...] = ("codes", "caption")
    size: int = 24
    rate: int = 4000
    hop: int = 256
    dim: int = 64
    noise: float = 0.5
    sound_noise: float | None = None
    grain: float = 0.02

    def __post_init__(self) -> None:
        for name in ("n_train", "n_val", "n_test"):
            if not 0 <= getattr(self, name) <= 1 << 29:
                raise ConfigError(f"{name} is {getattr(self, name)}: it must lie in [0, 2**29]")
        for name, least in (("size", 8), ("rate", 1), ("hop", 1), ("dim", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}: it must be at least {least}")
        if min(self.noise, self.sound_noise or 0.0) < 0 or not 0 <= self.grain <= 1:
            raise ConfigError(
                f"noise is {self.noise} and grain {self.grain}: they must not be negative, grain at most 1"
            )
        for name in self.sensors or ("",):
            if name not in SENSORS:
                raise ConfigError(f"sensors has {name!r}, which does not exist{near(name, SENSORS)}")

    def timeline(self, split: str, rows: np.ndarray | None = None) -> Timeline:
        """The latent clips of a split: all, or those at `rows` (positions in the split)."""
        index = np.arange(splits.size(self, split)) if rows is None else rows
        twins = self.spec.twins and split != "train"
        return timeline.sample(self.seed, index + SPLIT_START[split], self.spec, twins)

    def open(self, split: str) -> Blocks:
        """The records of `split`. Raises DataError for a split that is unknown or empty."""
        return Blocks(self, split, splits.size(self, split))

    def columns(self, split: str, rows: np.ndarray) -> Columns:
        """The records at `rows` (positions in the split) as columns."""
        return self._columns(self.timeline(split, rows), self.sensors)

    def _columns(self, clips: Timeline, names: tuple[str, ...]) -> Columns:
        told = np.take_along_axis(clips.kind, clips.event[:, None], axis=1)[:, 0]
        found: Columns = {n: ids for n, ids in zip(("shape", "colour", "verb"), timeline.attributes(told, self.spec))}
        found |= {
            "id": clips.id,
            "kind": clips.mode,
            "event": clips.event,
            "ground": clips.ground,
            "sounds": clips.heard.sum(1),
        }
        found |= {"told": timeline.told(clips, self.spec), "shown": timeline.shown(clips, self.spec)}
        found = {name: ids.astype(np.int32) for name, ids in found.items()}
        for name in names:
            found |= SENSORS[name](self, clips)
        return found

    def class_names(self, field: str) -> tuple[str, ...]:
        """The names of shape, colour, verb, kind and ground, in the order of their ids."""
        spec = self.spec
        known = {"shape": SHAPES[: spec.shapes], "colour": COLOURS[: spec.colours], "verb": VERBS[: spec.verbs]}
        return (known | {"kind": timeline.MODES, "ground": TINTS[: spec.grounds]}).get(field, ())

    def truth(self, split: str) -> Bool[np.ndarray, "n n"]:
        """[i, j]: whether the caption of record i is true of clip j."""
        clips = self.timeline(split)
        return timeline.true_pairs(timeline.told(clips, self.spec), timeline.shown(clips, self.spec))

    def texts(self, split: str) -> Iterator[str]:
        """Every text of the split, and the vocabulary's words."""
        yield " ".join((*SHAPES[: self.spec.shapes], *COLOURS[: self.spec.colours], *VERBS[: self.spec.verbs]))
        if self.spec.sounds:
            yield " ".join((*TIMBRES[: self.spec.timbres], *TONES[: self.spec.tones]))
        n, names = splits.size(self, split), tuple(s for s in self.sensors if s in _TEXTS)
        for start in range(0, n, BLOCK):
            columns = self._columns(self.timeline(split, np.arange(start, min(start + BLOCK, n))), names)
            for values in columns.values():
                for value in values if isinstance(values, list) else ():
                    yield from [value] if isinstance(value, str) else value

    def view(self, record: Mapping[str, Any], rng: np.random.Generator | None) -> dict[str, Any]:
        return dict(record)


def _spans(data: ClipData, clips: Timeline) -> Columns:
    ends = np.stack([clips.start, clips.end], axis=-1).astype(np.float32) / np.float32(data.spec.frames)
    return {"spans": ends, "frame_event": timeline.frame_event(clips, data.spec.frames).astype(np.int32)}


def _clauses(data: ClipData, clips: Timeline) -> Columns:
    found = sentences.clauses(clips, data.spec)
    return {"clauses": found, "clause": [row[e] for row, e in zip(found, clips.event.tolist())]}


def _question(data: ClipData, clips: Timeline) -> Columns:
    asked, answers, kinds = sentences.questions(clips, data.spec)
    return {"question": asked, "answer": answers, "question_kind": kinds.astype(np.int32)}


SENSORS: Mapping[str, Callable[[ClipData, Timeline], Columns]] = {
    "codes": lambda d, c: {"codes": sensors.codes(c, d.spec, d.dim, d.noise)},
    "sound_codes": lambda d, c: {"sound_codes": sensors.sound_codes(
        c, d.spec, d.dim, d.noise if d.sound_noise is None else d.sound_noise
    )},
    "video": lambda d, c: {"video": sensors.video(c, d.spec, d.size, d.grain)},
    "sound": lambda d, c: {"sound": sensors.sound(c, d.spec, d.rate, d.hop, d.grain)},
    "caption": lambda d, c: {
        "caption": sentences.captions(c, d.spec), "caption_foil": sentences.foils(c, d.spec)
    },
    "frames": lambda d, c: {"frame_captions": sentences.frame_captions(c, d.spec)},
    "clauses": _clauses,
    "topic": lambda d, c: {"topic": sentences.topics(c, d.spec)},
    "question": _question,
    "spans": _spans,
    "saliency": lambda d, c: {"saliency": sensors.saliency(c, d.spec)},
}  # fmt: skip
"""Name -> record fields. A new sensor is a pure function of the clips, and a line here."""
_TEXTS = ("caption", "frames", "clauses", "topic", "question")
