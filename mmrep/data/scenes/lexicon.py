"""Words and noun phrases of each caption language. Every entry lists synonyms, the plain word first; no word names two concepts.

Nouns are "word/gender" where the language has genders. Adjectives: English one form; German a stem, to which the ending of the
mixed declension is added ("!" = not declined); French and Spanish "masculine/feminine" or one form for both.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from mmrep.data.scenes.world import COLOURS, GROUNDS, SHAPES, SIZES
from mmrep.errors import ConfigError, near

RELATIONS = ("left", "right", "above", "below")
PLACES = tuple(f"{row} {column}" for row in ("top", "middle", "bottom") for column in ("left", "centre", "right"))
ADJECTIVES = (*SIZES, "hot", "cold", "striped", "dotted", "checked", "shiny", "matte", *COLOURS)

Words = list[tuple[str, str]]
"""Words of a phrase, each with its role: article, shape, size, colour, texture, material, temperature."""

Phrase = Callable[[str, Sequence[tuple[str, str]], bool], Words]
"""(noun, (role, adjective) pairs, after a relation?) -> words. Adjectives come in the order size ... colour."""


class Language(NamedTuple):
    phrase: Phrase
    nouns: Mapping[str, tuple[str, ...]]
    adjectives: Mapping[str, tuple[str, ...]]
    relations: Mapping[str, tuple[str, ...]]
    places: Mapping[str, str]
    grounds: Mapping[str, str]
    night: str
    line: str
    conjunction: str
    opening: tuple[str, ...]
    there_is: str
    closing: tuple[str, ...]
    generic: tuple[str, ...]


def _table(text: str) -> dict[str, tuple[str, ...]]:
    """Lines "concept: word, synonym; concept: ..." as a dict."""
    entries = (entry.split(":") for entry in text.replace("\n", " ").split(";") if entry.strip())
    return {concept.strip(): tuple(w.strip() for w in words.split(",")) for concept, words in entries}


def _single(text: str) -> dict[str, str]:
    return {concept: words[0] for concept, words in _table(text).items()}


def _english(noun: str, adjectives: Sequence[tuple[str, str]], after: bool) -> Words:
    words = [(word, role) for role, word in adjectives] + [(noun, "shape")]
    return [("an" if words[0][0][0] in "aeiou" else "a", "article"), *words]


_EIN = {"m": ("ein", "er"), "f": ("eine", "e"), "n": ("ein", "es")}
_EINEM = {"m": ("einem", "en"), "f": ("einer", "en"), "n": ("einem", "en")}


def _german(noun: str, adjectives: Sequence[tuple[str, str]], after: bool) -> Words:
    # Every German relation used here governs the dative.
    word, gender = noun.split("/")
    article, ending = (_EINEM if after else _EIN)[gender]
    declined = [(a[:-1] if a.endswith("!") else a + ending, role) for role, a in adjectives]
    return [(article, "article"), *declined, (word, "shape")]


def _agree(adjective: str, gender: str) -> str:
    forms = adjective.split("/")
    return forms[-1] if gender == "f" else forms[0]


def _french(noun: str, adjectives: Sequence[tuple[str, str]], after: bool) -> Words:
    word, gender = noun.split("/")
    agreed = [(_agree(a, gender), role) for role, a in adjectives]
    before = [w for w in agreed if w[1] == "size"]
    article = {"m": "un", "f": "une"}[gender]
    return [(f"d'{article}" if after else article, "article"), *before, (word, "shape"), *_behind(agreed)]


def _behind(agreed: Words) -> Words:
    return [w for w in agreed[::-1] if w[1] != "size"]


def _spanish(noun: str, adjectives: Sequence[tuple[str, str]], after: bool) -> Words:
    word, gender = noun.split("/")
    agreed = [(_agree(a, gender), role) for role, a in adjectives]
    return [({"m": "un", "f": "una"}[gender], "article"), (word, "shape"), *agreed[::-1]]


def _cipher_phrase(noun: str, adjectives: Sequence[tuple[str, str]], after: bool) -> Words:
    return [(noun, "shape"), *((word, role) for role, word in adjectives)]


_ENGLISH = Language(
    phrase=_english,
    nouns=_table("""
        circle: circle, disc; square: square, box; triangle: triangle, wedge; star: star; cross: cross, plus;
        diamond: diamond, rhombus; ring: ring, hoop; heart: heart; hexagon: hexagon; moon: moon, crescent;
        arrow: arrow, pointer; drop: drop, droplet"""),
    adjectives=_table("""
        small: small, little, tiny; medium: medium, mid-sized; big: big, large, huge; hot: hot, warm; cold: cold, chilly;
        striped: striped, banded; dotted: dotted, spotted; checked: checked, chequered; shiny: shiny, glossy; matte: matte, dull;
        red: red, crimson, scarlet; orange: orange, tangerine; yellow: yellow, golden; green: green, emerald;
        blue: blue, azure; purple: purple, violet; cyan: cyan, turquoise; pink: pink, rosy; brown: brown, chestnut;
        white: white, snowy; black: black, inky; grey: grey, ashen"""),
    relations=_table("""
        left: left of, to the left of; right: right of, to the right of; above: above, over; below: below, under, beneath"""),
    places=_single("""
        top left: at the top left; top centre: at the top; top right: at the top right; middle left: at the left;
        middle centre: in the centre; middle right: at the right; bottom left: at the bottom left;
        bottom centre: at the bottom; bottom right: at the bottom right"""),
    grounds=_single("""
        striped: on striped ground; dotted: on dotted ground; checked: on checked ground; wavy: on wavy ground"""),
    night="at night",
    line="as a line drawing",
    conjunction="and",
    opening=("here is a picture to look at .", "this is one of many pictures .", "let us say what can be seen ."),
    there_is="there is",
    closing=("nothing else is to be seen .", "that is all there is in it .", "the rest of the picture is empty ."),
    generic=("stock photo", "free download", "click to enlarge", "new in our shop", "image not available", "best price online"),
)  # fmt: skip

_GERMAN = Language(
    phrase=_german,
    nouns=_table("""
        circle: Kreis/m, Scheibe/f; square: Quadrat/n, Kasten/m; triangle: Dreieck/n; star: Stern/m; cross: Kreuz/n;
        diamond: Raute/f, Rhombus/m; ring: Ring/m, Reif/m; heart: Herz/n; hexagon: Sechseck/n; moon: Mond/m, Sichel/f;
        arrow: Pfeil/m; drop: Tropfen/m"""),
    adjectives=_table("""
        small: klein, winzig; medium: mittelgroß; big: groß, riesig; hot: heiß; cold: kalt; striped: gestreift;
        dotted: gepunktet; checked: kariert; shiny: glänzend; matte: matt; red: rot, scharlachrot; orange: orange!;
        yellow: gelb, golden; green: grün, smaragdgrün; blue: blau, azurblau; purple: lila!, violett;
        cyan: türkis!, cyanfarben; pink: rosa!; brown: braun; white: weiß; black: schwarz; grey: grau"""),
    relations=_table("""
        left: links von, links neben; right: rechts von, rechts neben; above: über, oberhalb von; below: unter, unterhalb von"""),
    places=_single("""
        top left: oben links; top centre: oben; top right: oben rechts; middle left: links am Rand;
        middle centre: in der Mitte; middle right: rechts am Rand; bottom left: unten links; bottom centre: unten;
        bottom right: unten rechts"""),
    grounds=_single("""
        striped: auf gestreiftem Grund; dotted: auf gepunktetem Grund; checked: auf kariertem Grund;
        wavy: auf gewelltem Grund"""),
    night="bei Nacht",
    line="als Strichzeichnung",
    conjunction="und",
    opening=("hier ist ein Bild zum Anschauen .", "das ist eines von vielen Bildern .", "sagen wir , was zu sehen ist ."),
    there_is="da ist",
    closing=("sonst ist nichts zu sehen .", "das ist alles .", "der Rest des Bildes ist leer ."),
    generic=("Symbolbild", "kostenlos herunterladen", "zum Vergrößern klicken", "neu im Laden", "Bild nicht verfügbar"),
)  # fmt: skip

_FRENCH = Language(
    phrase=_french,
    nouns=_table("""
        circle: cercle/m, disque/m; square: carré/m; triangle: triangle/m; star: étoile/f; cross: croix/f;
        diamond: losange/m; ring: anneau/m; heart: cœur/m; hexagon: hexagone/m; moon: lune/f; arrow: flèche/f;
        drop: goutte/f"""),
    adjectives=_table("""
        small: petit/petite; medium: moyen/moyenne; big: grand/grande, gros/grosse; hot: chaud/chaude; cold: froid/froide;
        striped: rayé/rayée; dotted: tacheté/tachetée; checked: quadrillé/quadrillée; shiny: brillant/brillante;
        matte: mat/mate; red: rouge, écarlate; orange: orange; yellow: jaune, doré/dorée; green: vert/verte, émeraude;
        blue: bleu/bleue, azur; purple: violet/violette, pourpre; cyan: cyan, turquoise; pink: rose; brown: brun/brune, marron;
        white: blanc/blanche; black: noir/noire; grey: gris/grise"""),
    relations=_table("left: à gauche; right: à droite; above: au-dessus; below: au-dessous, en dessous"),
    places=_single("""
        top left: en haut à gauche; top centre: en haut; top right: en haut à droite; middle left: au bord gauche;
        middle centre: au centre; middle right: au bord droit; bottom left: en bas à gauche; bottom centre: en bas;
        bottom right: en bas à droite"""),
    grounds=_single("""
        striped: sur fond rayé; dotted: sur fond tacheté; checked: sur fond quadrillé; wavy: sur fond ondulé"""),
    night="de nuit",
    line="en dessin au trait",
    conjunction="et",
    opening=("voici une image à regarder .", "c'est une image parmi tant d'autres .", "disons ce que l'on voit ."),
    there_is="il y a",
    closing=("on ne voit rien d'autre .", "c'est tout .", "le reste de l'image est vide ."),
    generic=("image libre de droits", "téléchargement gratuit", "cliquez pour agrandir", "nouveau en magasin"),
)  # fmt: skip

_SPANISH = Language(
    phrase=_spanish,
    nouns=_table("""
        circle: círculo/m, disco/m; square: cuadrado/m; triangle: triángulo/m; star: estrella/f; cross: cruz/f;
        diamond: rombo/m; ring: anillo/m, aro/m; heart: corazón/m; hexagon: hexágono/m; moon: luna/f; arrow: flecha/f;
        drop: gota/f"""),
    adjectives=_table("""
        small: pequeño/pequeña, diminuto/diminuta; medium: mediano/mediana; big: grande, enorme; hot: caliente;
        cold: frío/fría; striped: rayado/rayada; dotted: punteado/punteada; checked: cuadriculado/cuadriculada;
        shiny: brillante; matte: mate; red: rojo/roja, escarlata; orange: naranja, anaranjado/anaranjada;
        yellow: amarillo/amarilla, dorado/dorada; green: verde, esmeralda; blue: azul, celeste;
        purple: morado/morada, violeta; cyan: cian, turquesa; pink: rosa, rosado/rosada; brown: marrón; white: blanco/blanca;
        black: negro/negra; grey: gris"""),
    relations=_table("""
        left: a la izquierda de; right: a la derecha de; above: encima de, por encima de; below: debajo de, por debajo de"""),
    places=_single("""
        top left: arriba a la izquierda; top centre: arriba; top right: arriba a la derecha; middle left: en el borde izquierdo;
        middle centre: en el centro; middle right: en el borde derecho; bottom left: abajo a la izquierda;
        bottom centre: abajo; bottom right: abajo a la derecha"""),
    grounds=_single("""
        striped: sobre fondo rayado; dotted: sobre fondo punteado; checked: sobre fondo cuadriculado;
        wavy: sobre fondo ondulado"""),
    night="de noche",
    line="en dibujo de línea",
    conjunction="y",
    opening=("aquí hay una imagen para mirar .", "esta es una de muchas imágenes .", "digamos lo que se ve ."),
    there_is="hay",
    closing=("no se ve nada más .", "eso es todo .", "el resto de la imagen está vacío ."),
    generic=("imagen de archivo", "descarga gratuita", "clic para ampliar", "nuevo en la tienda"),
)  # fmt: skip

_SPOKEN = {"en": _ENGLISH, "de": _GERMAN, "fr": _FRENCH, "es": _SPANISH}
CIPHERS = tuple(f"cipher{i}" for i in range(16))
LANGUAGES = (*_SPOKEN, *CIPHERS)

_CONCEPTS = (
    *SHAPES, *ADJECTIVES, *RELATIONS, *PLACES, *(f"ground {g}" for g in GROUNDS), "night", "line", "and",
    "opening", "there is", "closing", "generic", "generic too",
)  # fmt: skip


def language(name: str) -> Language:
    """English "en", German "de", French "fr", Spanish "es", and 16 made-up ones: "cipher0" ... "cipher15".

    A cipher has a private word for every concept (no two ciphers share a word), nouns before adjectives, and no articles.
    Raises ConfigError for any other name.
    """
    if name in _SPOKEN:
        return _SPOKEN[name]
    if name not in LANGUAGES:
        raise ConfigError(f"caption.languages has {name!r}, which is not known{near(name, LANGUAGES)}")
    word = {concept: _cipher_word(i * len(CIPHERS) + CIPHERS.index(name)) for i, concept in enumerate(_CONCEPTS)}
    return Language(
        phrase=_cipher_phrase,
        nouns={s: (word[s],) for s in SHAPES},
        adjectives={a: (word[a],) for a in ADJECTIVES},
        relations={r: (word[r],) for r in RELATIONS},
        places={p: word[p] for p in PLACES},
        grounds={g: word[f"ground {g}"] for g in GROUNDS},
        night=word["night"],
        line=word["line"],
        conjunction=word["and"],
        opening=(f"{word['opening']} .",),
        there_is=word["there is"],
        closing=(f"{word['closing']} .",),
        generic=(word["generic"], word["generic too"]),
    )


def _cipher_word(number: int) -> str:
    """Three syllables; the odd multiplier makes numbers below 2^18 and words one to one."""
    bits = number * 0x9E3779B1 % 2**18
    syllables = [(bits >> shift) & 63 for shift in (0, 6, 12)]
    return "".join("bdfghjklmnprstvz"[s >> 2] + "aeio"[s & 3] for s in syllables)


def noun(language_name: str, shape: str) -> str:
    """The plain word for a shape: noun("de", "heart") = "Herz"."""
    return language(language_name).nouns[shape][0].split("/")[0]
