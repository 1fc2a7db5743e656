"""Fixed features of pictures and words."""

from dataclasses import dataclass

import numpy as np
import pytest

from mmrep.data.columns import Columns
from mmrep.data.features import Features, gradients, pixels
from mmrep.errors import ConfigError, DataError


@dataclass(frozen=True)
class Drawn:
    """Pictures of one colour; a name, and keywords that only the raw record has."""

    def open(self, split):
        n = 3 if split == "train" else 2
        images = np.stack([np.full((16, 16, 3), 80 * i, np.uint8) for i in range(n)])
        keywords = [["red", "Fruit"], ["red", "car"], ["red"]][:n]
        return Columns({"image": images, "name": ["apple", "car, red", "apple"][:n], "keywords": keywords})

    def texts(self, split):
        return iter(["apple"])

    def view(self, record, rng):
        return {k: record[k] for k in ("image", "name")}


def test_counts_are_of_the_commonest_words_of_training():
    source = Features(Drawn(), text=("name", "keywords"), words=3)
    train, test = source.open("train"), source.open("test")
    # red 4, apple 2, car 2, fruit 1
    assert train.columns["words"].tolist() == [[1, 1, 0], [2, 0, 2], [1, 1, 0]]
    assert test.columns["words"].tolist() == [[1, 1, 0], [2, 0, 2]]
    assert {*train[0]} == {"image", "name", "gradients", "words"} and list(source.texts("train")) == ["apple"]
    assert train.columns["words"].dtype == np.float32


def test_gradients_beside_pictures():
    source = Features(Drawn(), cells=4, words=0)
    found = source.open("test").columns["gradients"]
    assert found.shape == (2, 4 * 4 * 9 + 8 * 8 * 3 + 4**3) and np.isfinite(found).all()
    np.testing.assert_array_equal(found, gradients(Drawn().open("test").columns["image"], 4))
    np.testing.assert_allclose(pixels(np.full((1, 16, 16, 3), 51, np.uint8), 2), 0.2, rtol=1e-6)


@pytest.mark.parametrize(
    "change, error, words",
    [
        ({"image": "", "words": 0}, ConfigError, "nothing to compute"),
        ({"cells": 0}, ConfigError, "cells is 0"),
        ({"image": "photo"}, DataError, "'photo'"),
        ({"text": ("caption",)}, DataError, "'caption'"),
    ],
)
def test_what_records_lack_is_named(change, error, words):
    with pytest.raises(error, match=words):
        Features(Drawn(), **{"text": ("name",), **change}).open("train")
