import numpy as np
import pytest

from mmrep.errors import ConfigError
from mmrep.evals.answers import Answers, measured
from mmrep.model import Model

LOGITS = np.array([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0], [0.0, 0.5, 0.2], [1.0, 0.0, 5.0], [9.0, 0.0, 0.0]])


class Seen(Model):
    def __init__(self, **columns):
        self.columns = columns

    def embed_split(self, name, split="test", fields=()):
        return LOGITS

    def column(self, field, split="test"):
        return self.columns[field]


def test_accuracy_by_kind_without_the_unanswered():
    seen = Seen(answer=[0, 1, 0, 2, -1], kind=["where", "what", "where", "what", "what"])
    found = Answers("answer_logits", "answer", by="kind").run(seen)
    assert found == {
        "answers accuracy": 0.75, "answers chance": 0.5,
        "answers accuracy [what]": 1.0, "answers accuracy [where]": 0.5,
    }  # fmt: skip
    assert np.isnan(measured(LOGITS, np.full(5, -1), "accuracy")["accuracy"])


def test_auroc_and_f1_by_hand():
    two = np.array([[0.0, 1.0], [0.0, 3.0], [0.0, 2.0], [0.0, 0.0]])
    # Of the four pairs of a 1 and a 0 three are in order.
    assert measured(two, np.array([1, 1, 0, 0]), "auroc") == {"auroc": 0.75}
    assert np.isnan(measured(two, np.array([1, 1, 1, 1]), "auroc")["auroc"])
    several = np.array([[1.0, -1.0], [1.0, 1.0], [-1.0, 1.0], [0.5, -1.0]])
    truth = np.array([[1, 0], [1, 0], [0, 1], [0, -1]])
    assert measured(several, truth, "auroc")["auroc"] == (1.0 + 0.75) / 2
    # Class 0: 2 hits of 3 guessed and 2 true; class 1: 1 of 2 and 1.
    assert measured(several, truth, "f1")["f1"] == pytest.approx((4 / 5 + 2 / 3) / 2)
    # One class for each: 0 is guessed once and true twice, 1 guessed twice and true once, 2 right.
    assert measured(LOGITS[:4], np.array([0, 1, 0, 2]), "f1")["f1"] == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)
    with pytest.raises(ConfigError, match="no infer function"):
        Answers("logits", "answer").check(["score"], lambda split: None)
