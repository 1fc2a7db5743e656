"""Real recorded speech: the prompts of the Asterisk telephone exchange, one professional speaker a language, the same prompts in each.

An optional source: nothing is downloaded. `apt install asterisk-core-sounds-en-wav` (Debian, Ubuntu; also -es-, -fr-, -it-, -ru-) puts a folder for each
voice where `SpokenPrompts()` finds them; any folders with sounds of the same names do as well. CC BY-SA 3.0 (Russian: CC BY 3.0).
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmrep.data import decode, splits
from mmrep.errors import ConfigError, DataError, near

USUAL = Path("/usr/share/asterisk/sounds")
PACKAGE = "asterisk-core-sounds-en-wav"
_NOT_SPOKEN = re.compile(r"silence/.*|(beep|ascending|descending).*|.*-tone")
_LABELS = ("digits", "letters", "phonetic")


@dataclass(frozen=True)
class SpokenPrompts:
    """A record a prompt that every voice reads: audio float32 [T] at `rate`, of a random voice in training and of the first one elsewhere; audio_<voice>
    of each; text; name, the file's path without ending.

    voices:      folders in `folder`, such as "en_US_f_Allison"; empty: all of them, by name.
    transcripts: a file of lines "name: what is said". Without it the text is the words of the name ("conf-onlyperson": "conf onlyperson"), which the
                 packages have in place of transcripts: exact for letters and digits, an abbreviation elsewhere.
    labels:      with the digits, letters and phonetic alphabet.   seconds: recordings are cut to so many.
    folder:      empty: where the packages put them.

    The split keeps a prompt's voices together, and prompts of one name but for its last number or "-simp", "-extended" and the like.
    """

    voices: tuple[str, ...] = ()
    transcripts: str = ""
    labels: bool = True
    rate: int = 8_000
    seconds: float = 4.0
    folder: str = ""
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)

    def __post_init__(self) -> None:
        splits.check_fractions(self.fractions)
        if self.rate < 1 or self.seconds <= 0:
            raise ConfigError(f"SpokenPrompts: rate is {self.rate} and seconds {self.seconds}: both must be above 0")

    @property
    def attribution(self) -> tuple[str, ...]:
        return (
            "Speech: Asterisk's core sounds (Allison Smith, June Wallack and others), CC BY-SA 3.0; Russian CC BY 3.0.",
        )

    def open(self, split: str) -> "PromptRecords":
        """The prompts of `split`. Raises DataError where the package is missing, a voice is unknown, or nothing is left."""
        splits.check(split)
        root = Path(self.folder).expanduser() if self.folder else USUAL
        voices = self.voices or tuple(sorted(p.name for p in root.glob("*") if p.is_dir() and any(p.glob("*.wav"))))
        if not voices or not root.is_dir():
            raise DataError(
                f"{root} has no folder of spoken prompts: apt install {PACKAGE}, or give SpokenPrompts.folder"
            )
        files = {voice: _files(root, voice) for voice in voices}
        names = sorted(set.intersection(*(set(f) for f in files.values())))
        texts = _texts(self.transcripts) if self.transcripts else {}
        kept = [n for n in names if (self.labels or n.split("/")[0] not in _LABELS) and (not texts or n in texts)]
        where = f"{root}, voices {', '.join(voices)}"
        chosen = splits.choose(kept, lambda n: splits.hashed(group(n), self.fractions), split, where, "set fractions")
        return PromptRecords(self, chosen, tuple(texts.get(n, words(n)) for n in chosen), files)

    def texts(self, split: str) -> Iterator[str]:
        yield from self.open(split).said

    def view(self, record: Mapping[str, Any], rng: np.random.Generator | None) -> dict[str, Any]:
        clips = [v for k, v in record.items() if k.startswith("audio_")]
        return {**record, "audio": clips[0 if rng is None else int(rng.integers(len(clips)))]}


@dataclass(frozen=True, eq=False)
class PromptRecords(Sequence[dict[str, Any]]):
    source: SpokenPrompts
    names: tuple[str, ...]
    said: tuple[str, ...]
    files: Mapping[str, Mapping[str, Path]]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, i: int) -> dict[str, Any]:  # type: ignore[override]
        source, name = self.source, self.names[i]
        record: dict[str, Any] = {"text": self.said[i], "name": name}
        for voice, files in self.files.items():
            path = str(files[name])
            wave = decode.audio(decode.read(path), path, source.rate)
            record[f"audio_{voice}"] = wave[: int(source.seconds * source.rate)]
        return record


def _files(root: Path, voice: str) -> dict[str, Path]:
    """{name: file} of a voice, without silence and beeps."""
    if not (root / voice).is_dir():
        raise DataError(f"{root} has no voice {voice!r}{near(voice, [p.name for p in root.glob('*')])}")
    found = {p.relative_to(root / voice).with_suffix("").as_posix(): p for p in (root / voice).rglob("*.wav")}
    return {name: path for name, path in found.items() if not _NOT_SPOKEN.fullmatch(name)}


def _texts(path: str) -> dict[str, str]:
    """{name: text} of lines "name: text"; lines that begin with ; are comments."""
    found = {}
    for line in decode.text(decode.read(path), path).splitlines():
        name, colon, said = line.partition(":")
        if colon and said.strip() and not line.startswith(";"):
            found[name.strip()] = said.strip()
    return found


def words(name: str) -> str:
    """The words of a file's name: "digits/mon-3" is "digits mon 3"."""
    return " ".join(re.split(r"[/_-]+", name))


def group(name: str) -> str:
    """What stays on one side of a split: the name without its variant; each label is its own."""
    if name.split("/")[0] in _LABELS:
        return name
    short = re.sub(r"([-_]?(simp|simple|extended|nonextended|alternate|short|full|in|out))+$", "", name)
    return re.sub(r"[-_]?\d+$", "", short) or name
