"""Greedy and beam search against all sequences."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrep.errors import ConfigError
from mmrep.generation.text import trie, write

VOCAB, EOS, LENGTH = 5, 4, 3
# The next token depends on the last one, and the first on the row.
TABLE = jax.random.normal(jax.random.key(0), (VOCAB, VOCAB)) * 2
START = jnp.array([[1, 2], [3, 1]], jnp.int32)


def next_logits(ids, at):
    return TABLE[jnp.take(ids, at - 1, axis=1)]


def every(start, texts=None):
    """{text: log-probability} of all texts that end, or have the full length."""
    log_p = np.asarray(jax.nn.log_softmax(TABLE, -1))
    found = {}
    for ids in product(range(VOCAB), repeat=LENGTH):
        cut = ids[: ids.index(EOS) + 1] if EOS in ids else ids
        if texts is None or cut in texts:
            found[cut] = sum(log_p[a, b] for a, b in zip((int(start[-1]), *cut), cut))
    return found


def test_beam_search_finds_the_likeliest_text():
    run = jax.jit(lambda s: write(next_logits, s, LENGTH, ends=lambda t: t == EOS, beams=VOCAB**2))
    ids, lengths, score = run(START)
    for row, start in enumerate(START):
        texts = every(start)
        best = max(texts, key=texts.get)
        assert tuple(ids[row, : lengths[row]].tolist()) == best and not ids[row, lengths[row] :].any()
        assert float(score[row]) == pytest.approx(texts[best], abs=1e-5)


def test_one_beam_is_greedy():
    ids, lengths, _ = jax.jit(lambda s: write(next_logits, s, LENGTH, ends=lambda t: t == EOS))(START)
    for row, start in enumerate(START):
        last, expected = int(start[-1]), []
        while len(expected) < LENGTH and last != EOS:
            last = int(TABLE[last].argmax())
            expected.append(last)
        assert ids[row, : lengths[row]].tolist() == expected


def test_only_the_texts_of_a_trie_are_written():
    texts = [(0, 1, EOS), (0, EOS), (2, 2, 2)]
    table = jnp.asarray(trie(texts, VOCAB))
    assert table.shape == (8, VOCAB) and (table[0] >= 0).tolist() == [True, False, True, False, False]
    run = jax.jit(lambda s: write(next_logits, s, LENGTH, ends=lambda t: t == EOS, beams=4, allowed=table))
    ids, lengths, _ = run(START)
    for row, start in enumerate(START):
        known = every(start, texts)
        assert tuple(ids[row, : lengths[row]].tolist()) == max(known, key=known.get)
    for texts, words in (([], "at least one"), ([[7]], "id 7")):
        with pytest.raises(ConfigError, match=words):
            trie(texts, VOCAB)
    with pytest.raises(ConfigError, match="beams is 0"):
        write(next_logits, START, 2, ends=lambda t: t == EOS, beams=0)
