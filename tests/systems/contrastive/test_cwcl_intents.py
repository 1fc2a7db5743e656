"""Spoken intents: the grammar, and the sound of it."""

import numpy as np
import pytest

from mmrep.errors import ConfigError, DataError
from mmrep.systems.contrastive.cwcl.intents import INTENTS, TEMPLATES, WORDS, IntentData, sentence, synthesise, tones


def test_every_word_has_tones_of_its_own():
    assert len({tones(w) for w in WORDS}) == len(WORDS)
    assert all(a != b and min(a, b) > 200 and max(a, b) < 1700 for a, b in map(tones, WORDS))


def test_sentences_are_made_of_known_words_and_never_shared():
    sentences = {
        sentence(i, t, ((a + 0.5) / 4, (p % 4 + 0.5) / 4, (p + 0.5) / 8, 0.99, 0.0)): (i, t)
        for i in range(len(INTENTS)) for t in range(len(TEMPLATES)) for a in range(4) for p in range(8)
    }  # fmt: skip
    assert {w for s in sentences for w in s.split()} <= {*WORDS}
    assert len({*sentences.values()}) == 240
    assert sentence(0, 0, (0.0, 0.0, 0.0, 0.0, 0.0)) == "start the lights in the kitchen"
    assert sentence(19, 8, (0.3, 0.99, 0.99, 0.0, 0.99)) == "adjust my purple buzzer in the studio"


def test_speech_is_the_words_in_order_with_noise_at_the_given_level():
    text, rate = "stop the music", 4000
    clean = synthesise(text, np.random.default_rng(0), rate, 0.0, 0.0, 200.0)
    noisy = synthesise(text, np.random.default_rng(0), rate, 0.0, 0.0, 10.0)
    assert len(clean) == 3 * 320 and np.abs(noisy).max() <= 1 and clean.dtype == np.float32
    assert 20 * np.log10(clean.std() / (noisy - clean).std()) == pytest.approx(10, abs=0.2)
    spectrum = np.abs(np.fft.rfft((noisy - clean).astype(np.float64))) ** 2
    assert spectrum[1:120].mean() > 2 * spectrum[240:].mean()  # pink: low frequencies carry more
    for k, word in enumerate(text.split()):
        for half, hz in enumerate(tones(word)):
            part = clean[320 * k + 160 * half : 320 * k + 160 * (half + 1)][60:100]
            found = np.abs(np.fft.rfft(part * np.hanning(40), 4096)).argmax() * rate / 4096
            assert found == pytest.approx(hz, rel=0.15)


def test_speakers_differ_in_pitch_and_tempo():
    heard = [synthesise("check the alarm", np.random.default_rng(s), 4000, 0.15, 0.2, 10.0) for s in range(8)]
    lengths = [len(w) for w in heard]
    assert len({*lengths}) > 4 and 0.75 * 960 < min(lengths) < max(lengths) < 1.25 * 960


def test_records_repeat_and_fit():
    source = IntentData(60, 30, 30, templates=(4, 5, 6))
    records = source.open("train")
    assert {int(records[i]["template"]) for i in range(60)} == {4, 5, 6}
    assert list(source.texts("train")) == [records[i]["text"] for i in range(60)]
    assert max(len(records[i]["speech"]) for i in range(60)) <= source.samples
    np.testing.assert_array_equal(records[7]["speech"], source.open("train")[7]["speech"])
    assert not np.array_equal(records[7]["speech"], source.open("test")[7]["speech"])
    assert IntentData(5, spoken=False).open("train")[0]["speech"].tolist() == [0.0]
    with pytest.raises(IndexError):
        records[60]


def test_impossible_sources_are_explained():
    for fields, words in (
        ({"templates": (12,)}, "templates"),
        ({"rate": 2000}, "rate is 2000"),
        ({"tempo": 1.0}, "tempo"),
    ):
        with pytest.raises(ConfigError, match=words):
            IntentData(**fields)
    with pytest.raises(DataError, match="is empty"):
        IntentData(n_val=0).open("val")
