"""Sources in which only several modalities together determine the target: XOR triples, and images named by text and speech."""

import numpy as np
import pytest

from mmrep.errors import ConfigError, DataError
from mmrep.systems.contrastive.symile.data import PolyglotData, XorData


def bits(source, split="train"):
    columns = source.open(split).columns
    assert all((columns[n][:, -1] == 1).all() for n in "abc")
    return [columns[n][:, :-1].astype(int) for n in "abc"], columns


@pytest.mark.parametrize("p", [0.0, 0.5, 1.0])
def test_xor_holds_with_probability_p(p):
    (a, b, c), columns = bits(XorData(4000, p=p))
    xor, copy = (c == a ^ b).all(1), (c == a).all(1)
    assert (xor | copy).all()
    # A triple is both XOR and copy where b is 0: one in 8.
    assert xor.mean() == pytest.approx(p + (1 - p) / 8, abs=0.03)
    assert copy.mean() == pytest.approx(1 - p + p / 8, abs=0.03)
    assert (columns["b_id"] == b @ [1, 2, 4]).all()


def test_pure_xor_has_independent_pairs():
    _, columns = bits(XorData(20_000))
    ids = [columns[f"{n}_id"] for n in "abc"]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        joint = np.histogram2d(ids[i], ids[j], bins=8)[0] / 20_000
        assert np.abs(joint - 1 / 64).max() < 0.005


def test_xor_splits_differ_and_repeat():
    source = XorData(100, 100, 100)
    a, b = source.open("train").columns["a"], source.open("test").columns["a"]
    assert not np.array_equal(a, b) and np.array_equal(a, source.open("train").columns["a"])
    for change, words in (({"p": 1.5}, "p is 1.5"), ({"bits": 0}, "bits is 0")):
        with pytest.raises(ConfigError, match=words):
            XorData(**change)
    with pytest.raises(DataError, match="is empty"):
        XorData(n_val=0).open("val")
    with pytest.raises(DataError, match="no split"):
        source.open("tests")
    with pytest.raises(IndexError):
        source.open("val")[100]


def test_polyglot_image_is_named_by_the_word_of_the_spoken_language():
    source = PolyglotData(300, 20, 20)
    words, records = source.words(), source.open("train")
    assert len({*words.ravel()}) == words.size
    for r in (records[i] for i in range(300)):
        words_of_text = r["text"].split()
        assert len(words_of_text) == source.languages
        named = {int(np.argwhere(words == w)[0, 0]): int(np.argwhere(words == w)[0, 1]) for w in words_of_text}
        assert set(named) == set(range(source.languages)) and len({*named.values()}) == source.languages
        assert named[int(r["language"])] == int(r["class"])


def test_polyglot_sound_identifies_the_language_and_nothing_else():
    source = PolyglotData(2000, 20, 20)
    columns = source.open("train").columns
    waves, language, kind = columns["speech"], columns["language"], columns["class"]
    peaks = np.array([np.abs(np.fft.rfft(w, 4096)).argmax() for w in waves[:300]]) * source.rate / 4096
    assert np.abs(np.log(peaks / (300 * 4 ** (language[:300] / 3)))).max() < 0.08
    assert max(len(w) for w in waves) <= source.samples and min(len(w) for w in waves) >= 0.69 * source.samples
    joint = np.histogram2d(language, kind, bins=(4, 20))[0] / 2000
    assert np.abs(joint - 1 / 80).max() < 0.012


def test_polyglot_repeats_and_checks():
    source = PolyglotData(30, 10, 10)
    assert list(source.texts("test")) == source.open("test").columns["text"]
    np.testing.assert_array_equal(source.open("val")[3]["image"], source.open("val")[3]["image"])
    with pytest.raises(ConfigError, match="languages is 1"):
        PolyglotData(languages=1)
    with pytest.raises(DataError, match="is empty"):
        PolyglotData(n_test=0).open("test")


def test_polyglot_missing_values_are_gone_in_training_only():
    source = PolyglotData(400, 50, 10, missing=0.3)
    columns = source.open("train").columns
    present = columns["present"]
    assert np.abs(present.mean(0) - 0.7).max() < 0.08
    gone = [i for i in range(400) if not present[i].all()][:50]
    for i in gone:
        assert (columns["image"][i].max() == 0) == (present[i, 0] == 0)
        assert (columns["text"][i] == "?") == (present[i, 1] == 0)
        assert (len(columns["speech"][i]) == 1) == (present[i, 2] == 0)
    assert (source.open("val").columns["present"] == 1).all()
    with pytest.raises(ConfigError, match="missing is 1"):
        PolyglotData(missing=1.0)
