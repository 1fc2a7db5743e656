"""Sensor: sentences about the scene, true ones (full, partial, long, with synonyms, in several languages) and false ones by design."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from mmrep.data.scenes import lexicon
from mmrep.data.scenes.world import (
    COLOURS,
    GROUNDS,
    LIGHTS,
    MATERIALS,
    SHAPES,
    SIZES,
    STYLES,
    TEXTURES,
    Scenes,
    WorldSpec,
    swapped,
    take,
    uniform,
)  # fmt: skip
from mmrep.errors import ConfigError, near

ATTRIBUTES = ("size", "temperature", "texture", "material", "colour")
HOT = 30.0
"""Degrees Celsius from which an object is called hot."""

CLEAN, OTHER, GENERIC, ATTRIBUTE = range(4)
NOISE_KINDS = ("clean", "other", "generic", "attribute")


@dataclass(frozen=True)
class CaptionSpec:
    """How a scene is put into words.

    form:       full: the first object and its relation to each other one.  list: every object.  partial: a random part of the
                objects and attributes, no relations.  long: a small paragraph: filler, every object with its place, every relation.
    attributes: which ones are mentioned beside the shape: size, temperature, texture, material, colour.
    synonyms:   probability that a word is not the plain one.
    languages:  "en", "de", "fr", "es", "cipher0" ... "cipher15"; translations of one another.
    variants:   differently worded captions per scene and language (they differ where form or synonyms leave a choice).
    mix:        captions of all languages are variants of one another, instead of the first language's alone.
    place:      a lone object, which has no relations, is described with its place.
    setting:    patterned ground, night and line drawing are mentioned.
    """

    form: Literal["full", "list", "partial", "long"] = "full"
    attributes: tuple[str, ...] = ("size", "colour")
    synonyms: float = 0.0
    languages: tuple[str, ...] = ("en",)
    variants: int = 1
    mix: bool = False
    place: bool = True
    setting: bool = True

    def __post_init__(self) -> None:
        if self.form not in _FORMS:
            raise ConfigError(f"caption.form is {self.form!r}{near(self.form, _FORMS)}")
        for a in self.attributes:
            if a not in ATTRIBUTES:
                raise ConfigError(f"caption.attributes has {a!r}{near(a, ATTRIBUTES)}")
        if not self.languages:
            raise ConfigError("caption.languages is empty: name at least one, such as 'en'")
        if len(set(self.languages)) < len(self.languages):
            raise ConfigError(f"caption.languages names one twice: {', '.join(self.languages)}")
        for name in self.languages:
            lexicon.language(name)
        if not 0.0 <= self.synonyms <= 1.0:
            raise ConfigError(f"caption.synonyms is {self.synonyms}: give a probability in [0, 1]")
        if self.variants < 1:
            raise ConfigError(f"caption.variants is {self.variants}: it must be at least 1")


@dataclass(frozen=True)
class Noise:
    """A share `rate` of the captions is false: weights `other` (another scene's), `generic` ("stock photo"), `attribute` (one wrong)."""

    rate: float = 0.0
    other: float = 0.5
    generic: float = 0.25
    attribute: float = 0.25

    def __post_init__(self) -> None:
        if not 0.0 <= self.rate <= 1.0:
            raise ConfigError(f"noise.rate is {self.rate}: give a share in [0, 1]")
        weights = (self.other, self.generic, self.attribute)
        if min(weights) < 0 or (self.rate and not sum(weights)):
            raise ConfigError("noise.other, noise.generic and noise.attribute are weights: at least 0, and not all 0")


class Caption(NamedTuple):
    """text, and for each of its space-separated words the object slot that it describes (-1: none) and its role ("colour", "relation", ...)."""

    text: str
    objects: tuple[int, ...]
    roles: tuple[str, ...]


class _Row(NamedTuple):
    """One scene as plain Python values: concept names and positions of its objects, and random numbers [K + 1][16]."""

    shapes: list[str]
    adjectives: list[list[tuple[str, str]]]
    x: list[float]
    y: list[float]
    setting: list[str]
    u: list[list[float]]


Word = tuple[str, int, str]
_SLOT = {"size": 0, "temperature": 1, "texture": 2, "material": 3, "colour": 4, "shape": 5}
# Columns of the random table: 0-5 synonyms by role, 6-10 mention of an attribute, 11 mention of the object, 12 relation word,
# 13 opening, 14 closing, 15 the object that is mentioned in any case. The last row holds the scene's own numbers.


def captions(scenes: Scenes, spec: CaptionSpec, language: str = "en", variant: int = 0) -> list[str]:
    """One true sentence a scene. The same (scene, variant) makes the same choices in every language."""
    return [c.text for c in grounded(scenes, spec, language, variant)]


def grounded(scenes: Scenes, spec: CaptionSpec, language: str = "en", variant: int = 0) -> list[Caption]:
    """`captions` with the object and the role of every word."""
    words_of, form = lexicon.language(language), _FORMS[spec.form]
    return [_caption(form(row, spec, words_of)) for row in _rows(scenes, spec, variant)]


def _caption(words: list[Word]) -> Caption:
    texts, objects, roles = zip(*words)
    return Caption(" ".join(texts), objects, roles)


def _rows(scenes: Scenes, spec: CaptionSpec, variant: int) -> list[_Row]:
    n, K = scenes.valid.shape
    u = uniform(scenes.key, f"caption {variant}", 17, 16)[:, [*range(K), 16]].tolist()
    ids = {"size": scenes.size, "texture": scenes.texture, "material": scenes.material, "colour": scenes.colour}
    names = {"size": SIZES, "texture": TEXTURES, "material": MATERIALS, "colour": COLOURS}
    names_of: dict[str, list[list[str]]] = {"temperature": np.where(scenes.temperature >= HOT, "hot", "cold").tolist()}
    names_of |= {a: np.array(names[a])[ids[a]].tolist() for a in ids}
    shapes = np.array(SHAPES)[scenes.shape].tolist()
    x, y, count = scenes.x.tolist(), scenes.y.tolist(), scenes.valid.sum(1).tolist()
    mentioned = [a for a in ATTRIBUTES if a in spec.attributes]
    settings = _settings(scenes) if spec.setting else [[] for _ in range(n)]
    rows = []
    for i in range(n):
        adjectives = [
            [(a, names_of[a][i][k]) for a in mentioned if names_of[a][i][k] != "plain"] for k in range(count[i])
        ]
        rows.append(_Row(shapes[i][: count[i]], adjectives, x[i], y[i], settings[i], u[i]))
    return rows


def _settings(scenes: Scenes) -> list[list[str]]:
    plain, night, line = GROUNDS.index("plain"), LIGHTS.index("night"), STYLES.index("line")
    return [
        [f"ground {GROUNDS[g]}"] * (g != plain) + ["night"] * (light == night) + ["line"] * (style == line)
        for g, light, style in zip(scenes.ground.tolist(), scenes.light.tolist(), scenes.style.tolist())
    ]


def _synonym(words: tuple[str, ...], u: float, rate: float) -> str:
    if u >= rate or len(words) == 1:
        return words[0]
    return words[1 + int(u / rate * (len(words) - 1))]


def _noun_phrase(
    row: _Row, k: int, spec: CaptionSpec, lang: lexicon.Language, after: bool = False, partly: bool = False
) -> list[Word]:
    u = row.u[k]
    adjectives = [
        (role, _synonym(lang.adjectives[concept], u[_SLOT[role]], spec.synonyms))
        for role, concept in row.adjectives[k]
        if not partly or u[6 + _SLOT[role]] < 0.5
    ]
    noun = _synonym(lang.nouns[row.shapes[k]], u[5], spec.synonyms)
    return [(word, k, role) for word, role in lang.phrase(noun, adjectives, after)]


def _plain(text: str, role: str, k: int = -1) -> list[Word]:
    return [(word, k, role) for word in text.split()]


def _relation(row: _Row, j: int, k: int, spec: CaptionSpec, lang: lexicon.Language) -> list[Word]:
    """The relation of object j to object k, along the axis on which they are farther apart."""
    dx, dy = row.x[k] - row.x[j], row.y[k] - row.y[j]
    name = ("left" if dx > 0 else "right") if abs(dx) >= abs(dy) else ("above" if dy > 0 else "below")
    return _plain(_synonym(lang.relations[name], row.u[k][12], spec.synonyms), "relation")


def _place(row: _Row, k: int, lang: lexicon.Language) -> list[Word]:
    column, line = min(int(row.x[k] * 3), 2), min(int(row.y[k] * 3), 2)
    return _plain(lang.places[lexicon.PLACES[3 * line + column]], "place", k)


def _setting(row: _Row, lang: lexicon.Language) -> list[Word]:
    texts = [
        lang.grounds[s.removeprefix("ground ")]
        if s.startswith("ground ")
        else {"night": lang.night, "line": lang.line}[s]
        for s in row.setting
    ]
    return _plain(" ".join(texts), "setting")


def _enumeration(parts: list[list[Word]], lang: lexicon.Language) -> list[Word]:
    """a, b and c; the comma is glued to the word before it."""
    words: list[Word] = []
    for i, part in enumerate(parts):
        if 0 < i < len(parts) - 1:
            words[-1] = (words[-1][0] + ",", *words[-1][1:])
        elif i:
            words += _plain(lang.conjunction, "and")
        words += part
    return words


def _full(row: _Row, spec: CaptionSpec, lang: lexicon.Language) -> list[Word]:
    first, others = _noun_phrase(row, 0, spec, lang), range(1, len(row.shapes))
    if not others:
        first += _place(row, 0, lang) if spec.place else []
    parts = [_relation(row, 0, k, spec, lang) + _noun_phrase(row, k, spec, lang, after=True) for k in others]
    return first + _enumeration(parts, lang) + _setting(row, lang)


def _list(row: _Row, spec: CaptionSpec, lang: lexicon.Language) -> list[Word]:
    parts = [_noun_phrase(row, k, spec, lang) for k in range(len(row.shapes))]
    if len(parts) == 1 and spec.place:
        parts[0] += _place(row, 0, lang)
    return _enumeration(parts, lang) + _setting(row, lang)


def _partial(row: _Row, spec: CaptionSpec, lang: lexicon.Language) -> list[Word]:
    sure = int(row.u[-1][15] * len(row.shapes))
    described = [k for k in range(len(row.shapes)) if k == sure or row.u[k][11] < 0.5]
    words = _enumeration([_noun_phrase(row, k, spec, lang, partly=True) for k in described], lang)
    return words + (_setting(row, lang) if row.u[-1][11] < 0.5 else [])


def _long(row: _Row, spec: CaptionSpec, lang: lexicon.Language) -> list[Word]:
    own, count = row.u[-1], len(row.shapes)
    words = _plain(lang.opening[int(own[13] * len(lang.opening))], "filler")
    for k in range(count):
        words += _plain(lang.there_is, "filler") + _noun_phrase(row, k, spec, lang) + _place(row, k, lang)
        words += [(".", -1, "stop")]
    for j in range(count):
        for k in range(j + 1, count):
            # The verb "is" is left out, as captions do: it would have to be inflected in each language.
            words += _noun_phrase(row, j, spec, lang) + _relation(row, j, k, spec, lang)
            words += [*_noun_phrase(row, k, spec, lang, after=True), (".", -1, "stop")]
    if row.setting:
        words += [*_setting(row, lang), (".", -1, "stop")]
    return words + _plain(lang.closing[int(own[14] * len(lang.closing))], "filler")


_FORMS: dict[str, Callable[[_Row, CaptionSpec, lexicon.Language], list[Word]]] = {
    "full": _full, "list": _list, "partial": _partial, "long": _long,
}  # fmt: skip


def noise_kinds(scenes: Scenes, noise: Noise) -> Int[np.ndarray, "n"]:
    """Which captions are false and how: an index of NOISE_KINDS a scene."""
    u = uniform(scenes.key, "noise", 2)
    weights = np.array([noise.other, noise.generic, noise.attribute], np.float64)
    ends = np.cumsum(weights) / max(weights.sum(), 1e-12)
    kind = 1 + np.minimum((u[:, 1, None] >= ends).sum(1), 2)
    return np.where(u[:, 0] < noise.rate, kind, CLEAN).astype(np.int64)


def generic(scenes: Scenes, language: str = "en") -> list[str]:
    """Sentences without information about the scene: "stock photo"."""
    choices = lexicon.language(language).generic
    return [choices[int(v * len(choices))] for v in uniform(scenes.key, "generic")]


def falsified(scenes: Scenes, spec: CaptionSpec, world: WorldSpec, variant: int = 0) -> Scenes:
    """The scenes with one attribute changed that the caption of this variant mentions, to a value of `world` that makes it false.

    Changes colour, shape or size; the new value is one that no object of the scene has, where there is one. A caption whose mentioned
    attributes have one possible value each stays true: give the world a second shape or colour.
    """
    vocabulary = {
        "colour": [COLOURS.index(c) for c in world.colours],
        "shape": [SHAPES.index(s) for s in world.shapes],
        "size": [SIZES.index(s) for s in world.sizes],
    }
    u = uniform(scenes.key, f"falsified {variant}", 2).tolist()
    new: dict[str, Any] = {role: getattr(scenes, role).copy() for role in vocabulary}
    for i, caption in enumerate(grounded(scenes, spec, spec.languages[0], variant)):
        mentioned = sorted({(r, k) for r, k in zip(caption.roles, caption.objects) if r in vocabulary})
        present = {role: {*getattr(scenes, role)[i][scenes.valid[i]].tolist()} for role in vocabulary}
        own = {(role, k): {int(getattr(scenes, role)[i, k])} for role, k in mentioned}
        for excluded in ({place: present[place[0]] for place in mentioned}, own):
            choices = {p: [v for v in vocabulary[p[0]] if v not in excluded[p]] for p in mentioned}
            places = [p for p in mentioned if choices[p]]
            if places:
                role, k = places[int(u[i][0] * len(places))]
                new[role][i, k] = choices[role, k][int(u[i][1] * len(choices[role, k]))]
                break
    return scenes._replace(**new)


def hard_negatives(
    scenes: Scenes, spec: CaptionSpec, world: WorldSpec, language: str = "en", variant: int = 0
) -> tuple[list[str], Bool[np.ndarray, "n"]]:
    """Captions that use the scene's own words and are false, and which of them are true swaps.

    "red square, blue circle" becomes "blue square, red circle" (`world.swapped`); where no two objects can swap colours, or where the
    caption does not mention them, one attribute is wrong instead (`falsified`).
    """
    right = captions(scenes, spec, language, variant)
    other, done = swapped(scenes)
    texts = captions(other, spec, language, variant)
    done = done & np.array([a != b for a, b in zip(right, texts)], bool)
    rows = np.nonzero(~done)[0]
    wrong = captions(falsified(take(scenes, rows), spec, world, variant), spec, language, variant)
    for i, text in zip(rows.tolist(), wrong):
        texts[i] = text
    return texts, done


__all__ = [
    "ATTRIBUTE", "ATTRIBUTES", "CLEAN", "GENERIC", "HOT", "NOISE_KINDS", "OTHER", "Caption", "CaptionSpec", "Noise",
    "captions", "falsified", "generic", "grounded", "hard_negatives", "noise_kinds",
]  # fmt: skip
