"""Masked words with a made predictor."""

import numpy as np
import pytest

from mmrep import modality
from mmrep.config import Data, Tokenizer
from mmrep.data.pipeline import open_split
from mmrep.data.things import Things
from mmrep.errors import ConfigError, DataError
from mmrep.evals.words import MaskedWords
from mmrep.modality import MASK
from mmrep.model import Model

SOURCE = Things(8, 8, 7, factors=(5,), noise=0.0, dim=4, fillers=1, filler_words=1)


class Fake(Model):
    """Predicts the first attribute of the picture for every token: id 5 + its value."""

    def __init__(self, length=5):
        parts = modality.vector("image", 1, 4, field="regions"), modality.text("text", length, 16)
        self.fake = Data(SOURCE, parts, Tokenizer(16, kind="word"), eval_batch_size=4)
        self.codes = {tuple(r["regions"][0]): int(r["label"]) for s in ("train", "test") for r in SOURCE.open(s)}

    data = property(lambda self: self.fake)

    def split(self, name="test"):
        def tokens(text, length):
            return np.array(
                [1, *(5 + int(w[1]) if w[0] == "a" else 15 for w in text.split()), 2, 0, 0][:length], np.int32
            )

        return open_split(self.fake, tokens, name)

    def column(self, field, split="test"):
        return [r[field] for r in SOURCE.open(split)]

    def modality(self, name):
        return next(m for m in self.fake.modalities if m.name == name)

    def infer(self, name, batch):
        assert (np.asarray(batch["text"]) == MASK).sum(1).max() == 1
        return np.stack([np.tile(np.eye(16)[5 + self.codes[tuple(x[0])]], (5, 1)) for x in np.asarray(batch["image"])])


def test_the_picture_tells_the_word():
    words = tuple(f"a{k}" for k in range(5))
    found = MaskedWords(only=words).run(Fake())
    assert found["masked words true"] == 1.0
    labels = SOURCE.open("test").columns["label"]
    other = np.concatenate([np.roll(labels[:4], 2), np.roll(labels[4:], 1)])
    assert found["masked words other"] == pytest.approx((labels == other).mean())


def test_mistakes_are_explained():
    with pytest.raises(DataError, match="no text"):
        MaskedWords(only=("b1",)).run(Fake())
    with pytest.raises(ConfigError, match="tokenizer.kind"):
        MaskedWords().run(Fake(length=3))
