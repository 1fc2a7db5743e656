"""Synthetic snippets of music: a melody as a picture of its staff and as a waveform, in a clean domain and a harder one."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float32, Int, UInt8

from mmrep.data import splits
from mmrep.data.columns import Blocks
from mmrep.data.scenes.world import keys, uniform
from mmrep.errors import ConfigError

SLOTS, PITCHES = 8, 10
_STEPS = (0, 2, 4, 5, 7, 9, 11, 12, 14, 16)
FREQUENCIES = tuple(261.63 * 2 ** (step / 12) for step in _STEPS)
"""Hz of the pitches, C4 to E5."""
# Amplitudes of four harmonics, and the decay per second: three instruments a domain.
CLEAN = ((1.0, 0.5, 0.25, 0.1, 2.0), (1.0, 0.1, 0.4, 0.1, 1.0), (1.0, 0.7, 0.5, 0.4, 3.0))
REAL = ((0.4, 1.0, 0.2, 0.5, 6.0), (0.6, 0.2, 1.0, 0.3, 0.5), (0.3, 0.8, 0.8, 1.0, 8.0))
START = {"train": 0, "val": 1 << 29, "test": 1 << 30}


@dataclass(frozen=True)
class MusicData:
    """Snippets of `SLOTS` slots; a note begins in a slot, or the one before goes on.

    Records: sheet uint8 [32, 48, 1], white paper with five lines, note heads (open ones are longer) and stems; audio float32 [samples] of
    harmonics that decay; piece int32; real int32: 1 for the "real" domain.
    domain:  "clean", or "real": other instruments, uneven tempo, and levels of noise, loudness and colouring of a record's own; turned, grey
             and stained paper with faded ink. "both": the first half of a split is clean, the second real.   Val and test are always of
             both domains.
    aligned: False: a record's audio is of another melody than its sheet, as where recordings and scans have no common pieces.
    snippets: of a piece, in order; a piece has one domain and one instrument.   rate: samples a second.   seconds: of a snippet.
    """

    n_train: int = 1000
    n_val: int = 100
    n_test: int = 400
    seed: int = 0
    domain: Literal["clean", "real", "both"] = "clean"
    aligned: bool = True
    snippets: int = 1
    rate: int = 4000
    seconds: float = 1.6

    def __post_init__(self) -> None:
        if self.domain not in ("clean", "real", "both"):
            raise ConfigError(f"domain is {self.domain!r}: choose clean, real or both")
        if self.snippets < 1 or self.rate < 2 * max(FREQUENCIES) or self.seconds <= 0:
            raise ConfigError(
                f"music has snippets {self.snippets}, rate {self.rate} and seconds {self.seconds}: give at least 1, 1400 Hz, and a length"
            )

    @property
    def samples(self) -> int:
        return round(self.rate * self.seconds)

    def open(self, split: str) -> Blocks:
        return Blocks(self, split, splits.size(self, split))

    def columns(self, split: str, rows: Int[np.ndarray, "n"]) -> dict[str, Any]:
        n = splits.size(self, split)
        domain = self.domain if split == "train" else "both"
        real = (
            rows // self.snippets * self.snippets >= n // 2
            if domain == "both"
            else np.full(len(rows), domain == "real")
        )
        index = rows + START[split]
        seen = keys(self.seed, index)
        heard = seen if self.aligned else keys(self.seed, index + (1 << 31))
        piece = index // self.snippets
        instrument = np.floor(3 * uniform(keys(self.seed + 1, piece), "instrument")).astype(np.int64)
        return {
            "sheet": picture(*melody(seen), seen, real),
            "audio": sound(*melody(heard), heard, instrument, real, self.samples, self.rate),
            "piece": (rows // self.snippets).astype(np.int32), "real": real.astype(np.int32),
        }  # fmt: skip

    def texts(self, split: str) -> Iterator[str]:
        return iter(())

    def view(self, record: Mapping[str, Any], rng: np.random.Generator | None) -> dict[str, Any]:
        return dict(record)


def melody(key: np.ndarray) -> tuple[Int[np.ndarray, "n S"], Bool[np.ndarray, "n S"]]:
    """(pitch of each slot, whether a note begins there): a random walk with leaps of up to 4 steps; a third of the slots go on."""
    u = uniform(key, "melody", SLOTS, 2)
    begins = u[..., 1] > 1 / 3
    begins[:, 0] = True
    pitch = np.zeros(u.shape[:2], np.int64)
    pitch[:, 0] = np.floor(u[:, 0, 0] * PITCHES)
    for s in range(1, SLOTS):
        leap = np.floor(u[:, s, 0] * 9).astype(np.int64) - 4
        pitch[:, s] = np.where(begins[:, s], np.clip(pitch[:, s - 1] + leap, 0, PITCHES - 1), pitch[:, s - 1])
    return pitch, begins


def picture(
    pitch: Int[np.ndarray, "n S"], begins: Bool[np.ndarray, "n S"], key: np.ndarray, real: Bool[np.ndarray, "n"]
) -> UInt8[np.ndarray, "n 32 48 1"]:
    """The staff: lines 4 pixels apart, a head in each slot with a note, open where the note goes on, and a stem."""
    n = len(pitch)
    tilt = (uniform(key, "tilt") - 0.5) * 0.12 * real
    y, x = np.mgrid[0:32, 0:48].astype(np.float32)
    lines = 8 + 4 * np.arange(5)
    y = y[None] + tilt[:, None, None].astype(np.float32) * (x[None] - 24)
    ink = (np.abs(y[..., None] - lines).min(-1) < 0.5) * np.float32(0.6)
    goes_on = np.concatenate([~begins[:, 1:], np.zeros((n, 1), bool)], 1)
    for s in range(SLOTS):
        dx, row = x[None] - (4 + 5.7 * s), (28 - 2.0 * pitch[:, s])[:, None, None]
        dy = y - row
        radius = np.sqrt((dx / 2.6) ** 2 + (dy / 2.0) ** 2)
        head = np.where(goes_on[:, s, None, None], np.abs(radius - 0.75) < 0.3, radius < 1)
        stem = (np.abs(dx - 2.3) < 0.6) & (dy < 0) & (dy > -8)
        ink = np.maximum(ink, (head | stem) & begins[:, s, None, None])
    fade = np.where(real, 0.5 + 0.3 * uniform(key, "ink"), 1.0).astype(np.float32)[:, None, None]
    grey = np.where(real, 0.25 * uniform(key, "paper"), 0.0).astype(np.float32)[:, None, None]
    rough = (0.7 * uniform(key, "rough") * real).astype(np.float32)[:, None, None]
    grain = (uniform(key, "grain", 32, 48).astype(np.float32) - 0.5) * rough
    across, along, phase, depth = np.moveaxis(uniform(key, "stain", 4).astype(np.float32), 1, 0)[..., None, None]
    waves = np.sin(2 * np.pi * (1.5 * across * x[None] / 48 + 1.5 * along * y / 32 + phase))
    stain = np.float32(0.25) * depth * waves * real[:, None, None]
    return np.round(255 * np.clip(1 - grey - fade * ink + grain + stain, 0, 1)).astype(np.uint8)[..., None]


def sound(
    pitch: Int[np.ndarray, "n S"], begins: Bool[np.ndarray, "n S"], key: np.ndarray, instrument: Int[np.ndarray, "n"],
    real: Bool[np.ndarray, "n"], samples: int, rate: int,
) -> Float32[np.ndarray, "n T"]:  # fmt: skip
    """The waveform: four harmonics a note; in the real domain the slots are up to a fifth longer or shorter, a filter of up to 8 dB an octave
    colours the sound, and there is noise."""
    n, rows = len(pitch), np.arange(len(pitch))[:, None]
    lengths = 1 + np.where(real[:, None], 0.4 * (uniform(key, "tempo", SLOTS) - 0.5), 0.0)
    ends = np.cumsum(lengths, 1) / lengths.sum(1, keepdims=True) * samples
    slot = np.minimum((np.arange(samples)[None, :, None] >= ends[:, None]).sum(-1), SLOTS - 1)
    starts = np.concatenate([np.zeros((n, 1)), ends[:, :-1]], 1)
    onset = np.maximum.accumulate(np.where(begins, starts, 0.0), 1)
    seconds = ((np.arange(samples)[None] - onset[rows, slot]) / rate).astype(np.float32)
    table = np.where(real[:, None], np.array(REAL)[instrument], np.array(CLEAN)[instrument]).astype(np.float32)
    hz = np.array(FREQUENCIES, np.float32)[pitch[rows, slot]]
    turn = np.float32(2 * np.pi) * hz * seconds
    slope, loud, hiss = np.moveaxis(uniform(key, "recording", 3).astype(np.float32), 1, 0)[..., None] * real[:, None]
    slope = np.where(real[:, None], 8 * (2 * slope - 1), 0).astype(np.float32) / np.float32(20 * np.log10(2))
    harmonics = (table[:, h, None] * ((h + 1) * hz / 600) ** slope * np.sin((h + 1) * turn) for h in range(4))
    wave = sum(harmonics) / table[:, :4].sum(1, keepdims=True)
    wave = wave * np.exp(-table[:, 4:] * seconds) * np.minimum(seconds * 200, 1)
    noise = (uniform(key, "hiss", samples).astype(np.float32) - np.float32(0.5)) * np.float32(0.6) * hiss
    return np.clip(10 ** (-0.75 * loud) * (np.float32(0.7) * wave + noise), -1, 1).astype(np.float32)


@dataclass(frozen=True)
class Shift:
    """An augmentation of waveforms: moved by up to `share` of their length, zeros where nothing is left; with probability 1/2 turned over."""

    share: float = 0.15

    def __call__(self, rng: np.random.Generator, wave: Float32[np.ndarray, "T"]) -> Float32[np.ndarray, "T"]:
        by = round(self.share * len(wave) * rng.uniform(-1, 1))
        moved = np.roll(wave, by) * np.float32(1 if rng.random() < 0.5 else -1)
        moved[: max(by, 0)] = 0
        moved[len(wave) + min(by, 0) :] = 0
        return moved


@dataclass(frozen=True)
class Equalise:
    """An augmentation of waveforms: a gain drawn within `most` decibels at seven frequencies, an octave apart, below the highest; with
    probability 1/3 a band of up to `mask` of the seven octaves is silent."""

    most: float = 6.0
    mask: float = 0.1

    def __call__(self, rng: np.random.Generator, wave: Float32[np.ndarray, "T"]) -> Float32[np.ndarray, "T"]:
        spectrum = np.fft.rfft(wave)
        octave = np.log2(np.maximum(np.arange(len(spectrum)), 1) / len(spectrum)) + 7  # 7 is the highest frequency
        gain = 10 ** (np.interp(octave, np.arange(1, 8), rng.uniform(-self.most, self.most, 7)) / 20)
        start, width, masks = 7 * rng.random(), 7 * self.mask * rng.random(), rng.random() < 1 / 3
        gain[(octave >= start) & (octave < start + width) & masks] = 0
        found = np.fft.irfft(spectrum * gain, len(wave))
        return (found / max(1.0, np.abs(found).max())).astype(np.float32)


@dataclass(frozen=True)
class Stain:
    """An augmentation of pictures: waves of up to `most` in brightness, as slow as the picture is large, and a shade of up to `most`."""

    most: float = 0.25

    def __call__(self, rng: np.random.Generator, image: Float32[np.ndarray, "H W C"]) -> Float32[np.ndarray, "H W C"]:
        y, x = (np.arange(n, dtype=np.float32) / np.float32(n) for n in image.shape[:2])
        down, across, phase, depth, shade = rng.random(5).tolist()
        waves = np.sin(2 * np.pi * (2 * down * y[:, None] + 2 * across * x + phase)).astype(np.float32)
        return np.clip(image + np.float32(self.most) * (depth * waves - shade)[..., None], 0, 1).astype(np.float32)


@dataclass(frozen=True)
class Grain:
    """An augmentation of pictures: noise of a standard deviation drawn up to `most`, and a contrast drawn down to `least`."""

    most: float = 0.15
    least: float = 0.5

    def __call__(self, rng: np.random.Generator, image: Float32[np.ndarray, "H W C"]) -> Float32[np.ndarray, "H W C"]:
        noise = rng.standard_normal(image.shape, np.float32) * np.float32(self.most * rng.random())
        return np.clip(1 - np.float32(rng.uniform(self.least, 1)) * (1 - image) + noise, 0, 1).astype(np.float32)
