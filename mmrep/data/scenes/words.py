"""Sensor: an embedding of each word of the caption, in the place of a frozen language model's.

A FROZEN network of random weights: every word has a random vector that its letters decide, and a random layer with tanh reads it beside the
words before and behind it. The same word is another vector among other words, as with a language model.
"""

import zlib
from collections.abc import Sequence
from functools import cache

import numpy as np
from jaxtyping import Float32

LENGTH = 16
DIM = 32
SEED = 77


@cache
def _layer() -> np.ndarray:
    return np.random.RandomState(SEED).standard_normal((3 * DIM, DIM)) / np.sqrt(DIM)


@cache
def _word(word: str) -> np.ndarray:
    return np.random.RandomState(zlib.crc32(word.encode())).standard_normal(DIM)


def words(texts: Sequence[str]) -> Float32[np.ndarray, "n 16 32"]:
    """Values in (-1, 1), one row a word; zeros behind the last word, longer texts are cut."""
    found = np.zeros((len(texts), LENGTH, DIM), np.float32)
    for row, text in zip(found, texts):
        given = text.split()[:LENGTH]
        padded = np.zeros((len(given) + 2, DIM))
        for i, word in enumerate(given):
            padded[i + 1] = _word(word)
        beside = np.concatenate([padded[1:-1], padded[:-2], padded[2:]], axis=1)
        row[: len(given)] = np.tanh(beside @ _layer())
    return found
