"""Measures of grounding in time against hand-made numbers."""

import numpy as np

from mmrep.evals import temporal


def test_recall_at_iou():
    spans = [np.array([[0.0, 4], [4, 8]]), np.array([[0.0, 1], [2, 6]])]
    truth = [np.array([[5.0, 8]]), np.array([[0.0, 2], [6, 8]])]
    found = temporal.recall_at(spans, truth, (1, 2), (0.5, 0.7))
    assert found == {"R@1 IoU 0.5": 0.5, "R@1 IoU 0.7": 0.0, "R@2 IoU 0.5": 1.0, "R@2 IoU 0.7": 0.5, "mIoU": 0.25}


def test_precision():
    assert temporal.average_precision(np.array([True, False, True]), 2) == (1 + 2 / 3) / 2
    assert temporal.average_precision(np.array([False, True, True]), 2) == 2 / 3  # interpolated
    assert temporal.average_precision(np.array([False, False]), 1) == 0.0
    # A true span is found once: the second span on it is wrong.
    found = temporal.moment_precision(np.array([[0.0, 4], [0, 4], [6, 8]]), np.array([[0.0, 4], [6, 8]]), (0.5,))
    np.testing.assert_allclose(found, [(1 + 2 / 3) / 2])


def test_padded_spans_are_left_out():
    np.testing.assert_array_equal(temporal.true_spans(np.array([[1, 3], [np.nan, np.nan], [0, 0]])), [[1, 3]])
    np.testing.assert_array_equal(temporal.true_spans(np.array([2, 5])), [[2, 5]])
