"""Tux Paint's stamps: its layout, made of a few tiny files, and the split that keeps copies together."""

import json

import numpy as np
import pytest
import soundfile
from PIL import Image

from mmrep.config import from_json, to_json
from mmrep.data import stamps
from mmrep.data.stamps import TuxPaint, captions, difference_hash, plain
from mmrep.errors import ConfigError, DataError


def stamp(root, name, english, seed=0, languages=("de", "fr"), spoken=(), picture=True):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    other = "".join(f"{k}.utf8={k} {english}\n" for k in languages)
    path.with_suffix(".txt").write_text(f"{english}\n{other}", encoding="utf-8")
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 24, 4), np.uint8)
    pixels[:2, :, 3] = 0
    if picture:
        Image.fromarray(pixels, "RGBA").save(path.with_suffix(".png"))
    for language in spoken:
        soundfile.write(path.with_name(f"{path.name}_desc_{language}.ogg"), 0.1 * np.ones(4000), 8000)


@pytest.fixture
def folder(tmp_path):
    for i in range(26):
        stamp(
            tmp_path,
            f"animals/{chr(97 + i)}bmal",
            f"Animal {chr(97 + i)}.",
            seed=i,
            spoken=("fr",) if i % 2 else (),
        )
    stamp(tmp_path, "town/only_german", "A house.", seed=50, languages=("de",))
    stamp(tmp_path, "symbols/one", "The number one.", seed=51)
    stamp(tmp_path, "town/none", "Nothing.", picture=False)
    stamps._stamps.cache_clear()
    yield tmp_path
    stamps._stamps.cache_clear()


def everything(source):
    return [r for split in ("train", "val", "test") for r in source.open(split)]


def test_records_have_pictures_and_sentences(folder):
    source = TuxPaint(("en", "de", "fr"), folder=str(folder), fractions=(0.6, 0.2, 0.2))
    assert from_json(json.loads(json.dumps(to_json(source)))) == source
    records = everything(source)
    assert len(records) == 26 and {r["name"].split("/")[0] for r in records} == {"animals"}
    record = next(r for r in records if r["text_de"] == "de Animal a.")
    assert record["text"] == record["text_en"] == "Animal a." and record["text_fr"] == "fr Animal a."
    assert record["image"].shape == (20, 24, 3) and (record["image"][:2] == 255).all()
    assert record["present"].tolist() == [1, 1, 1]
    assert "fr Animal b." in {t for s in ("train", "val", "test") for t in source.texts(s)}
    assert len({source.open(s).digest() for s in ("train", "val", "test")}) == 3 and source.view(record, None) == record


def test_a_missing_language_leaves_the_stamp_out_or_is_marked(folder):
    source = TuxPaint(("en", "de", "fr"), complete=False, symbols=True, folder=str(folder), fractions=(0.6, 0.2, 0.2))
    records = {r["name"]: r for r in everything(source)}
    assert len(records) == 28 and "symbols/one" in records
    house = records["town/only_german"]
    assert house["present"].tolist() == [1, 1, 0] and house["text_fr"] == "A house."


def test_spoken_sentences_are_pairs_of_one_language(folder):
    source = TuxPaint(("en",), spoken="fr", seconds=0.25, folder=str(folder), fractions=(0.4, 0.3, 0.3))
    records = everything(source)
    assert len(records) == 13
    for record in records:
        assert record["text"].startswith("fr Animal") and record["text_en"] == record["text"].removeprefix("fr ")
        assert record["speech"].dtype == np.float32 and record["speech"].shape == (4000,)  # resampled to 16 kHz and cut


def test_copies_stay_together_and_evaluation_has_each_sentence_once(tmp_path):
    for i in range(40):
        stamp(tmp_path, f"things/{chr(97 + i % 26)}{chr(97 + i // 26)}thing", f"Thing {i}.", seed=i)
        stamp(
            tmp_path, f"more/{chr(97 + i % 26)}{chr(97 + i // 26)}thing{i}", f"Another {i}.", seed=100 + i
        )  # one file name but for numbers
        stamp(tmp_path, f"copies/{chr(97 + i % 26)}{chr(97 + i // 26)}copy", f"Copy {i}.", seed=100 + i)  # one drawing
        stamp(
            tmp_path, f"same/{chr(97 + i % 26)}{chr(97 + i // 26)}word", f"The copy {i}", seed=200 + i
        )  # one sentence
    stamps._stamps.cache_clear()
    source = TuxPaint(("en",), folder=str(tmp_path), fractions=(0.5, 0.25, 0.25))
    side = {r["name"]: split for split in ("train", "val", "test") for r in source.open(split)}
    for i in range(40):
        key = f"{chr(97 + i % 26)}{chr(97 + i // 26)}"
        names = [f"things/{key}thing", f"more/{key}thing{i}", f"copies/{key}copy", f"same/{key}word"]
        found = [side.get(n) for n in names]
        assert len({*found} - {None}) == 1, names
        assert (None in found) == (
            found[0] != "train"
        )  # "Copy 3." and "The copy 3" are one sentence: the first is kept
    assert {*side.values()} == {"train", "val", "test"}
    stamps._stamps.cache_clear()


def test_parts():
    assert captions("\ufeffA cat.\nde.utf8=Eine Katze.\nfr.utf8=\nnothing\nca@valencia.utf8=Un gat.\n") == {
        "en": "A cat.", "de": "Eine Katze.", "ca@valencia": "Un gat.",
    }  # fmt: skip
    assert captions("") == {} and plain("A  big, red Cat!") == "big red cat"
    ramp = np.repeat(np.arange(0, 250, 5, dtype=np.uint8)[None, :, None], 40, 0).repeat(3, 2)
    assert difference_hash(ramp).all() and not difference_hash(ramp[:, ::-1]).any()


def test_what_is_absent_is_explained(tmp_path, monkeypatch):
    stamps._stamps.cache_clear()
    monkeypatch.setattr(stamps, "USUAL", tmp_path / "absent")
    with pytest.raises(DataError, match="apt install tuxpaint-stamps-default"):
        TuxPaint().open("train")
    with pytest.raises(DataError, match="holds no stamps"):
        TuxPaint(folder=str(tmp_path)).open("train")
    stamp(tmp_path, "a/cat", "A cat.")
    with pytest.raises(DataError, match="no stamp has all of these languages"):
        TuxPaint(("en", "xx"), folder=str(tmp_path)).open("train")
    with pytest.raises(ConfigError, match="languages is empty"):
        TuxPaint(())
    stamps._stamps.cache_clear()
