"""Data in which only several modalities together determine the target (Saporta et al. 2024, section 5).

`XorData`: triples of bit vectors, c = a XOR b.   `PolyglotData`: a small Symile-M3, an image named by words and speech together.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmrep.data import splits
from mmrep.data.columns import Columns, Record
from mmrep.data.scenes.rgb import rgb
from mmrep.data.scenes.source import SPLIT_START
from mmrep.data.scenes.world import COLOURS, SHAPES, SIZES, WorldSpec, sample, uniform
from mmrep.errors import ConfigError

CONSONANTS, VOWELS = "bdfgklmnprstvz", "aeiou"
KINDS = tuple((size, colour) for size in ("small", "big") for colour in (*COLOURS[:9], "black"))


@dataclass(frozen=True)
class XorData:
    """a, b fair bits; c = a XOR b with probability p, else c = a: one draw a triple, over all `bits` at once.

    Records: a, b, c float32 [bits + 1], the bits and a constant 1, so that a linear map of them has a bias;
    a_id, b_id, c_id int32, the bits as a number in [0, 2^bits).
    p = 1: any two are independent, any two determine the third.   p = 0: c is a copy of a, and b is independent of both.
    """

    n_train: int = 10_000
    n_val: int = 1000
    n_test: int = 5000
    bits: int = 3
    p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.0 <= self.p <= 1.0:
            raise ConfigError(f"p is {self.p}: it is a probability, in [0, 1]")
        if not 1 <= self.bits <= 20:
            raise ConfigError(f"bits is {self.bits}: it must be in [1, 20]")

    def open(self, split: str) -> Columns:
        n = splits.size(self, split)
        rng = np.random.default_rng((self.seed, splits.NAMES.index(split)))
        a, b = rng.integers(0, 2, (2, n, self.bits))
        c = np.where(rng.random((n, 1)) < self.p, a ^ b, a)
        columns = {}
        for name, bits in (("a", a), ("b", b), ("c", c)):
            columns[name] = np.concatenate([bits, np.ones((n, 1), bits.dtype)], 1).astype(np.float32)
            columns[f"{name}_id"] = (bits @ (1 << np.arange(self.bits))).astype(np.int32)
        return Columns(columns)

    def texts(self, split: str) -> Iterator[str]:
        return iter(())

    def view(self, record: Record, rng: np.random.Generator | None) -> Record:
        return record


@dataclass(frozen=True)
class PolyglotData:
    """A text of one word a language, each naming another kind of object; a tone that identifies a language; an image of its word's object.

    Records: image uint8 [size, size, 3], one object; text str, the words in random order; speech float32 [T] at `rate` Hz, the
    language's tone with a speaker's pitch, loudness, length and noise; class int32, an index of KINDS (size and colour, 20 of them);
    language int32; present float32 [3], 0 where image, text or speech is missing: each is with probability `missing`, in training
    only, and then holds a placeholder (black, "?", one silent sample).
    Every kind of object has a word of its own in every language. From the text alone the class is one of `languages`; sound and image
    alone are independent.
    """

    n_train: int = 8000
    n_val: int = 500
    n_test: int = 500
    languages: int = 4
    size: int = 16
    rate: int = 4000
    seconds: float = 0.25
    missing: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 2 <= self.languages <= len(KINDS):
            raise ConfigError(f"languages is {self.languages}: it must be in [2, {len(KINDS)}]")
        if not 0 <= self.missing < 1:
            raise ConfigError(f"missing is {self.missing}: it is a probability, in [0, 1)")
        if self.rate < 4000 or self.seconds < 0.1:
            raise ConfigError(f"rate is {self.rate} Hz and seconds {self.seconds}: give at least 4000 Hz and 0.1 s")

    @property
    def world(self) -> WorldSpec:
        return WorldSpec(n_objects=(1, 1), shapes=SHAPES[:4], colours=(*COLOURS[:9], "black"), sizes=("small", "big"))

    @property
    def samples(self) -> int:
        return round(self.rate * self.seconds)

    def words(self) -> np.ndarray:
        """[languages, classes] made-up words of two syllables, all distinct."""
        syllables = [c + v for c in CONSONANTS for v in VOWELS]
        chosen = np.random.default_rng(self.seed).choice(len(syllables) ** 2, self.languages * len(KINDS), False)
        names = [syllables[i // len(syllables)] + syllables[i % len(syllables)] for i in chosen]
        return np.array(names).reshape(self.languages, -1)

    def _latent(self, split: str) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray]:
        """(scenes, class [n], language [n], named [n, languages]: the class that each language's word names)."""
        n = splits.size(self, split)
        scenes = sample(self.seed, np.arange(n) + SPLIT_START[split], self.world)
        kind_of = {(SIZES.index(s), COLOURS.index(c)): i for i, (s, c) in enumerate(KINDS)}
        kind = np.array([kind_of[k] for k in zip(scenes.size[:, 0].tolist(), scenes.colour[:, 0].tolist())])
        language = (uniform(scenes.key, "language") * self.languages).astype(np.int64)
        order = uniform(scenes.key, "words", len(KINDS)).argsort(1)
        rows = np.arange(n)
        at = (order == kind[:, None]).argmax(1)
        # A swap puts the image's class at its language's index: the others stay distinct from it and from each other.
        order[rows, at] = order[rows, language]
        order[rows, language] = kind
        return scenes, kind, language, order[:, : self.languages]

    def open(self, split: str) -> Columns:
        scenes, kind, language, _ = self._latent(split)
        rate = self.missing if split == "train" else 0.0
        present = uniform(scenes.key, "missing", 3) >= rate
        here = present.T
        speech = self._speech(scenes.key, language)
        return Columns({
            "image": rgb(scenes, self.size, self.seed, 0.02) * here[0][:, None, None, None].astype(np.uint8),
            "text": [t if p else "?" for t, p in zip(self.texts(split), here[1])],
            "speech": [w if p else np.zeros(1, np.float32) for w, p in zip(speech, here[2])],
            "class": kind.astype(np.int32), "language": language.astype(np.int32), "present": present.astype(np.float32),
        })  # fmt: skip

    def _speech(self, key: np.ndarray, language: np.ndarray) -> list[np.ndarray]:
        pitch, loud, long, phase = uniform(key, "voice", 4).T
        hz = 300 * 4 ** (language / (self.languages - 1)) * (1 + 0.1 * (pitch - 0.5))
        t = np.arange(self.samples) / self.rate
        wave = (0.2 + 0.5 * loud[:, None]) * np.sin(2 * np.pi * (hz[:, None] * t + phase[:, None]))
        wave = (wave + 0.2 * (uniform(key, "noise", self.samples) - 0.5)).astype(np.float32)
        lengths = (self.samples * (0.7 + 0.3 * long)).astype(np.int64)
        return [w[:n] for w, n in zip(wave, lengths)]

    def texts(self, split: str) -> Iterator[str]:
        scenes, _, _, named = self._latent(split)
        words = self.words()[np.arange(self.languages), named]
        order = uniform(scenes.key, "order", self.languages).argsort(1)
        return map(" ".join, np.take_along_axis(words, order, 1).tolist())

    def view(self, record: Record, rng: np.random.Generator | None) -> Record:
        return record
