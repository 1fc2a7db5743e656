"""Word-patch alignment and localisation on made-up tokens."""

import numpy as np
import pytest

from mmrep.errors import ConfigError
from mmrep.model import Model
from mmrep.systems.contrastive.filip.evals import Localisation, alignment, shown


class Fake(Model):
    """The part of Model that the evaluator uses."""

    def __init__(self, tokens, columns):
        self.sets, self.columns = tokens, columns

    def embed_split(self, name, split="test", fields=()):
        return self.sets[name.removesuffix("_tokens")]

    def column(self, field, split="test"):
        return self.columns[field]


def test_shown_and_alignment():
    instances = np.zeros((4, 4), np.uint8)
    instances[0, 0], instances[1, 2:], instances[3, 3] = 1, 2, 2
    found = shown(instances, 2)
    np.testing.assert_array_equal(found[:, 0], [True, False, False, False])
    np.testing.assert_array_equal(found[:, 1], [False, True, False, True])
    assert not found[:, 2:].any()
    best_patch, best_word = alignment(np.eye(3)[[0, 1]], np.eye(3)[[1, 0, 1]])
    np.testing.assert_array_equal(best_patch, [1, 0, 1])
    np.testing.assert_array_equal(best_word, [1, 0])


def one_pair(patches, words):
    instances = np.zeros((4, 4), np.uint8)
    instances[:2, :2], instances[2:, 2:] = 1, 2  # patches 0 and 3
    columns = {
        "caption": ["a red circle, and a dot"], "caption_objects": [np.array([0, 0, 0, -1, 1, 1])], "instances": [instances],
    }  # fmt: skip
    sets = {n: (np.eye(5)[at][None], np.ones((1, len(at)), bool)) for n, at in (("image", patches), ("text", words))}
    return Fake(sets, columns)


def test_localisation_counts_named_words_and_patches_of_one_object():
    # BOS a red circle, and a dot EOS: "red" -> patch 0 (right), "circle" -> patch 1 (wrong); "dot" is not among the words.
    found = Localisation(("red", "circle"), 2).run(one_pair([1, 2, 0, 3], [0, 0, 1, 2, 0, 0, 3, 4]))
    assert found["localisation word->patch"] == 0.5
    assert found["localisation chance"] == 0.25
    assert found["localisation patch->word"] == 1.0  # patch 0 chooses "red", patch 3 "dot"
    shifted = Localisation(("red", "circle"), 2).run(one_pair([1, 2, 0, 3], [0, 1, 2, 0, 0, 3, 4, 4]))
    assert shifted["localisation word->patch"] == 0.0, "a shift by one token would go unnoticed"


def test_localisation_needs_a_token_for_each_word():
    with pytest.raises(ConfigError, match="data.tokenizer.kind"):
        Localisation(("red",), 2).run(one_pair([1, 2, 0, 3], [0, 1, 2, 3]))
