import re

import numpy as np
import pytest

from mmrep.data.scenes import lexicon
from mmrep.data.scenes.captions import (
    ATTRIBUTES,
    NOISE_KINDS,
    CaptionSpec,
    Noise,
    captions,
    falsified,
    generic,
    grounded,
    hard_negatives,
    noise_kinds,
)  # fmt: skip
from mmrep.data.scenes.world import COLOURS, GROUNDS, SHAPES, SIZES, WorldSpec, domain, sample, take
from mmrep.errors import ConfigError

ENGLISH = lexicon.language("en")
CONCEPT = {
    word: (role, concept)
    for role, table in (("shape", ENGLISH.nouns), ("adjective", ENGLISH.adjectives))
    for concept, words in table.items()
    for word in words
}
RELATION = {word: name for name, words in ENGLISH.relations.items() for word in words}


def named_objects(text):
    """The (size, colour, shape) of every noun phrase of an English caption, None where it is absent."""
    objects, size, colour = [], None, None
    for word in re.findall(r"[\w-]+", text):
        role, concept = CONCEPT.get(word, ("", ""))
        if concept in SIZES:
            size = concept
        elif concept in COLOURS:
            colour = concept
        elif role == "shape":
            objects.append((size, colour, concept))
            size = colour = None
    return objects


def true_objects(s, i):
    return [(SIZES[s.size[i, k]], COLOURS[s.colour[i, k]], SHAPES[s.shape[i, k]]) for k in np.nonzero(s.valid[i])[0]]


def matches(named, true):
    return all(a is None or a == b for a, b in zip(named, true))


@pytest.mark.parametrize("synonyms", [0.0, 0.7])
def test_full_captions_are_true_to_the_scene(synonyms):
    s = sample(0, np.arange(500), WorldSpec(shapes=SHAPES, colours=COLOURS, sizes=SIZES))
    words = "|".join(sorted((re.escape(w) for w in RELATION), key=len, reverse=True))
    for i, text in enumerate(captions(s, CaptionSpec(synonyms=synonyms))):
        true = true_objects(s, i)
        assert named_objects(text) == true, text
        relations = [RELATION[w] for w in re.findall(rf"\b({words}) an? ", text)]
        assert len(relations) == len(true) - 1, text
        for k, relation in enumerate(relations, 1):
            dx, dy = s.x[i, k] - s.x[i, 0], s.y[i, k] - s.y[i, 0]
            side = {"left": dx, "right": -dx, "above": dy, "below": -dy}[relation]
            assert side > 0 and side >= max(abs(dx), abs(dy)) - 1e-12
        if len(true) == 1:
            assert ("top" in text) == (s.y[i, 0] < 1 / 3) and ("right" in text) == (s.x[i, 0] >= 2 / 3)


@pytest.mark.parametrize("form", ["list", "partial", "long"])
def test_other_forms_are_true_to_the_scene(form):
    s = sample(1, np.arange(300), WorldSpec())
    described, silent = 0, 0
    for i, text in enumerate(captions(s, CaptionSpec(form=form))):
        true, named = true_objects(s, i), named_objects(text)
        assert named and all(any(matches(a, b) for b in true) for a in named), text
        if form == "list":
            assert named == true
        if form == "long":
            assert named[: len(true)] == true and len(text.split()) > 15
        described, silent = described + len(named), silent + sum(a[0] is None for a in named)
    if form == "partial":
        assert 0.6 < described / s.valid.sum() < 0.9 and 0.4 < silent / described < 0.6


def test_golden_sentences():
    s = sample(0, np.arange(8), domain("texture"))
    texts = {name: captions(s, CaptionSpec(), name)[1] for name in ("en", "de", "fr", "es")}
    assert texts == {
        "en": "a big purple drop above a big orange moon on checked ground",
        "de": "ein großer lila Tropfen über einem großen orange Mond auf kariertem Grund",
        "fr": "une grande goutte violette au-dessus d'une grande lune orange sur fond quadrillé",
        "es": "una gota morada grande encima de una luna naranja grande sobre fondo cuadriculado",
    }
    for word in ("night", "Nacht", "nuit", "noche"):
        assert sum(word in captions(take(s, np.array([0]))._replace(light=np.array([1])), CaptionSpec(), lang)[0]
                   for lang in texts) == 1  # fmt: skip


def test_german_agrees_in_gender_and_case():
    phrase = lexicon.language("de").phrase
    for noun, nominative, dative in [
        ("Stern/m", "ein roter Stern", "einem roten Stern"),
        ("Raute/f", "eine rote Raute", "einer roten Raute"),
        ("Herz/n", "ein rotes Herz", "einem roten Herz"),
    ]:
        for after, expected in ((False, nominative), (True, dative)):
            assert " ".join(w for w, _ in phrase(noun, [("colour", "rot")], after)) == expected


def test_english_article_follows_the_next_word():
    texts = captions(sample(0, np.arange(400), WorldSpec(shapes=SHAPES)), CaptionSpec(attributes=("colour",)))
    articles = re.findall(r"\b(an?) (\w)", " ".join(texts))
    assert {a for a, first in articles if first in "aeiou"} == {"an"}
    assert {a for a, first in articles if first not in "aeiou"} == {"a"}


@pytest.mark.parametrize("name", ["en", "de", "fr", "es", "cipher3"])
def test_no_word_names_two_concepts_and_every_concept_has_a_word(name):
    lang = lexicon.language(name)
    assert set(lang.nouns) == set(SHAPES) and set(lang.adjectives) == set(lexicon.ADJECTIVES)
    assert set(lang.places) == set(lexicon.PLACES) and set(GROUNDS[1:]) <= set(lang.grounds)
    forms = [
        (form, concept)
        for table in (lang.nouns, lang.adjectives, lang.relations)
        for concept, words in table.items()
        for word in words
        for form in {*word.removesuffix("!").split("/")} - {"m", "f", "n"}
    ]
    assert len({f for f, _ in forms}) == len(forms)


def test_ciphers_share_no_word_and_translate_one_to_one():
    vocabularies = [
        {w for table in (lang.nouns, lang.adjectives) for (w,) in table.values()}
        for lang in (lexicon.language(c) for c in lexicon.CIPHERS)
    ]
    assert (
        len(set().union(*vocabularies)) == sum(map(len, vocabularies)) == 16 * (len(SHAPES) + len(lexicon.ADJECTIVES))
    )
    assert (
        lexicon.noun("cipher0", "heart") in captions(sample(0, np.arange(1), WorldSpec()), CaptionSpec(), "cipher0")[0]
    )
    assert lexicon.noun("de", "heart") == "Herz"
    s = sample(0, np.arange(300), WorldSpec())
    en, xx = captions(s, CaptionSpec()), captions(s, CaptionSpec(), "cipher1")
    assert len(set(en)) == len(set(xx)) == len(set(zip(en, xx)))


@pytest.mark.parametrize("language", ["en", "de", "fr", "es", "cipher2"])
@pytest.mark.parametrize("form", ["full", "list", "partial", "long"])
def test_grounding_points_at_the_object_that_the_word_names(language, form):
    s = sample(3, np.arange(60), WorldSpec(textures=("plain", "striped")))
    lang, spec = lexicon.language(language), CaptionSpec(form=form, synonyms=0.5, attributes=ATTRIBUTES)
    assert [c.text for c in grounded(s, spec, language)] == captions(s, spec, language)
    for i, c in enumerate(grounded(s, spec, language)):
        words = c.text.split(" ")
        assert len(words) == len(c.objects) == len(c.roles)
        nouns = 0
        for word, k, role in zip(words, c.objects, c.roles):
            if role == "shape":
                names = [w.split("/")[0] for w in lang.nouns[SHAPES[s.shape[i, k]]]]
                assert word.rstrip(",") in names
                nouns += 1
            elif role == "colour":
                stems = [re.split("[/!]", w)[0] for w in lang.adjectives[COLOURS[s.colour[i, k]]]]
                assert any(word.rstrip(",")[:3] == stem[:3] for stem in stems)
            elif role in ("relation", "setting", "filler", "stop", "and"):
                assert k == -1
        assert nouns >= 1


def test_captions_are_pure_per_scene_and_variants_differ():
    spec = CaptionSpec(form="partial", synonyms=0.5)
    s = sample(0, np.arange(200), WorldSpec())
    rows = np.array([199, 4, 50])
    assert captions(take(s, rows), spec) == [captions(s, spec)[i] for i in rows]
    wider = sample(0, np.arange(200), WorldSpec(n_objects=(1, 3)))
    assert captions(wider, spec) == captions(s, spec)
    same = np.mean([a == b for a, b in zip(captions(s, spec), captions(s, spec, variant=1))])
    assert same < 0.3
    plain = CaptionSpec()
    assert captions(s, plain) == captions(s, plain, variant=1)


def test_synonyms_come_at_their_rate():
    s = sample(0, np.arange(3000), WorldSpec(colours=("red",), sizes=("big",), shapes=("star",), n_objects=(1, 1)))
    words = [t.split()[2] for t in captions(s, CaptionSpec(synonyms=0.4))]
    assert {*words} == {"red", "crimson", "scarlet"}
    assert abs(words.count("red") / 3000 - 0.6) < 0.03 and abs(words.count("crimson") / 3000 - 0.2) < 0.03


def test_noise_kinds_within_binomial_bounds():
    n, noise = 20_000, Noise(0.5)
    kinds = noise_kinds(sample(0, np.arange(n), WorldSpec(n_objects=(1, 1))), noise)
    for kind, share in zip(range(4), (0.5, 0.25, 0.125, 0.125)):
        assert abs((kinds == kind).mean() - share) < 4 * np.sqrt(share * (1 - share) / n), NOISE_KINDS[kind]
    assert not noise_kinds(sample(0, np.arange(9), WorldSpec()), Noise()).any()
    only = noise_kinds(sample(0, np.arange(100), WorldSpec()), Noise(1.0, other=0.0, generic=1.0, attribute=0.0))
    assert (only == NOISE_KINDS.index("generic")).all()


@pytest.mark.parametrize("form", ["full", "list", "partial"])
def test_falsified_captions_are_false_in_one_attribute(form):
    world, spec = WorldSpec(), CaptionSpec(form=form)
    s = sample(5, np.arange(500), world)
    wrong = falsified(s, spec, world)
    changed = sum((getattr(s, r) != getattr(wrong, r)).astype(int) for r in ("shape", "colour", "size"))
    assert (changed.sum(1) == 1).all()
    for i, text in enumerate(captions(wrong, spec)):
        true = true_objects(s, i)
        assert any(not any(matches(a, b) for b in true) for a in named_objects(text)), text
    assert {"stock photo"} < set(generic(s)) <= set(ENGLISH.generic)


def test_hard_negatives_swap_colours_and_are_false():
    world = WorldSpec(n_objects=(2, 3), distinct="each")
    s = sample(0, np.arange(500), world)
    right = captions(s, CaptionSpec())
    texts, done = hard_negatives(s, CaptionSpec(), world)
    assert done.all()
    for i, (a, b) in enumerate(zip(right, texts)):
        assert a != b and sorted(a.replace("an ", "a ").split()) == sorted(b.replace("an ", "a ").split())
        assert sum(any(matches(o, t) for t in true_objects(s, i)) for o in named_objects(b)) == s.valid[i].sum() - 2
    lone = sample(0, np.arange(200), WorldSpec(n_objects=(1, 1)))
    texts, done = hard_negatives(lone, CaptionSpec(), world)
    assert not done.any() and all(a != b for a, b in zip(captions(lone, CaptionSpec()), texts))
    part = CaptionSpec(form="partial")
    texts, done = hard_negatives(s, part, world)
    assert 0 < done.mean() < 1
    for i, text in enumerate(texts):
        assert any(not any(matches(o, t) for t in true_objects(s, i)) for o in named_objects(text))


@pytest.mark.parametrize(
    "make, sentence",
    [
        (lambda: CaptionSpec(languages=("english",)), "caption.languages"),
        (lambda: CaptionSpec(languages=()), "caption.languages is empty"),
        (lambda: CaptionSpec(attributes=("color",)), "did you mean 'colour'"),
        (lambda: CaptionSpec(synonyms=2.0), "caption.synonyms"),
        (lambda: CaptionSpec(variants=0), "caption.variants"),
        (lambda: Noise(1.5), "noise.rate"),
        (lambda: Noise(0.5, 0.0, 0.0, 0.0), "not all 0"),
    ],
)
def test_a_wrong_spec_is_refused_with_its_field(make, sentence):
    with pytest.raises(ConfigError, match=sentence):
        make()
