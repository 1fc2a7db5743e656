import numpy as np
import pytest

from mmrep.evals.written import agreement, commonest
from mmrep.modality import FIRST_PIECE


def test_agreement_by_hand():
    truth = np.array([[1, 5, 6, 7, 2], [1, 8, 8, 2, 0]])
    found = np.array([[5, 6, 9, 2], [8, 8, 2, 0]])
    assert agreement(found, truth) == {
        "F1": pytest.approx((4 / 6 + 1) / 2),
        "exact": 0.5,
        "recall": pytest.approx((2 / 3 + 1) / 2),
    }
    # Of 7 and 9 the first text has 7, the second neither, and does not count.
    assert agreement(found, truth, np.array([7, 9])) == {"F1": 0.0, "exact": 0.5, "recall": 0.0}
    assert agreement(found[1:], truth[1:], np.array([5]))["exact"] == 1.0


def test_the_most_frequent_text():
    a, b = FIRST_PIECE, FIRST_PIECE + 1
    assert commonest(np.array([[1, a, b, 2], [a, b, 2, 0], [1, b, a, 2]])) == pytest.approx(2 / 3)
