import pickle
import re

import numpy as np
import pytest

from mmrep.config import Tokenizer
from mmrep.data import text
from mmrep.errors import ConfigError
from mmrep.modality import BOS, EOS, MASK, PAD, UNK

NOUNS = [
    "red apple",
    "green tree",
    "flying saucer",
    "smiling cat",
    "black cat",
    "white horse",
    "sleeping dog",
    "old key",
    "small boat",
]
TEXTS = [f"{a} {b}" for a in NOUNS for b in NOUNS] + ["grüne Birne", "рыжий кот", "赤いりんご"] * 6
KINDS = ("unigram", "bpe", "char", "word")


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_bos_pieces_eos_pad(kind):
    config = Tokenizer(vocab=420, kind=kind)
    tokens = text.tokenizer(text.fit(TEXTS, config), config)
    row = tokens("red apple", 24)
    used = int((row > PAD).sum())
    assert row.dtype == np.int32 and row.shape == (24,)
    assert row[0] == BOS and row[used - 1] == EOS and (row[used:] == PAD).all()
    assert not np.isin(row[1 : used - 1], [PAD, BOS, EOS, MASK, UNK]).any()
    assert tokens.decode(row) == "red apple"
    assert tokens.vocab <= config.vocab and row.max() < tokens.vocab


def test_truncation_keeps_eos():
    config = Tokenizer(vocab=400)
    tokens = text.tokenizer(text.fit(TEXTS, config), config)
    whole, cut = tokens("sleeping dog old key", 40), tokens("sleeping dog old key", 5)
    assert cut[-1] == EOS and (cut[:4] == whole[:4]).all()
    assert tokens("x", 2).tolist() == [BOS, EOS]
    with pytest.raises(ConfigError, match="at least 2"):
        tokens("x", 1)


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_bytes_spell_what_was_never_seen(kind):
    config = Tokenizer(vocab=400, kind=kind)
    tokens = text.tokenizer(text.fit(TEXTS, config), config)
    row = tokens("snow ☃ ψ", 64)
    assert UNK not in row and tokens.decode(row) == "snow ☃ ψ"


@pytest.mark.parametrize("kind", ["char", "word"])
def test_without_bytes_the_unseen_is_unk(kind):
    config = Tokenizer(vocab=400, kind=kind)
    tokens = text.tokenizer(text.fit(TEXTS, config), config)
    assert UNK in tokens("red ☃", 16)


def test_case_is_folded_only_where_asked():
    for lower in (True, False):
        config = Tokenizer(vocab=420, lower=lower)
        tokens = text.tokenizer(text.fit(TEXTS, config), config)
        assert (tokens("Red Apple", 20) == tokens("red apple", 20)).all() == lower


@pytest.mark.parametrize("kind", KINDS)
def test_equal_texts_give_equal_bytes(kind):
    config = Tokenizer(vocab=420, kind=kind)
    assert text.fit(TEXTS, config) == text.fit(iter(TEXTS), config)


def test_cache_is_read_mended_and_keyed_by_text_and_settings(tmp_path, monkeypatch):
    config = Tokenizer(vocab=400)
    model = text.fit(TEXTS, config, tmp_path)
    (path,) = tmp_path.iterdir()
    assert path.suffix == ".model" and path.read_bytes() == model
    path.write_bytes(model[: len(model) // 2])  # what a full disk leaves
    assert text.fit(TEXTS, config, tmp_path) == model and path.read_bytes() == model
    text.fit(TEXTS, Tokenizer(vocab=401), tmp_path)
    text.fit([*TEXTS, "one more"], config, tmp_path)
    assert len(list(tmp_path.iterdir())) == 3
    monkeypatch.setattr(text, "_train", lambda *_: pytest.fail("trained although cached"))
    assert text.fit(TEXTS, config, tmp_path) == model


@pytest.mark.parametrize("kind", KINDS)
def test_the_least_vocabulary_it_names_is_enough(kind):
    with pytest.raises(ConfigError, match=r"data\.tokenizer\.vocab is 5") as error:
        text.fit(TEXTS, Tokenizer(vocab=5, kind=kind))
    least = int(re.search(r"at least (\d+)", str(error.value))[1])
    with pytest.raises(ConfigError):
        text.fit(TEXTS, Tokenizer(vocab=least - 1, kind=kind))
    config = Tokenizer(vocab=least, kind=kind)
    tokens = text.tokenizer(text.fit(TEXTS, config), config)
    assert tokens.vocab <= least
    if kind in ("unigram", "bpe"):
        assert tokens.decode(tokens("рыжий 赤い cat", 64)) == "рыжий 赤い cat"


def test_rare_characters_go_to_bytes_when_the_vocabulary_is_small():
    many = [chr(0x4E00 + i) + " red apple" * 12 for i in range(300)]  # 300 characters that are 0.8 % of the text
    config = Tokenizer(vocab=320)
    tokens = text.tokenizer(text.fit(many, config), config)
    assert tokens.decode(tokens("一 red", 16)) == "一 red"
    assert (tokens("一 red", 16) > 0).sum() < 12


def test_rows_are_memoised_and_read_only():
    config = Tokenizer(vocab=400)
    tokens = text.tokenizer(text.fit(TEXTS, config), config)
    assert tokens("red apple", 12) is tokens("red apple", 12)
    with pytest.raises(ValueError):
        tokens("red apple", 12)[0] = 7


def test_decode_reads_no_special_ids_and_stops_at_eos():
    config = Tokenizer(vocab=400)
    tokens = text.tokenizer(text.fit(TEXTS, config), config)
    ids = [i for i in tokens("red apple", 12).tolist() if i > EOS]
    assert tokens.decode([BOS, MASK, *ids, EOS, *ids]) == "red apple"
    assert tokens.decode([PAD, PAD]) == "" and "⁇" in tokens.decode([10**6])


def test_a_copy_in_another_process_gives_the_same_rows():
    config = Tokenizer(vocab=400)
    tokens = text.tokenizer(text.fit(TEXTS, config), config)
    assert (pickle.loads(pickle.dumps(tokens))("black cat", 12) == tokens("black cat", 12)).all()


SYMBOLS = tuple(f"v{a}={i}" for a in range(2) for i in range(14))


@pytest.mark.parametrize("kind", KINDS)
def test_symbols_are_one_id_each_and_captions_stay_as_they_are(kind):
    config = Tokenizer(vocab=450, kind=kind, symbols=SYMBOLS)
    tokens = text.tokenizer(text.fit(TEXTS, config), config)
    for line in ("v1=3 v0=12", "v0=1 v0=1 v1=13", "red apple v0=7 black cat v1=0"):
        row = tokens(line, 40)
        assert tokens.decode(row) == line
        marked = [i for i in row.tolist() if 5 <= i < 5 + len(SYMBOLS)]
        assert [tokens.piece(i)[1:] for i in marked] == [w for w in line.split() if "=" in w]
    assert (tokens("v1=3 v0=12 v0=1", 40) > 0).sum() == 5
    # Ids in the order given, right behind the special ones.
    assert tokens("v1=13", 3)[1] == 5 + len(SYMBOLS) - 1 and tokens("v0=0", 3)[1] == 5
    plain = Tokenizer(vocab=450 - len(SYMBOLS), kind=kind)
    without = text.tokenizer(text.fit(TEXTS, plain), plain)
    for caption in TEXTS[:9]:
        assert tokens.decode(tokens(caption, 40)) == caption
        spelled = [t.piece(i) for t in (tokens, without) for i in t(caption, 40).tolist()]
        assert spelled[:40] == spelled[40:]


@pytest.mark.parametrize("kind", KINDS)
def test_texts_cannot_spell_special_ids(kind):
    config = Tokenizer(vocab=450, kind=kind, symbols=SYMBOLS)
    tokens = text.tokenizer(text.fit([*TEXTS, "v0=3 red v0=31 <mask>"], config), config)
    for line in ("<mask> <s> </s> <pad> <unk>", "[s_1] <extra_id_0> red", "xv0=12 v0=123 v9=1 v0="):
        row = tokens(line, 90)
        used = int((row > 0).sum())
        assert not np.isin(row[1 : used - 1], [PAD, BOS, EOS, MASK]).any() and row.max() < tokens.vocab
        if kind in ("unigram", "bpe"):
            assert tokens.decode(row) == line


def test_wrong_symbols_are_refused():
    for symbols, sentence in (
        (("v0=1", "v0=1"), "twice"),
        (("v0 = 1",), "one word"),
        (("",), "one word"),
        (("V0=1",), "small"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            text.fit(TEXTS, Tokenizer(vocab=450, symbols=symbols))
    assert text.fit(TEXTS, Tokenizer(vocab=450, symbols=("V0=1",), lower=False))
    with pytest.raises(ConfigError, match="at least"):
        text.fit(TEXTS, Tokenizer(vocab=20, kind="word", symbols=SYMBOLS))


def test_errors_name_the_fix():
    with pytest.raises(ConfigError, match="no text to train on"):
        text.fit(["", "  \n"], Tokenizer())
    with pytest.raises(ConfigError, match="choose from bpe"):
        text.fit(TEXTS, Tokenizer(kind="wordpiece"))
    with pytest.raises(ConfigError, match="not a sentencepiece model"):
        text.tokenizer(b"no model", Tokenizer())
    model = text.fit(TEXTS, Tokenizer(vocab=400))
    with pytest.raises(ConfigError, match=r"data\.tokenizer\.vocab is 300"):
        text.tokenizer(model, Tokenizer(vocab=300))


@pytest.mark.parametrize("kind", ["unigram", "word"])
@pytest.mark.parametrize("only", ["\u200b\u200d", "a" * 70_000, "a \u2585 b"], ids=["invisible", "long", "reserved"])
def test_texts_that_leave_the_trainer_nothing_are_one_sentence(kind, only):
    """F26: a RuntimeError of the library."""
    with pytest.raises(ConfigError, match="data.tokenizer cannot be trained on any of 3 texts: .* as the first"):
        text.fit([only] * 3, Tokenizer(400, kind))
    assert text.fit([only, "a usable text"], Tokenizer(400, kind))


def test_half_characters_are_left_to_the_records_to_report():
    assert text.fit(["a\ud800b", "one two"], Tokenizer(300, "word")) == text.fit(["one two"], Tokenizer(300, "word"))
