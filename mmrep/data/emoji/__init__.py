"""Real images, real names in 14 languages and synthetic speech of 1,900 concepts: the emoji of Unicode.

Drawings by OpenMoji, names from Unicode CLDR, speech by eSpeak NG; three pip packages, no download. `ATTRIBUTION` must be shown wherever
pictures or results are. Split by concept family (`concepts.family`): nothing of a test concept is ever seen in training, in any
language, voice, skin tone, gender or mirror image.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from mmrep.data.emoji.concepts import ATTRIBUTION, CATEGORIES, LANGUAGES
from mmrep.errors import ConfigError, DataError, near

__all__ = ["ATTRIBUTION", "CATEGORIES", "LANGUAGES", "Emoji"]

_PARTS = {
    "train": ("train",), "val": ("val",), "test": ("test",),
    "flags_train": ("flags_train",), "flags_val": ("flags_val",), "flags_test": ("flags_test",),
    "val_with_flags": ("val", "flags_val"), "test_with_flags": ("test", "flags_test"),
}  # fmt: skip


@dataclass(frozen=True)
class Emoji:
    """The emoji source. Splits: train, val, test (main task), flags_train, flags_val, flags_test (flags of regions: a task of its own),
    val_with_flags, test_with_flags. Every English name of an evaluation split is unique, so retrieval has one right answer.

    size:              pixels of the square image.
    languages:         of the text in training; the others of the 14 appear in evaluation only (`text_<language>`).
    speech_languages:  of the speech in training, out of en de fr es it tr.
    english:           probability of the English name (and voice) in training; the other languages share the rest.
    match_language:    speech and text of a training example are in the same language where that language is spoken.
    keywords:          probability that a training text is the English name followed by a few of its keywords.
    tones:             a training image may be any skin tone of its concept.
    variants:          train also holds men, women and mirror images of its concepts, as examples of their own.
    flags:             train also holds flags_train.
    seconds:           the longest speech; 1.5 s cuts about one name in twenty.
    limit:             > 0: about that many concept families only, for tests.
    folder:            of the prepared set; empty: in the cache ($MMREP_CACHE or ~/.cache/mmrep).
    """

    size: int = 64
    languages: tuple[str, ...] = ("en", "es", "ja", "ko", "it", "fr", "de", "fa", "zh", "ru", "tr", "ar")
    speech_languages: tuple[str, ...] = ("en", "de", "fr", "es")
    english: float = 0.5
    match_language: bool = False
    keywords: float = 0.0
    tones: bool = True
    variants: bool = True
    flags: bool = False
    seconds: float = 1.5
    limit: int = 0
    folder: str = ""

    def __post_init__(self) -> None:
        from mmrep.data.emoji.concepts import SPOKEN

        if self.size < 8 or self.limit < 0 or self.seconds <= 0:
            raise ConfigError("emoji: size must be at least 8, limit at least 0, seconds above 0")
        for field, known in (("languages", LANGUAGES), ("speech_languages", SPOKEN)):
            chosen = getattr(self, field)
            if not chosen:
                raise ConfigError(f"emoji.{field} is empty: give at least ('en',)")
            for language in chosen:
                if language not in known:
                    raise ConfigError(f"emoji.{field} has {language!r}{near(language, known)}")
        for field in ("english", "keywords"):
            if not 0.0 <= getattr(self, field) <= 1.0:
                raise ConfigError(f"emoji.{field} is {getattr(self, field)}: give a probability in [0, 1]")

    @property
    def attribution(self) -> tuple[str, ...]:
        """The attribution that a page with these pictures must contain."""
        return ATTRIBUTION if isinstance(ATTRIBUTION, tuple) else (ATTRIBUTION,)

    @property
    def unseen_languages(self) -> tuple[str, ...]:
        return tuple(language for language in LANGUAGES if language not in self.languages)

    def open(self, split: str) -> Sequence[Mapping[str, Any]]:
        """The records, decoded into memory; the first call on a machine prepares the set (about half a minute). DataError for an unknown split."""
        if split not in _PARTS:
            raise DataError(f"emoji has no split {split!r}{near(split, _PARTS)}")
        parts = _PARTS[split]
        if split == "train":
            parts += ("train_variants",) * self.variants + ("flags_train",) * self.flags
        from mmrep.data.emoji.builder import cache_folder

        folder = Path(self.folder).expanduser() if self.folder else cache_folder()
        return [r for part in parts for r in _load(str(folder), self.size, self.limit, part)]

    def texts(self, split: str) -> Iterator[str]:
        """Every name of the split in the training languages, and its keywords where they are used."""
        for record in self.open(split):
            for language in self.languages:
                yield record["names"][language]
            if self.keywords:
                yield " ".join(record["keywords"])

    def view(self, record: Mapping[str, Any], rng: np.random.Generator | None) -> dict[str, Any]:
        """The fields of a record that a modality may use:

        image: uint8 [size, size, 3] on white.   text: str.   speech: int16 [T] at 16 kHz, T <= 16,000 * seconds.
        category, id: int.   text_<language>: str.   speech_<clip>: int16 [T]; clips: en, en_m3, en_linda, de, fr, es, it, tr, and in
        evaluation en_unseen_voice (a voice of no training clip), pt, id, ru, ko, fa, ar.

        rng None: the English name and its first voice. A training view holds the training languages alone.
        """
        names, clips, images = record["names"], record["clips"], record["images"]
        samples = int(self.seconds * 16_000)
        view = {"category": record["category"], "id": record["id"]}
        if rng is None:
            view |= {f"text_{language}": name for language, name in names.items()}
            view |= {f"speech_{clip}": wave[:samples] for clip, wave in clips.items()}
            return view | {"image": images[0], "text": names["en"], "speech": view["speech_en"]}

        spoken = {clip: wave[:samples] for clip, wave in clips.items() if clip.split("_")[0] in self.speech_languages}
        view |= {f"text_{language}": names[language] for language in self.languages}
        view |= {f"speech_{clip}": wave for clip, wave in spoken.items()}
        language = _pick(rng, self.languages, self.english)
        heard = language if self.match_language and language in self.speech_languages else None
        heard = heard or _pick(rng, self.speech_languages, self.english)
        voices = [clip for clip in spoken if clip.split("_")[0] == heard]
        text = names[language]
        if self.keywords and record["keywords"] and rng.random() < self.keywords:
            words = rng.permutation(list(record["keywords"]))[: rng.integers(1, 4)]
            text = " ".join([names["en"], *words])
        return view | {
            "image": images[rng.integers(len(images)) if self.tones else 0],
            "text": text,
            "speech": spoken[voices[rng.integers(len(voices))]],
        }


def _pick(rng: np.random.Generator, languages: Sequence[str], english: float) -> str:
    others = [language for language in languages if language != "en"]
    if "en" in languages and (not others or rng.random() < english):
        return "en"
    return others[rng.integers(len(others))]


@lru_cache(maxsize=16)
def _load(folder: str, size: int, limit: int, split: str) -> tuple[Mapping[str, Any], ...]:
    """A prepared split, decoded. Cached: its files never change."""
    from mmrep.data.emoji.builder import clips_of, prepare, quiet

    builder = prepare(Path(folder), size, limit)
    if split not in builder.info.splits:
        return ()
    with quiet():
        return tuple(_decode(raw, size, tuple(clips_of(split))) for raw in _raw(builder, split))


def _raw(builder: Any, split: str) -> Iterable[Any]:
    source = builder.as_data_source(split)
    for i in range(len(source)):
        try:
            yield source[i]
        except Exception as error:
            raise DataError(
                f"{builder.data_path}, split {split!r}, record {i} cannot be read ({error}): delete the folder to prepare it anew"
            ) from error


def _decode(raw: Mapping[str, Any], size: int, clips: Sequence[str]) -> Mapping[str, Any]:
    def string(value: Any) -> str:
        return value.decode() if isinstance(value, bytes) else str(value)

    ends = np.cumsum(raw["speech_length"])[:-1]
    return {
        "id": int(raw["id"]),
        "emoji": string(raw["emoji"]),
        "family": string(raw["family"]),
        "category": int(raw["category"]),
        "keywords": tuple(k for k in string(raw["keywords"]).split("\n") if k),
        "names": {language: string(raw["names"][language]) for language in LANGUAGES},
        "images": raw["images"].reshape(-1, size, size, 3),
        "clips": dict(zip(clips, np.split(raw["speech"], ends))),
    }
