"""Galleries: measures against loops, choices on validation, the rival's numbers, and the synthetic pairs."""

import numpy as np
import pytest

from mmrep.errors import DataError
from mmrep.evals import retrieval
from mmrep.systems.retrieval.invgc.data import crowded
from mmrep.systems.retrieval.invgc.evals import (
    best_strength,
    gallery_stats,
    hubness,
    mean_cosine,
    nearest_cosine,
    qb_norm,
    query_bank_norm,
    recall_at_1,
)


def test_recall_at_1_of_aligned_rows():
    q = np.eye(4, dtype=np.float32)
    assert recall_at_1((q, q)) == 1.0
    assert recall_at_1((q, q[[1, 0, 2, 3]])) == 0.5


def test_best_strength_is_the_smallest_of_equals():
    assert best_strength((0.0, 1.0, 2.0), lambda r: -abs(r - 1)) == 1.0
    assert best_strength((2.0, 0.5, 1.0), lambda r: 0.0) == 0.5


def drawn(seed, **kw):
    rng = np.random.default_rng(seed)
    basis, axes = rng.standard_normal((3, 16)), np.eye(16)[:2]
    kw = {"n": 200, "cone": 0.0, "nuisance": 0.0, "noise": 0.3} | kw
    return [crowded(rng, axes, basis, **kw) for _ in range(3)]


def test_crowded_pairs_are_unit_and_a_cone_is_narrow():
    (q, g), *_ = drawn(0, cone=8.0)
    np.testing.assert_allclose(np.linalg.norm(np.concatenate([q, g]), axis=1), 1.0, atol=1e-6)
    assert g[:, 0].mean() > 0.9 and q[:, 1].mean() > 0.9  # the gallery along u, the queries along v
    (q, g), *_ = drawn(0)
    assert abs(g[:, 0].mean()) < 0.1 and (q * g).sum(1).mean() > 0.7
    assert (
        recall_at_1(drawn(0)[0]) > recall_at_1(drawn(0, nuisance=0.6)[0]) + 0.1
    )  # what the gallery alone has crowds it


def test_query_bank_norm_chooses_beta_on_validation_alone():
    val, test, (bank, _) = drawn(1, nuisance=0.6)
    score, beta = query_bank_norm(val, test, bank, betas=(5.0, 40.0))

    def at(pair, b):
        scores = qb_norm(retrieval.dot(*pair), retrieval.dot(bank, pair[1]), b)
        return float(np.mean(retrieval.ranks_of_scores(scores, np.arange(len(scores))) <= 1))

    assert beta == (5.0 if at(val, 5.0) >= at(val, 40.0) else 40.0)
    assert score == at(test, beta)


def test_gallery_stats_are_named():
    found = gallery_stats(drawn(2, cone=8.0)[0], "before")
    assert found.keys() == {"nearest cosine before", "hubness before"} and found["nearest cosine before"] > 0.9


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
