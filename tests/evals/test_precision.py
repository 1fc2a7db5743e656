"""Mean average precision and NDCG by hand and against loops."""

import numpy as np
import pytest

from mmrep.errors import DataError
from mmrep.evals.precision import Precision, average_precision, ndcg, relevance
from mmrep.model import Model


class Fake(Model):
    """The part of Model that the evaluator uses."""

    def __init__(self, sets, columns):
        self.sets, self.columns = sets, columns

    def embed_split(self, name, split="test", fields=()):
        return self.sets[name]

    def column(self, field, split="test"):
        return self.columns[field]


def test_average_precision_by_hand():
    scores, relevant = np.array([[0.9, 0.8, 0.7, 0.6]]), np.array([[True, False, True, False]])
    np.testing.assert_allclose(average_precision(scores, relevant), [(1 + 2 / 3) / 2])
    np.testing.assert_allclose(
        average_precision(np.zeros((1, 4)), relevant), [0.5]
    )  # all tie: the share of relevant ones


def test_ndcg_by_hand():
    gains, scores = np.array([[0.0, 1.0, 0.5]]), np.array([[3.0, 2.0, 1.0]])
    found = (1 / np.log2(3) + 0.5 / 2) / (1 + 0.5 / np.log2(3))
    np.testing.assert_allclose(ndcg(scores, gains), [found])


def test_relevance():
    np.testing.assert_array_equal(relevance(np.array([1, 2]), np.array([2, 1, 1])), [[0, 1, 1], [1, 0, 0]])
    labels = np.array([[1, 1, 0], [0, 0, 1], [1, 0, 0]])
    np.testing.assert_array_equal(relevance(labels, labels), [[1, 0, 1], [0, 1, 0], [1, 0, 1]])
    np.testing.assert_allclose(relevance(labels, labels, graded=True)[0], [1, 0, 0.5**0.5])


def test_precision_of_a_model():
    x, y = np.eye(4, dtype=np.float32), np.eye(4, dtype=np.float32)[[0, 1, 3, 2]]
    model = Fake({"image": x, "text": y}, {"identity": [7, 8, 9, 9], "row": [0, 1, 2, 3]})
    found = Precision("image", "text", "identity").run(model)
    assert found["image->text mAP"] == pytest.approx((1 + 1 + 2 * (1 + 2 / 4) / 2) / 4)
    assert found["image->text left out"] == 0 and found["image->text chance mAP"] == (0.25 * 2 + 0.5 * 2) / 4
    own = Precision("image", "image", "identity").run(model)
    assert own["image->image left out"] == 2 and own["image->image chance mAP"] == pytest.approx(1 / 3)
    with pytest.raises(DataError, match="no record"):
        Precision("image", "image", "row").run(model)
