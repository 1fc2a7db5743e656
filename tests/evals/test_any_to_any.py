import numpy as np

from mmrep.evals.any_to_any import counted, majority, mean_accuracy


def test_the_ground_and_padding_do_not_count():
    truth = np.array([[0, 0, 1, 2], [0, 0, 0, 2]])
    np.testing.assert_array_equal(counted(truth, False), truth != 0)
    assert mean_accuracy(np.array([[9, 9, 1, 1], [9, 9, 9, 2]]), truth, False) == 2 / 3
    words = np.array([[5, 6, 2, 0], [5, 2, 0, 0]])
    assert mean_accuracy(np.array([[5, 6, 2, 9], [5, 5, 9, 9]]), words, True) == 4 / 5
    assert counted(np.zeros((2, 3), int), False).all()


def test_the_majority_knows_each_place():
    truth = np.array([[0, 1, 3], [0, 1, 4], [0, 0, 4], [0, 2, 0]])
    # Second place: 1, 1, 2; third: 3, 4, 4. The ground is not asked for.
    assert majority(truth, False) == 4 / 6
