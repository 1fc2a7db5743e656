"""Spoken intents: commands by grammar, as text and as sound in which each word is a fixed pair of tones."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from mmrep.data import splits
from mmrep.errors import ConfigError

Record = dict[str, Any]

ACTIONS = (
    ("start", "enable", "activate", "launch"), ("stop", "disable", "halt", "quit"), ("check", "inspect", "query", "test"),
    ("schedule", "plan", "book", "queue"), ("tune", "adjust", "change", "set"),
)  # fmt: skip
OBJECTS = (
    ("lights", "lamps", "bulbs", "lanterns"), ("music", "songs", "radio", "tunes"),
    ("heating", "heater", "radiator", "furnace"), ("alarm", "siren", "clock", "buzzer"),
)  # fmt: skip
INTENTS = tuple(f"{a[0]} {o[0]}" for a in ACTIONS for o in OBJECTS)
TEMPLATES = (
    "{a} the {o} in the {place}", "please {a} the {o} in the {place} at {number}", "can you {a} my {o} at {number}",
    "i want you to {a} the {place} {o}", "{place} {o} {a} now", "at {number} {a} the {o}",
    "hey {a} the {o} of the {place} please", "would you {a} that {o} in my {place}", "{a} my {colour} {o} in the {place}",
    "in the {place} {a} the {colour} {o}", "now {a} all {o} until {number}", "i need the {o} in the {place} to {a}",
)  # fmt: skip
SLOTS = {
    "place": ("kitchen", "bedroom", "garage", "office", "garden", "hall", "attic", "studio"),
    "number": ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    "colour": ("red", "green", "blue", "white", "yellow", "purple"),
}

WORDS = sorted(
    {w for t in TEMPLATES for w in t.split() if "{" not in w}
    | {w for words in (*ACTIONS, *OBJECTS, *SLOTS.values()) for w in words}
)

_TONES = 240 * 6.6 ** (np.arange(10) / 9)
_WORD_SECONDS = 0.08


def sentence(intent: int, template: int, chance: Sequence[float]) -> str:
    """The command of an intent (0..19) in a template (0..11).

    chance: five numbers in [0, 1) that choose the synonyms of action and object, the place, the number and the colour.
    """
    action, thing = divmod(intent, len(OBJECTS))
    choices = {"a": ACTIONS[action], "o": OBJECTS[thing], **SLOTS}
    return TEMPLATES[template].format(
        **{k: words[int(u * len(words))] for (k, words), u in zip(choices.items(), chance)}
    )


def tones(word: str) -> tuple[float, float]:
    """The two frequencies of one of WORDS, in Hz, first half and second half of its sound: another ordered pair for each word."""
    # 37 is prime to 10 * 9, the number of ordered pairs: neighbours in the list share no tone.
    first, second = divmod(WORDS.index(word) * 37 % (len(_TONES) * (len(_TONES) - 1)), len(_TONES) - 1)
    return float(_TONES[first]), float(_TONES[(first + 1 + second) % len(_TONES)])


def synthesise(
    text: str, rng: np.random.Generator, rate: int, pitch: float, tempo: float, snr_db: float
) -> Float[np.ndarray, "T"]:
    """The text as sound, float32 in [-1, 1]: a speaker's pitch (+-`pitch`) and tempo (+-`tempo`), pink noise `snr_db` below the voice."""
    high, slow, loud = rng.uniform(-1, 1, 3)
    half = round(_WORD_SECONDS / 2 * rate * (1 + tempo * slow))
    hz = np.array([f for word in text.split() for f in tones(word)]) * (1 + pitch * high)
    gliding = np.interp((np.arange(len(hz) * half) + 0.5) / half, np.arange(len(hz)) + 0.5, hz)
    envelope = np.tile(np.sin(np.pi * (np.arange(2 * half) + 0.5) / (2 * half)) ** 0.5, len(hz) // 2)
    voice = (0.25 + 0.1 * loud) * envelope * np.sin(2 * np.pi * np.cumsum(gliding) / rate)
    white = np.fft.rfft(rng.standard_normal(len(voice)))
    white[0] = 0
    noise = np.fft.irfft(white / np.sqrt(np.maximum(np.arange(len(white)), 1)), len(voice))
    noise *= np.sqrt(np.mean(voice**2) / np.mean(noise**2)) * 10 ** (-snr_db / 20)
    return np.clip(voice + noise, -1, 1).astype(np.float32)


@dataclass(frozen=True)
class IntentData:
    """Commands of 20 intents (5 actions x 4 things), from the templates named by number.

    Records: text str; speech float32 [T] at `rate` Hz, T <= `samples`; intent int32; template int32.
    A record is a function of (seed, split, number). spoken=False gives silence in place of speech, for a text-only phase.
    """

    n_train: int = 2000
    n_val: int = 500
    n_test: int = 500
    templates: tuple[int, ...] = tuple(range(12))
    spoken: bool = True
    rate: int = 4000
    pitch: float = 0.15
    tempo: float = 0.2
    snr_db: float = 10.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.templates or not {*self.templates} <= {*range(len(TEMPLATES))}:
            raise ConfigError(f"templates is {self.templates}: name some of 0..{len(TEMPLATES) - 1}")
        if self.rate < 4000:
            raise ConfigError(f"rate is {self.rate}: the tones reach 1.7 kHz and need at least 4000 Hz")
        if not (0 <= self.pitch < 1 and 0 <= self.tempo < 1):
            raise ConfigError(f"pitch is {self.pitch} and tempo {self.tempo}: both are shares in [0, 1)")

    @property
    def samples(self) -> int:
        """Samples of the longest command."""
        words = max(len(t.split()) for t in TEMPLATES)
        return 2 * words * int(np.ceil(_WORD_SECONDS / 2 * self.rate * (1 + self.tempo)))

    def open(self, split: str) -> "Commands":
        return Commands(self, split)

    def texts(self, split: str) -> Iterator[str]:
        return iter(self.open(split).text)

    def view(self, record: Record, rng: np.random.Generator | None) -> Record:
        return record


class Commands(Sequence[Record]):
    """Random access to a split; a command's sound is made at its first use and cached."""

    def __init__(self, data: IntentData, split: str) -> None:
        n = splits.size(data, split)
        self.data, self.key = data, (data.seed, splits.NAMES.index(split))
        rng = np.random.default_rng(self.key)
        self.intent = rng.integers(0, len(INTENTS), n).astype(np.int32)
        self.template = rng.choice(np.array(data.templates, np.int32), n)
        self.text = [
            sentence(*row)
            for row in zip(self.intent.tolist(), self.template.tolist(), rng.random((n, 2 + len(SLOTS))).tolist())
        ]
        self._spoken: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.text)

    def __getitem__(self, i: int) -> Record:  # type: ignore[override]
        if not -len(self) <= i < len(self):
            raise IndexError(f"record {i} of {len(self)}")
        i = int(i) % len(self)
        if i not in self._spoken:
            self._spoken[i] = self._sound(i)
        return {"text": self.text[i], "speech": self._spoken[i], "intent": self.intent[i], "template": self.template[i]}

    def _sound(self, i: int) -> np.ndarray:
        d = self.data
        if not d.spoken:
            return np.zeros(1, np.float32)
        return synthesise(self.text[i], np.random.default_rng((*self.key, i)), d.rate, d.pitch, d.tempo, d.snr_db)
