"""Rerank and Foil on a system of numbers: an image and a text match by the product of their token values."""

import numpy as np

from mmrep.model import Model
from mmrep.systems.fusion.albef.evals import Foil, Rerank


class Numbers(Model):
    """The part of Model that the evaluators use. Three of five texts are right only by "match"."""

    image = np.array([[1, 0], [0, 1], [1, 0], [0.6, 0.8], [0.8, 0.6]], np.float32)
    text = np.array([[0, 1], [1, 0], [1, 0], [0.6, 0.8], [0.8, 0.6]], np.float32)
    scores = np.arange(25, dtype=np.float32).reshape(5, 5) % 7 + 10 * np.eye(5, dtype=np.float32)
    pairs = 0

    def __init__(self):
        pass

    def embed_split(self, name, split="test", fields=()):
        if name == "match":
            return np.diag(self.scores) - (np.array([20, -1, -1, 0, 0], np.float32) if fields == () else 0)
        if name == "image_tokens":
            return {"image_tokens": np.arange(5)[:, None]}
        if name == "text_tokens":
            return {"text_tokens": np.arange(5)[:, None], "text_valid": np.ones((5, 1), bool)}
        return self.image if name == "image" else self.text

    def column(self, field, split="test"):
        return {"caption": ["a", "b", "a", "c", "d"], "hard_swap": [1, 1, 1, 1, 0]}[field]

    def infer(self, name, batch):
        assert name == "match" and batch["text_valid"].all()
        self.pairs += len(batch["image_tokens"])
        return self.scores[batch["image_tokens"][:, 0], batch["text_tokens"][:, 0]]


def test_rerank_over_all_and_over_the_best_two():
    model = Numbers()
    whole = Rerank(k=0, block=25, name="match").run(model)
    assert model.pairs == 25  # one pass serves both directions
    assert whole["match R@1"] == 1.0 and whole["chance R@1"] == 0.2
    # By dot product rows 3 and 4 find their own; of image 0 (texts 1 and 2 level, neither is its own) and image 1 none; image 2 shares.
    np.testing.assert_allclose(whole["contrast R@1"], 0.4)
    best = Rerank(k=2, block=4).run(model)
    # Only 2, 3 and 4 have their own among the two best, there "match" puts it first; queries 0 and 1 have lost it.
    np.testing.assert_allclose(best["rerank image->text R@1"], 0.6)
    np.testing.assert_allclose(best["rerank text->image R@1"], 0.6)


def test_rerank_takes_any_candidate_of_the_same_group_as_right():
    scores = Rerank(k=0, group="caption", block=25, name="match").run(Numbers())
    model = Numbers()
    model.scores = model.scores[[2, 1, 0, 3, 4]]  # images 0 and 2 prefer one another's text: one caption, both right
    assert Rerank(k=0, group="caption", block=25, name="match").run(model) == scores
    assert Rerank(k=0, block=25, name="match").run(model)["match R@1"] < 1


def test_foil_counts_swapped_records_only_and_ties_half():
    found = Foil().run(Numbers())
    # true minus foil: -20, +1, +1, 0; the last record has no swap.
    np.testing.assert_allclose(found["swap accuracy"], 2.5 / 4)
    np.testing.assert_allclose(found["swap contrast accuracy"], 0.5)  # the same text on both sides
