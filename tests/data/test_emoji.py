"""A twentieth of the set, prepared once for the file; the family rule is tested on all of it."""

import json
from collections import Counter
from functools import cache

import numpy as np
import pytest

from mmrep.config import from_json, to_json
from mmrep.data import emoji
from mmrep.data.emoji import Emoji, builder, concepts, espeak
from mmrep.errors import ConfigError, DataError


@cache
def by_name():
    return {c.names["en"]: c for c in concepts.concepts()}


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Emoji:
    return Emoji(limit=60, folder=str(tmp_path_factory.mktemp("emoji")))


@pytest.mark.parametrize(
    "family",
    [
        ("judge", "man judge", "woman judge"),
        ("person", "man", "woman", "boy", "girl", "child", "man red hair", "woman beard", "person blond hair"),
        ("older person", "old man", "old woman"),
        ("merman", "mermaid", "merperson"),
        ("person walking", "woman walking facing right", "man walking"),
        ("left-facing fist", "right-facing fist", "raised fist", "oncoming fist"),
        ("backhand index pointing left", "backhand index pointing up"),
        ("kiss", "kiss man man"),
        ("family", "family man woman girl boy", "family adult adult child"),
        ("keycap 0", "keycap #"),
        ("twelve o’clock", "four-thirty"),
        ("full moon", "crescent moon", "new moon face"),
        ("up arrow", "BACK arrow", "counterclockwise arrows button"),
        ("Japanese here button", "Japanese bargain button"),
        ("dog face", "dog"),
        ("taxi", "oncoming taxi"),
        ("white small square", "white medium-small square", "white large square"),
        ("Santa Claus", "Mrs. Claus", "Mx Claus"),
    ],
)
def test_variants_of_a_concept_are_one_family(family):
    assert len({by_name()[name].family for name in family}) == 1


def test_different_concepts_are_different_families():
    names = ["dog", "cat", "judge", "student", "alarm clock", "moon cake", "red heart", "bow and arrow", "rainbow flag"]
    assert len({by_name()[name].family for name in names}) == len(names)


def test_flags_are_split_by_region():
    assert by_name()["Germany"].family == "flag DE" and by_name()["England"].family == "flag gbeng"
    assert by_name()["Germany"].kind == "flag" and by_name()["rainbow flag"].kind == "main"


def test_counts_of_the_whole_set():
    assert len(concepts.concepts()) == 1898
    assert Counter(c.kind for c in concepts.concepts()) == {"main": 1467, "variant": 170, "flag": 261}
    sides = Counter(concepts.side(c.family) for c in concepts.concepts() if c.kind == "main")
    assert sides == {"train": 1200, "val": 145, "test": 122}
    assert all(set(c.names) == set(emoji.LANGUAGES) and all(c.names.values()) for c in concepts.concepts())
    assert len(by_name()) == len(concepts.concepts()) == len({c.id for c in concepts.concepts()})


def test_every_language_names_a_test_concept_once():
    test = [c for c in concepts.concepts() if c.kind == "main" and concepts.side(c.family) == "test"]
    for language in emoji.LANGUAGES:
        assert len({c.names[language] for c in test}) == len(test), language


def test_skin_tones_belong_to_their_concept():
    tones = [f"{c.names['en']}: {path.stem}" for c in concepts.concepts() for path in c.tones]
    assert len(tones) == 1785 == len(set(tones))
    assert len(by_name()["judge"].tones) == 5 and not by_name()["dog"].tones
    assert not any("skin tone" in name for name in by_name())


def test_no_family_and_no_drawing_is_on_two_sides(source):
    sides, drawings = {}, {}
    for split in ("train", "val", "test", "flags_train", "flags_val", "flags_test"):
        side = split.removeprefix("flags_")
        for record in source.open(split):
            assert sides.setdefault(record["family"], side) == side
            for picture in record["images"]:
                assert drawings.setdefault(picture.tobytes(), side) == side
    assert len(sides) > 50


def test_names_of_evaluation_splits_are_unique_and_without_variants(source):
    for split in ("val_with_flags", "test_with_flags"):
        names = [r["names"]["en"] for r in source.open(split)]
        assert len(set(names)) == len(names) > 0
        assert all(by_name()[name].kind != "variant" for name in names)


def test_options_add_training_records_only(source):
    import dataclasses

    plain = dataclasses.replace(source, variants=False)
    flags = dataclasses.replace(source, flags=True)
    assert len(plain.open("train")) < len(source.open("train")) < len(flags.open("train"))
    assert len(plain.open("test")) == len(flags.open("test"))


def test_speech_is_heard_and_as_long_as_its_name(source):
    for split, clips in (("train", builder.TRAIN_CLIPS), ("test", builder.EVAL_CLIPS)):
        for record in source.open(split):
            assert list(record["clips"]) == list(clips)
            for clip, wave in record["clips"].items():
                name = record["names"][clip.split("_")[0]]
                assert wave.dtype == np.int16 and np.abs(wave.astype(int)).max() > 2000, (name, clip)
                assert 0.15 < len(wave) / 16_000 <= 2.5 and len(wave) / 16_000 < 0.5 + 0.25 * len(name), (name, clip)


def test_japanese_and_mandarin_are_not_spoken():
    languages = {clip.split("_")[0] for clip in builder.EVAL_CLIPS}
    assert not languages & {"ja", "zh"} and len(languages) == 12
    assert builder.EVAL_CLIPS["en_unseen_voice"] not in builder.TRAIN_CLIPS.values()


def test_the_evaluation_view_is_english_and_fixed(source):
    record = source.open("test")[0]
    view = source.view(record, None)
    assert view["text"] == record["names"]["en"] == view["text_en"]
    assert view["image"].shape == (64, 64, 3) and view["image"].dtype == np.uint8
    assert (view["speech"] == view["speech_en"]).all() and len(view["speech"]) <= 24_000
    assert {f"text_{language}" for language in emoji.LANGUAGES} <= set(view)
    assert {"speech_en_unseen_voice", "speech_de", "speech_pt"} <= set(view)
    assert 0 <= view["category"] < len(emoji.CATEGORIES)


def test_training_views_follow_the_key_and_never_show_what_is_held_out(source):
    record = next(r for r in source.open("train") if len(r["images"]) > 1)
    same = [source.view(record, np.random.default_rng(7)) for _ in range(2)]
    assert same[0]["text"] == same[1]["text"] and (same[0]["speech"] == same[1]["speech"]).all()
    views = [source.view(record, np.random.default_rng(i)) for i in range(400)]
    texts = Counter(v["text"] for v in views)
    held_out = {record["names"][language] for language in source.unseen_languages} - {
        record["names"][language] for language in source.languages
    }
    assert source.unseen_languages == ("pt", "id") and not held_out & set(texts)
    assert not any(f"text_{language}" in v for v in views for language in source.unseen_languages)
    assert not any("unseen" in key for v in views for key in v)
    assert 0.4 < texts[record["names"]["en"]] / len(views) < 0.65
    assert len({v["image"].tobytes() for v in views}) == len(record["images"])
    assert len({v["speech"].tobytes() for v in views}) == 6  # three English voices, de, fr, es


def test_languages_match_where_asked(source):
    import dataclasses

    matched = dataclasses.replace(source, match_language=True, languages=("en", "de"), english=0.3)
    record = source.open("train")[0]
    for i in range(50):
        view = matched.view(record, np.random.default_rng(i))
        if view["text"] == record["names"]["de"]:
            assert (view["speech"] == view["speech_de"]).all()


def test_keywords_are_added_only_in_training(source):
    import dataclasses

    more = dataclasses.replace(source, keywords=1.0)
    record = next(r for r in source.open("train") if len(r["keywords"]) > 2)
    text = more.view(record, np.random.default_rng(0))["text"]
    assert text.startswith(record["names"]["en"]) and len(text) > len(record["names"]["en"])
    assert more.view(record, None)["text"] == record["names"]["en"]


def test_tokenizer_texts_are_of_the_training_languages(source):
    texts = list(source.texts("train"))
    assert len(texts) == 12 * len(source.open("train")) and all(texts)


def test_a_second_preparation_gives_the_same_bytes(source, tmp_path):
    from dataclasses import replace

    again = replace(source, folder=str(tmp_path))
    for a, b in zip(source.open("test_with_flags"), again.open("test_with_flags"), strict=True):
        assert a["names"] == b["names"] and (a["images"] == b["images"]).all()
        assert all(np.array_equal(a["clips"][c], b["clips"][c]) for c in a["clips"])


def test_resampling_keeps_the_voice_and_drops_what_16khz_cannot_hold():
    t = np.arange(22_050) / 22_050
    for hertz, gain in ((200, 1.0), (1000, 1.0), (5000, 1.0), (9500, 0.0)):
        wave = espeak.resample((10_000 * np.sin(2 * np.pi * hertz * t)).astype(np.int16)).astype(float)
        expected = gain * 10_000 * np.sin(2 * np.pi * hertz * np.arange(16_000) / 16_000)
        assert len(wave) == 16_000 and np.abs(wave - expected)[300:-300].max() < 60
    assert len(espeak.resample(np.zeros(0, np.int16))) == 0


def test_errors_name_the_field_and_the_near_miss(source):
    with pytest.raises(DataError, match="did you mean 'train'"):
        source.open("trian")
    with pytest.raises(ConfigError, match=r"emoji\.speech_languages has 'ja'"):
        Emoji(speech_languages=("ja",))
    with pytest.raises(ConfigError, match=r"emoji\.english is 2"):
        Emoji(english=2.0)
    with pytest.raises(RuntimeError, match="no such voice"):
        espeak.speak([("xx-none", "hello")])


def test_the_source_serialises(source):
    assert from_json(json.loads(json.dumps(to_json(source)))) == source
