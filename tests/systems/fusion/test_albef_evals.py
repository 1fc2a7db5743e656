"""Foil on a system of numbers."""

import numpy as np

from mmrep.model import Model
from mmrep.systems.fusion.albef.evals import Foil


class Numbers(Model):
    """The part of Model that the evaluator uses: the score of a true caption less that of its foil is -20, 1, 1, 0 and 5."""

    def __init__(self):
        pass

    def embed_split(self, name, split="test", fields=()):
        return np.full(5, len(fields)) if name == "text_tokens" else np.ones((5, 2), np.float32)

    def column(self, field, split="test"):
        return [1, 1, 1, 1, 0]

    def score_pairs(self, image, text, rows, columns):
        np.testing.assert_array_equal(rows, columns)
        return np.where(text[columns], 20.0, np.array([0.0, 21, 21, 20, 25])[columns])


def test_foil_counts_swapped_records_only_and_ties_half():
    found = Foil().run(Numbers())
    np.testing.assert_allclose(found["swap accuracy"], 2.5 / 4)
    np.testing.assert_allclose(found["swap contrast accuracy"], 0.5)  # the same text on both sides
