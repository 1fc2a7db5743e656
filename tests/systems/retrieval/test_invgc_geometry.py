"""Cone width, crowding and hubness against a double loop and made cases."""

import numpy as np
import pytest

from mmrep.errors import DataError
from mmrep.systems.retrieval.invgc.evals import hubness, mean_cosine, nearest_cosine


def test_cosines_equal_the_double_loop():
    x = np.random.default_rng(0).standard_normal((9, 4)).astype(np.float32)
    u = x / np.linalg.norm(x, axis=1, keepdims=True)
    pairs = [[u[i] @ u[j] for j in range(9) if j != i] for i in range(9)]
    assert mean_cosine(x) == pytest.approx(np.mean(pairs), abs=1e-6)
    assert nearest_cosine(x) == pytest.approx(np.mean([max(p) for p in pairs]), abs=1e-6)


def test_one_row_has_no_pairs():
    for measure in (mean_cosine, nearest_cosine):
        with pytest.raises(DataError, match="pairs"):
            measure(np.ones((1, 3), np.float32))


def test_hubness_is_the_skewness_of_how_often_a_row_is_near():
    gallery = np.eye(4, dtype=np.float32)
    assert hubness(gallery, gallery, k=1) == 0.0
    assert hubness(np.repeat(gallery[:1], 8, 0), gallery, k=1) == pytest.approx(2 / 3**0.5)  # counts 8, 0, 0, 0
