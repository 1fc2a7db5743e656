"""Real pictures with sentences in 78 languages and, for many, recordings of people who read them aloud: the stamps of Tux Paint.

An optional source: nothing is downloaded. `apt install tuxpaint-stamps-default` (Debian, Ubuntu) puts the files where `TuxPaint()` finds them; a
folder of that layout does as well: `cat.png` or `cat.svg`, `cat.txt` with an English sentence in its first line and `de.utf8=Eine Katze.` below,
and recordings `cat_desc_fr.ogg`. GPL-2, some parts under other free licences: see the package.
"""

import hashlib
import io
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from mmrep.data import decode, splits
from mmrep.errors import ConfigError, DataError

USUAL = Path("/usr/share/tuxpaint/stamps")
PACKAGE = "tuxpaint-stamps-default"
_CLOSE = 20  # of 256 bits: drawings that differ in so few are copies of one another
_SIDE = 128  # pixels of the longer side of a drawing that only exists as SVG


@dataclass(frozen=True)
class TuxPaint:
    """Records: image uint8 [H, W, 3] on white; text, the sentence in the first of `languages`; text_<language> of each; present float32 [K], 1 where
    there is a sentence of that language (elsewhere `text` takes its place); name, the file's path; with `spoken` speech float32 [T] at `rate`.

    languages: as the files name them, "en" for the first line.   complete: only stamps with a sentence in all of them.
    spoken:    a language: only stamps with a recording in it, and `text` is the sentence that is read; recordings are cut to `seconds`.
    symbols:   with the letters, digits, coins and shapes.   folder: of the stamps; empty: where the package puts them.

    The split keeps together stamps of one sentence, of one file name but for its number, and near-copies (by a difference hash of the drawing), in
    all languages and voices. Val and test hold the first stamp of each sentence alone, so that retrieval has one right answer.
    """

    languages: tuple[str, ...] = ("en", "fr", "es", "de", "ru", "ja")
    complete: bool = True
    spoken: str = ""
    symbols: bool = False
    rate: int = 16_000
    seconds: float = 4.0
    folder: str = ""
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)

    def __post_init__(self) -> None:
        splits.check_fractions(self.fractions)
        if not self.languages or self.rate < 1 or self.seconds <= 0:
            raise ConfigError("TuxPaint: languages is empty, or rate or seconds is not above 0")

    @property
    def attribution(self) -> tuple[str, ...]:
        return (
            f"Pictures, sentences and recordings of Tux Paint's stamps (Debian package {PACKAGE}; GPL-2 and others).",
        )

    @property
    def main(self) -> str:
        """The language of `text`."""
        return self.spoken or self.languages[0]

    def open(self, split: str) -> "StampRecords":
        """The stamps of `split`, pictures decoded. Raises DataError where the package is missing or no stamp has what is wanted."""
        splits.check(split)
        items = _stamps(str(self.folder), self.symbols)
        wanted = {*self.languages, self.spoken} - {""} if self.complete else {self.languages[0], self.spoken} - {""}
        kept = [s for s in items if wanted <= {*s.sentences} and (not self.spoken or self.spoken in s.recordings)]
        fix = "set fractions" if kept else "no stamp has all of these languages"
        chosen = splits.choose(kept, lambda s: splits.hashed(s.group, self.fractions), split, "stamps", fix)
        first = {plain(s.sentences[self.main]): s for s in reversed(chosen)}
        unique = tuple(s for s in chosen if first[plain(s.sentences[self.main])] is s)
        return StampRecords(self, chosen if split == "train" else unique)

    def texts(self, split: str) -> Iterator[str]:
        """Every sentence of the languages."""
        for stamp in self.open(split).stamps:
            yield from (stamp.sentences[k] for k in (self.spoken, *self.languages) if k in stamp.sentences)

    def view(self, record: Mapping[str, Any], rng: np.random.Generator | None) -> dict[str, Any]:
        return dict(record)


@dataclass(frozen=True, eq=False)
class Stamp:
    """group: what stays on one side of a split."""

    name: str
    image: UInt8[np.ndarray, "H W 3"]
    sentences: Mapping[str, str]
    recordings: Mapping[str, Path]
    group: str = ""


@dataclass(frozen=True, eq=False)
class StampRecords(Sequence[dict[str, Any]]):
    source: TuxPaint
    stamps: tuple[Stamp, ...]

    def __len__(self) -> int:
        return len(self.stamps)

    def __getitem__(self, i: int) -> dict[str, Any]:  # type: ignore[override]
        source, stamp = self.source, self.stamps[i]
        has = [k in stamp.sentences for k in source.languages]
        own = stamp.sentences[source.main]
        record: dict[str, Any] = {
            "image": stamp.image,
            "text": own,
            "name": stamp.name,
            "present": np.array(has, np.float32),
        }
        record |= {f"text_{k}": stamp.sentences.get(k, own) for k in source.languages}
        if source.spoken:
            path = stamp.recordings[source.spoken]
            wave = decode.audio(decode.read(str(path)), str(path), source.rate)
            record["speech"] = wave[: int(source.seconds * source.rate)]
        return record

    def digest(self) -> str:
        found = hashlib.sha256()
        for stamp in self.stamps:
            found.update(repr((stamp.name, sorted(stamp.sentences.items()))).encode() + stamp.image.tobytes())
        return found.hexdigest()[:16]


@lru_cache(maxsize=2)
def _stamps(folder: str, symbols: bool) -> tuple[Stamp, ...]:
    """All stamps that have a drawing and a sentence, with their groups; by name."""
    root = Path(folder).expanduser() if folder else USUAL
    if not root.is_dir():
        where = f"{root} is not a folder" if folder else f"{root} does not exist"
        raise DataError(
            f"the stamps of Tux Paint are not here ({where}): apt install {PACKAGE}, or give TuxPaint.folder"
        )
    found = []
    for path in sorted(root.rglob("*.txt")):
        name = path.relative_to(root).with_suffix("").as_posix()
        sentences = captions(path.read_text(encoding="utf-8", errors="replace"))
        picture = next((p for e in (".png", ".svg") if (p := path.with_suffix(e)).is_file()), None)
        if picture is None or "en" not in sentences or (name.startswith("symbols/") and not symbols):
            continue
        image = drawing(picture)
        if image is None:
            continue
        spoken = {p.stem.removeprefix(f"{path.stem}_desc_"): p for p in path.parent.glob(f"{path.stem}_desc_*.ogg")}
        if (english := path.with_name(f"{path.stem}_desc.ogg")).is_file():
            spoken["en"] = english
        found.append(Stamp(name, image, sentences, spoken))
    if not found:
        raise DataError(f"{root} holds no stamps: give the folder with cat.png and cat.txt in its subfolders")
    groups = grouped(found)
    return tuple(Stamp(s.name, s.image, s.sentences, s.recordings, g) for s, g in zip(found, groups))


def captions(text: str) -> dict[str, str]:
    """{language: sentence} of a stamp's .txt: English in the first line, "de.utf8=..." below."""
    lines = text.lstrip("\ufeff").splitlines()
    found = {"en": lines[0].strip()} if lines and lines[0].strip() else {}
    for line in lines[1:]:
        language, is_one, sentence = line.partition(".utf8=")
        if is_one and sentence.strip():
            found[language.strip()] = sentence.strip()
    return found


def drawing(path: Path) -> UInt8[np.ndarray, "H W 3"] | None:
    """The picture on white; None of an SVG that resvg cannot draw."""
    data = decode.read(str(path))
    if path.suffix == ".svg":
        try:
            import resvg_py
        except ImportError:
            raise DataError(f"{path} is drawn by resvg: pip install resvg-py") from None
        from PIL import Image

        try:
            png = bytes(resvg_py.svg_to_bytes(svg_string=data.decode("utf-8", "replace"), skip_system_fonts=True))
        except ValueError:
            return None
        with Image.open(io.BytesIO(png)) as full:
            full.thumbnail((_SIDE, _SIDE))
            small = io.BytesIO()
            full.save(small, "PNG")
        data = small.getvalue()
    return decode.image(data, str(path))


def grouped(stamps: Sequence[Stamp]) -> list[str]:
    """A key for each stamp: stamps of one sentence, of one file name but for its number, or of nearly one drawing share it."""
    keys: list[list[str]] = []
    for stamp in stamps:
        stem = re.sub(r"[\d_-]+", "", stamp.name.rpartition("/")[2].lower())
        keys.append([f"sentence {plain(stamp.sentences['en'])}", *([f"file {stem}"] if len(stem) > 2 else [])])
    bits = np.stack([difference_hash(s.image) for s in stamps])
    for i, row in enumerate(bits):
        keys[i] += [f"near {j}" for j in (i, *np.flatnonzero((bits[:i] != row).sum(1) <= _CLOSE).tolist())]
    return [stamps[i].name for i in splits.joined(keys)]


def plain(sentence: str) -> str:
    """Lower case, without punctuation and article."""
    words = re.sub(r"[^\w\s]", " ", unicodedata.normalize("NFC", sentence).lower()).split()
    return " ".join(w for w in words if w not in ("a", "an", "the", "some"))


def difference_hash(image: UInt8[np.ndarray, "H W 3"], side: int = 16) -> Bool[np.ndarray, " B"]:
    """Whether each of side x side cells is darker than the one to its right."""
    from PIL import Image

    grey = np.asarray(Image.fromarray(image).convert("L").resize((side + 1, side), Image.Resampling.BILINEAR), np.int32)
    return (grey[:, :-1] < grey[:, 1:]).ravel()
