"""Words and the tokens they point to."""

import numpy as np
import pytest

from mmrep.errors import ConfigError, DataError
from mmrep.evals.grounding import Pointing, pointed
from mmrep.model import Model


class Fake(Model):
    """The part of Model that the evaluator uses."""

    def __init__(self, sets, columns):
        self.sets, self.columns = sets, columns

    def embed_split(self, name, split="test", fields=()):
        return self.sets[name]

    def column(self, field, split="test"):
        return self.columns[field]


def model(owner=(0, 2, -1), text="red the dot"):
    tokens = np.eye(4, dtype=np.float32)[None, :3]
    # BOS red the dot EOS: red is most similar to token 0, the to 1, dot to the padded one.
    words = np.eye(4, dtype=np.float32)[None, [3, 0, 1, 2, 3]]
    sets = {"image_tokens": (tokens, np.array([[True, True, False]])), "text_tokens": (words, np.ones((1, 5), bool))}
    return Fake(sets, {"text": [text], "owner": [np.array(owner)]})


def test_pointed_skips_padding():
    found = model().sets
    best = pointed(found["text_tokens"][0], *found["image_tokens"])
    assert best[0, 1] == 0 and best[0, 2] == 1 and best[0, 3] != 2


def test_words_are_one_behind_bos():
    assert Pointing().run(model((0, 1, -1))) == {"pointing accuracy": 1.0, "pointing chance": 0.5}
    assert Pointing().run(model((1, 0, -1)))["pointing accuracy"] == 0.0
    assert Pointing(only=("the",)).run(model((1, 1, -1)))["pointing accuracy"] == 1.0


def test_mistakes_are_explained():
    with pytest.raises(ConfigError, match="tokenizer.kind"):
        Pointing().run(model(text="red dot"))
    with pytest.raises(DataError, match="no word"):
        Pointing().run(model((-1, -1, -1)))
