"""Sensors of a timeline: codes, frames and sound. Each is a pure function of the clips."""

import numpy as np
from jaxtyping import Float32, Int, UInt8

from mmrep.data.clips.timeline import TIMBRES, TONES, VERBS, ClipSpec, Timeline, attributes, frame_event
from mmrep.data.scenes import rgb
from mmrep.data.scenes.world import Scenes, random_bits, uniform

_CODE_SEED = 20_240
HARMONICS = {
    "flute": (1.0, 0.0, 0.0, 0.0), "clarinet": (1.0, 0.0, 0.6, 0.0), "violin": (1.0, 0.7, 0.4, 0.3),
    "horn": (0.5, 1.0, 0.4, 0.1), "organ": (1.0, 1.0, 0.0, 1.0), "bell": (1.0, 0.1, 0.1, 0.9),
}  # fmt: skip
_STEPS = (0, 2, 4, 5, 7, 9, 11, 12, 14, 16, 17, 19)
FREQUENCIES = tuple(261.63 * 2 ** (step / 12) for step in _STEPS)
"""Hz of each of TONES."""


def gauss(key: np.ndarray, name: str, *shape: int) -> Float32[np.ndarray, "n ..."]:
    """Standard normal numbers, a pure function of (key, name)."""
    u = uniform(key, name, 2, *shape).astype(np.float32)
    size = np.sqrt(-2 * np.log1p(-np.minimum(u[:, 0], np.float32(0.9999999))))
    return size * np.cos(np.float32(2 * np.pi) * u[:, 1])


def _tables(sizes: tuple[int, ...], dim: int) -> list[np.ndarray]:
    """A fixed random vector for each value, of standard deviation 0.5: the same for every seed, as of a frozen encoder."""
    rng = np.random.default_rng(_CODE_SEED)
    return [rng.standard_normal((n, dim)).astype(np.float32) * np.float32(0.5) for n in sizes]


def codes(clips: Timeline, spec: ClipSpec, dim: int, noise: float) -> Float32[np.ndarray, "n T D"]:
    """What a frozen encoder would give of each frame: a sum of vectors of its shape, colour, verb and ground, and noise.

    noise: length of the noise, in lengths of one of these four vectors.
    """
    *tables, grounds = _tables((12, 12, 8, 6), dim)
    at = frame_event(clips, spec.frames)
    kind = np.take_along_axis(clips.kind, at, axis=1)
    total = sum(table[ids] for table, ids in zip(tables, attributes(kind, spec))) + grounds[clips.ground][:, None]
    return total + np.float32(0.5 * noise) * gauss(clips.look, "code noise", spec.frames, dim)


def sound_codes(clips: Timeline, spec: ClipSpec, dim: int, noise: float) -> Float32[np.ndarray, "n T D"]:
    """What a frozen audio encoder would give during each frame: a sum of vectors of timbre and tone, where it sounds, and noise."""
    *_, timbres, tones = _tables((12, 12, 8, 6, len(TIMBRES), len(TONES)), dim)
    at = frame_event(clips, spec.frames)
    sound, heard = np.take_along_axis(clips.sound, at, axis=1), np.take_along_axis(clips.heard, at, axis=1)
    total = np.where(heard[..., None], timbres[sound // spec.tones] + tones[sound % spec.tones], 0)
    return total + np.float32(0.5 * noise) * gauss(clips.key, "sound code noise", spec.frames, dim)


def video(clips: Timeline, spec: ClipSpec, size: int, grain: float) -> UInt8[np.ndarray, "n T S S 3"]:
    """The frames, painted as `mmrep.data.scenes.rgb` paints: one object that moves as its verb states, on the clip's ground."""
    at = frame_event(clips, spec.frames)
    return np.stack([rgb.rgb(_scene(clips, spec, at[:, t], t), size, t, grain) for t in range(spec.frames)], axis=1)


def _scene(clips: Timeline, spec: ClipSpec, event: Int[np.ndarray, "n"], frame: int) -> Scenes:
    n, rows = len(clips.id), np.arange(len(clips.id))
    shape, colour, verb = attributes(clips.kind[rows, event], spec)
    start, end = clips.start[rows, event], clips.end[rows, event]
    p = np.where(end - start > 1, (frame - start) / np.maximum(end - start - 1, 1), 0.5)
    nuisance = (
        np.take_along_axis(uniform(clips.look, "place", spec.events, 3), event[:, None, None], axis=1)[:, 0] - 0.5
    )
    go = np.select(
        [verb == VERBS.index(v) for v in ("rises", "sinks", "advances", "retreats")],
        [0.5 - p, p - 0.5, p - 0.5, 0.5 - p],
    )
    across = (verb == VERBS.index("advances")) | (verb == VERBS.index("retreats"))
    swing = 0.25 * np.sin(3 * np.pi * p) * (verb == VERBS.index("swings"))
    growth = np.select([verb == VERBS.index("grows"), verb == VERBS.index("shrinks")], [p - 0.5, 0.5 - p])
    column = {
        "shape": shape,
        "colour": colour,
        "size": 0,
        "texture": 0,
        "material": 0,
        "depth": 1.0,
        "temperature": 0.0,
    }
    column |= {
        "x": 0.5 + 0.08 * nuisance[:, 0] + 0.5 * go * across + swing,
        "y": 0.5 + 0.08 * nuisance[:, 1] + 0.5 * go * ~across,
        "radius": 0.2 + 0.02 * nuisance[:, 2] + 0.2 * growth,
        "rotation": 0.3 * nuisance[:, 2],
    }
    still = np.zeros(n, np.int64)
    slots = {name: np.broadcast_to(np.asarray(v), (n,))[:, None] for name, v in column.items()}
    return Scenes(
        id=clips.id, key=clips.look, valid=np.ones((n, 1), bool), ground=still, tint=clips.ground, light=still, style=still, **slots
    )  # fmt: skip


def sound(clips: Timeline, spec: ClipSpec, rate: int, hop: int, noise: float) -> Float32[np.ndarray, "n S"]:
    """The waveform: during each event that is heard its tone in its timbre, `hop` samples a frame; zero elsewhere, and noise."""
    n, samples = len(clips.id), spec.frames * hop
    event = np.repeat(frame_event(clips, spec.frames), hop, axis=1)
    ids = np.where(clips.heard, clips.sound, -1)
    ids = np.take_along_axis(ids, event, axis=1)
    played = np.maximum(ids, 0)
    start = np.take_along_axis(clips.start, event, axis=1) * hop
    seconds = ((np.arange(samples) - start) / rate).astype(np.float32)
    turn = np.float32(2 * np.pi) * np.asarray(FREQUENCIES, np.float32)[played % spec.tones] * seconds
    loud = np.asarray([HARMONICS[name] for name in TIMBRES], np.float32)
    loud = (loud / loud.sum(1, keepdims=True))[played // spec.tones]
    wave = sum(loud[..., h] * np.sin((h + 1) * turn) for h in range(4))
    bell = played // spec.tones == TIMBRES.index("bell")
    wave = wave * np.minimum(seconds * 100, 1) * np.where(bell, np.exp(-8 * seconds), 1)
    wave = np.where(ids >= 0, 0.6 * wave, 0)
    bits = random_bits(clips.key, "hiss", samples) >> np.uint64(40)
    hiss = bits.astype(np.float32) * np.float32(2**-23) - 1
    return (wave + noise * hiss).astype(np.float32).reshape(n, samples)


def saliency(clips: Timeline, spec: ClipSpec) -> Float32[np.ndarray, "n T"]:
    """How much each frame shows of the event told: the share of its shape, colour and verb, in [0, 1]."""
    at = frame_event(clips, spec.frames)
    here = attributes(np.take_along_axis(clips.kind, at, axis=1), spec)
    told = attributes(np.take_along_axis(clips.kind, clips.event[:, None], axis=1), spec)
    return np.mean([a == b for a, b in zip(here, told)], axis=0).astype(np.float32)
