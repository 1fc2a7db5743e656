"""Sentences about a timeline: captions and foils, captions of frames, topics, questions."""

import numpy as np

from mmrep.data.clips.timeline import (
    HEARD,
    SEEN,
    TIMBRES,
    TONES,
    VERBS,
    ClipSpec,
    Timeline,
    attributes,
    frame_event,
)
from mmrep.data.scenes.world import COLOURS, SHAPES, TINTS, uniform

ORDERS = ("{a} then {b}", "{b} after {a}", "{a} before {b}")
"""Ways to state that a was first; it is not always the first in the words, so that word order alone is right in two of three."""
QUESTIONS = ("at", "after", "first")


def phrase(kind: int, spec: ClipSpec) -> str:
    """A kind in words, without what never varies: "red circle rises"."""
    shape, colour, verb = attributes(kind, spec)
    words = [COLOURS[colour]] * (spec.colours > 1) + [SHAPES[shape]] * (spec.shapes > 1)
    return " ".join(words + [VERBS[verb]] * (spec.verbs > 1)) or SHAPES[shape]


def sound_phrase(sound: int, spec: ClipSpec) -> str:
    """A sound in words: "flute plays c4"."""
    return f"{TIMBRES[sound // spec.tones]} plays {TONES[sound % spec.tones]}"


def captions(clips: Timeline, spec: ClipSpec) -> list[str]:
    """One true caption a clip, of the form `spec.caption`."""
    return [c for c, _ in _pairs(clips, spec)]


def foils(clips: Timeline, spec: ClipSpec) -> list[str]:
    """A false caption in nearly the same words: the two clauses exchanged ("order"), same for another ("same"), or another kind or sound."""
    return [f for _, f in _pairs(clips, spec)]


def _pairs(clips: Timeline, spec: ClipSpec) -> list[tuple[str, str]]:
    form = uniform(clips.key, "form")
    other = uniform(clips.key, "foil", 2)
    found = []
    for i in range(len(clips.id)):
        kinds, sounds, heard = clips.kind[i].tolist(), clips.sound[i].tolist(), clips.heard[i].tolist()
        if spec.caption == "order":
            a, b = (phrase(kinds[e], spec) for e in clips.pair[i].tolist())
            order = ORDERS[int(form[i] * len(ORDERS))]
            found.append((order.format(a=a, b=b), order.format(a=b, b=a)))
        elif spec.caption == "same":
            texts = [f"{word} on {TINTS[clips.ground[i]]}" for word in ("another", "same")]
            same = kinds[0] == kinds[1]
            found.append((texts[same], texts[not same]))
        else:
            events = [int(clips.event[i])] if spec.caption == "one" else range(spec.events)
            noises = [int(clips.noise[i])] if spec.caption == "one" else [e for e in range(spec.events) if heard[e]]
            seen = [phrase(kinds[e], spec) for e in events] if clips.mode[i] != HEARD else []
            played = [sound_phrase(sounds[e], spec) for e in noises] if clips.mode[i] != SEEN else []
            wrong = seen + played
            if seen:
                wrong = [phrase(_absent(kinds, spec.kinds, other[i, 0]), spec), *wrong[1:]]
            else:
                wrong = [sound_phrase(_absent(sounds, spec.timbres * spec.tones, other[i, 1]), spec), *wrong[1:]]
            found.append((" and ".join(seen + played), " and ".join(wrong)))
    return found


def _absent(present: list[int], total: int, u: float) -> int:
    """An id below `total` that is not present; the last one where all are."""
    free = [i for i in range(total) if i not in present] or [total - 1]
    return free[int(u * len(free))]


def frame_captions(clips: Timeline, spec: ClipSpec) -> list[list[str]]:
    """What each frame shows, in words; a share `frame_noise` of them names a kind drawn at random."""
    kind = np.take_along_axis(clips.kind, frame_event(clips, spec.frames), axis=1)
    u = uniform(clips.key, "frame captions", spec.frames, 2)
    kind = np.where(u[..., 0] < spec.frame_noise, np.floor(u[..., 1] * spec.kinds).astype(np.int64), kind)
    return [[phrase(k, spec) for k in row] for row in kind.tolist()]


def clauses(clips: Timeline, spec: ClipSpec) -> list[list[str]]:
    """The kind of each event in words, in order."""
    return [[phrase(k, spec) for k in row] for row in clips.kind.tolist()]


def topics(clips: Timeline, spec: ClipSpec) -> list[str]:
    """The shapes that occur, in the order of their names: no verbs, no order of events."""
    shapes = attributes(clips.kind, spec)[0]
    return [" and ".join(sorted({SHAPES[s] for s in row})) for row in shapes.tolist()]


def questions(clips: Timeline, spec: ClipSpec) -> tuple[list[str], list[str], np.ndarray]:
    """(question, answer: a shape, index of QUESTIONS): what is seen at a sound, what after it, and what first."""
    shapes = attributes(clips.kind, spec)[0]
    choice = np.floor(uniform(clips.key, "question") * len(QUESTIONS)).astype(np.int64)
    choice = np.where(clips.heard.any(1), choice, 2)
    choice = np.where((choice == 1) & (clips.noise == spec.events - 1), 0, choice)
    asked, answers = [], []
    for i, kind in enumerate(choice.tolist()):
        name, at = sound_phrase(int(clips.sound[i, clips.noise[i]]), spec), int(clips.noise[i])
        asked.append("which shape first" if kind == 2 else f"which shape {QUESTIONS[kind]} {name}")
        answers.append(SHAPES[shapes[i, (at, at + 1, 0)[kind] if kind else at]])
    return asked, answers, choice
