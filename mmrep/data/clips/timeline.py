"""The latent clip: a sequence of events, each with a kind that is seen and, where it is heard, a sound."""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Int, UInt64

from mmrep.data.scenes.world import COLOURS, SHAPES, TINTS, keys, uniform
from mmrep.errors import ConfigError, near

VERBS = ("rests", "rises", "sinks", "advances", "retreats", "grows", "shrinks", "swings")
TIMBRES = ("flute", "clarinet", "violin", "horn", "organ", "bell")
TONES = ("c4", "d4", "e4", "f4", "g4", "a4", "b4", "c5", "d5", "e5", "f5", "g5")
SEEN, HEARD, BOTH = range(3)
MODES = ("seen", "heard", "both")
"""What a caption is about, by `kind` of a record."""


@dataclass(frozen=True)
class ClipSpec:
    """What can occur in a clip, each value uniformly.

    frames:   of a clip.   events: one after another, without gaps; their kinds (shape, colour, verb) differ.
    shortest: frames of the shortest event; the cuts are random. 0: all events are equally long (events divides frames).
    sounds:   events that are heard, at random places; their sounds (timbre, tone) differ.   silent: share of clips without any sound.
    repeats:  how many events have one and the same kind; the caption "one" then names this kind.
    same:     probability that the second event shows the first one's kind again.
    shapes, colours, verbs, timbres, tones, grounds: how many values of each vocabulary occur; a value that never varies is not told.
    caption:  one: one event that is seen, one that is heard, or both (`modes`).   all: every event.
              order: two events and which was first.   same: whether the second event is like the first, and the ground.
    modes:    what captions "one" and "all" are about: "seen", "heard", "both", each equally often.
    told:     with `repeats`, which occurrence the record's `event` is: "any", or always the "first".
    frame_noise: share of frame captions that name a kind drawn at random.
    twins:    in val and test, clips 2 i and 2 i + 1 share all that is seen, and differ in their sounds.
    """

    frames: int = 12
    events: int = 2
    shortest: int = 0
    sounds: int = 0
    silent: float = 0.0
    repeats: int = 1
    same: float = 0.0
    shapes: int = 8
    colours: int = 8
    verbs: int = 4
    timbres: int = 6
    tones: int = 8
    grounds: int = 1
    caption: Literal["one", "all", "order", "same"] = "one"
    modes: tuple[Literal["seen", "heard", "both"], ...] = ("seen",)
    told: Literal["any", "first"] = "any"
    frame_noise: float = 0.0
    twins: bool = False

    def __post_init__(self) -> None:
        if self.caption not in ("one", "all", "order", "same"):
            raise ConfigError(f"clips.caption is {self.caption!r}{near(self.caption, ('one', 'all', 'order', 'same'))}")
        if self.told not in ("any", "first"):
            raise ConfigError(f"clips.told is {self.told!r}: choose any or first")
        for mode in self.modes or ("",):
            if mode not in MODES:
                raise ConfigError(f"clips.modes has {mode!r}: choose from {', '.join(MODES)}")
        for name, known in _VOCABULARIES.items():
            if not 1 <= getattr(self, name) <= len(known):
                raise ConfigError(f"clips.{name} is {getattr(self, name)}: choose 1 to {len(known)}")
        for name in ("silent", "same", "frame_noise"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"clips.{name} is {getattr(self, name)}: it must lie in [0, 1]")
        if not 1 <= self.events <= self.frames or not 0 <= self.sounds <= self.events:
            raise ConfigError(
                f"clips has {self.events} events, {self.sounds} sounds and {self.frames} frames: an event needs a frame, a sound an event"
            )
        if (self.frames % self.events) if not self.shortest else self.shortest * self.events > self.frames:
            raise ConfigError(
                f"clips.shortest is {self.shortest} with {self.events} events in {self.frames} frames: they do not fit"
            )
        if not 1 <= self.repeats <= self.events or self.events - self.repeats + 1 > self.kinds:
            raise ConfigError(f"clips.repeats is {self.repeats} with {self.events} events of {self.kinds} kinds")
        if self.sounds > self.timbres * self.tones:
            raise ConfigError(f"clips.sounds is {self.sounds}, but timbres and tones make {self.timbres * self.tones}")
        if self.events < 2 and (self.caption in ("order", "same") or self.same):
            raise ConfigError(f"clips.events is {self.events}: caption {self.caption!r} and `same` need two")
        if self.caption == "order" and (self.same or self.repeats > 1):
            raise ConfigError("clips.caption is 'order': its two clauses must differ, set same to 0 and repeats to 1")
        if not self.sounds and self.modes != ("seen",):
            raise ConfigError("clips.sounds is 0: captions are about what is seen alone, set modes to ('seen',)")

    @property
    def kinds(self) -> int:
        """Number of kinds that can be seen: kind = (shape * colours + colour) * verbs + verb."""
        return self.shapes * self.colours * self.verbs

    @property
    def items(self) -> int:
        """Ids of `told` and `shown`: 0 for nothing, kinds, sounds, then pairs of kinds (caption "order") or 2 a ground ("same")."""
        more = {"order": self.kinds**2, "same": 2 * self.grounds}.get(self.caption, 0)
        return 1 + self.kinds + self.timbres * self.tones + more

    @property
    def told_items(self) -> int:
        """Length of a record's `told`."""
        return {"one": 2, "all": 2 * self.events}.get(self.caption, 1)

    @property
    def shown_items(self) -> int:
        """Length of a record's `shown`."""
        return {"order": self.events * (self.events - 1) // 2, "same": 1}.get(self.caption, 2 * self.events)


_VOCABULARIES = {
    "shapes": SHAPES, "colours": COLOURS, "verbs": VERBS, "timbres": TIMBRES, "tones": TONES, "grounds": TINTS,
}  # fmt: skip


class Timeline(NamedTuple):
    """n clips of E events; event e lasts from frame start up to, not including, frame end.

    key:    of the clip; `look` of what is seen, which twins share.   kind, sound: ids (see ClipSpec); `heard`: whether it sounds.
    mode:   what the caption is about.   event: the event told.   noise: the event whose sound is told.   pair: two events in order.
    """

    id: Int[np.ndarray, "n"]
    key: UInt64[np.ndarray, "n"]
    look: UInt64[np.ndarray, "n"]
    kind: Int[np.ndarray, "n E"]
    sound: Int[np.ndarray, "n E"]
    heard: Bool[np.ndarray, "n E"]
    start: Int[np.ndarray, "n E"]
    end: Int[np.ndarray, "n E"]
    ground: Int[np.ndarray, "n"]
    mode: Int[np.ndarray, "n"]
    event: Int[np.ndarray, "n"]
    noise: Int[np.ndarray, "n"]
    pair: Int[np.ndarray, "n 2"]


def sample(seed: int, index: Int[np.ndarray, "n"], spec: ClipSpec, twins: bool = False) -> Timeline:
    """Clips number `index` of (seed, spec), in this order; a clip does not depend on the other indices."""
    key = keys(seed, index)
    look = keys(seed, index - index % 2) if twins else key
    n, E, rows = len(index), spec.events, np.arange(len(index))
    kind = _distinct(uniform(look, "kind", E), spec.kinds)
    places = np.argsort(uniform(look, "places", E), axis=1)
    repeated = places[:, : spec.repeats]
    kind[rows[:, None], repeated] = kind[rows, repeated[:, 0]][:, None]
    if E > 1:
        kind[:, 1] = np.where(uniform(look, "same") < spec.same, kind[:, 0], kind[:, 1])
    heard = np.argsort(np.argsort(uniform(key, "heard", E), axis=1), axis=1) < spec.sounds
    heard &= (uniform(key, "silent") >= spec.silent)[:, None]
    start = np.broadcast_to(np.arange(E) * (spec.frames // E), (n, E))
    if spec.shortest:
        free = spec.frames - E * spec.shortest
        cuts = np.sort(np.floor(uniform(look, "cuts", E - 1) * (free + 1)).astype(np.int64), axis=1)
        start = np.arange(E) * spec.shortest + np.concatenate([np.zeros((n, 1), np.int64), cuts], axis=1)
    modes = np.array([MODES.index(m) for m in spec.modes])
    mode = np.where(heard.any(1), modes[np.floor(uniform(key, "mode") * len(modes)).astype(np.int64)], SEEN)
    event = np.floor(uniform(key, "event") * E).astype(np.int64)
    if spec.repeats > 1:
        event = repeated[rows, np.floor(uniform(key, "event") * spec.repeats).astype(np.int64)]
        event = repeated.min(1) if spec.told == "first" else event
    return Timeline(
        id=index.astype(np.int64),
        key=key,
        look=look,
        kind=kind,
        sound=_distinct(uniform(key, "sound", E), spec.timbres * spec.tones),
        heard=heard,
        start=start,
        end=np.concatenate([start[:, 1:], np.full((n, 1), spec.frames)], axis=1),
        ground=np.floor(uniform(look, "ground") * spec.grounds).astype(np.int64),
        mode=mode,
        event=event,
        noise=np.argmax(np.where(heard, uniform(key, "noise", E), -1), axis=1),
        pair=np.sort(np.argsort(uniform(key, "pair", E), axis=1)[:, :2], axis=1)
        if E > 1
        else np.zeros((n, 2), np.int64),
    )


def _distinct(u: np.ndarray, total: int) -> Int[np.ndarray, "n E"]:
    """E different ids below `total` a row (as long as there are so many), each uniform over those not yet drawn."""
    chosen = np.zeros(u.shape, np.int64)
    for e in range(u.shape[1]):
        chosen[:, e] = np.floor(u[:, e] * max(total - e, 1))
        for before in np.sort(chosen[:, :e], axis=1).T if e < total else ():
            chosen[:, e] += chosen[:, e] >= before
    return chosen


def attributes(kind: Any, spec: ClipSpec) -> tuple[Any, Any, Any]:
    """(shape, colour, verb) ids of kinds: an array or a number."""
    return kind // (spec.colours * spec.verbs), kind // spec.verbs % spec.colours, kind % spec.verbs


def frame_event(clips: Timeline, frames: int) -> Int[np.ndarray, "n T"]:
    """The event that each frame shows."""
    return (np.arange(frames)[None, :, None] >= clips.start[:, None]).sum(-1) - 1


def told(clips: Timeline, spec: ClipSpec) -> Int[np.ndarray, "n Q"]:
    """The items that each caption describes (see ClipSpec.items), 0 for none."""
    rows = np.arange(len(clips.id))
    if spec.caption == "order":
        a, b = clips.kind[rows, clips.pair[:, 0]], clips.kind[rows, clips.pair[:, 1]]
        return (1 + spec.kinds + spec.timbres * spec.tones + a * spec.kinds + b)[:, None]
    if spec.caption == "same":
        return shown(clips, spec)
    seen, sounds = 1 + clips.kind, np.where(clips.heard, 1 + spec.kinds + clips.sound, 0)
    if spec.caption == "one":
        seen, sounds = seen[rows, clips.event][:, None], sounds[rows, clips.noise][:, None]
    mode = clips.mode[:, None]
    return np.concatenate([np.where(mode == HEARD, 0, seen), np.where(mode == SEEN, 0, sounds)], axis=1)


def shown(clips: Timeline, spec: ClipSpec) -> Int[np.ndarray, "n S"]:
    """The items that are true of each clip, 0 for none: a caption is true where all it describes is shown."""
    E, first = spec.events, 1 + spec.kinds + spec.timbres * spec.tones
    if spec.caption == "order":
        a, b = np.triu_indices(E, 1)
        return first + clips.kind[:, a] * spec.kinds + clips.kind[:, b]
    if spec.caption == "same":
        return (first + 2 * clips.ground + (clips.kind[:, 0] == clips.kind[:, 1]))[:, None]
    return np.concatenate([1 + clips.kind, np.where(clips.heard, 1 + spec.kinds + clips.sound, 0)], axis=1)


def true_pairs(told: Int[np.ndarray, "N Q"], shown: Int[np.ndarray, "M S"]) -> Bool[np.ndarray, "N M"]:
    """Which captions are true of which clips."""
    found = np.ones((len(told), len(shown)), bool)
    for item in told.T:
        found &= (item[:, None, None] == shown[None]).any(-1) | (item == 0)[:, None]
    return found
