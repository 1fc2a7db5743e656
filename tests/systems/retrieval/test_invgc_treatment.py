"""Treating galleries: what is chosen on validation, the rival's numbers, and the made pairs."""

import numpy as np

from mmrep.evals import retrieval
from mmrep.systems.retrieval.invgc.data import crowded
from mmrep.systems.retrieval.invgc.evals import choose, lie, qb_norm, query_bank, recall


def test_recall_is_r_at_1_of_aligned_rows():
    q = np.eye(4, dtype=np.float32)
    assert recall((q, q)) == 1.0
    assert recall((q, q[[1, 0, 2, 3]])) == 0.5


def test_choose_takes_the_least_of_equals():
    assert choose((0.0, 1.0, 2.0), lambda r: -abs(r - 1)) == 1.0
    assert choose((2.0, 0.5, 1.0), lambda r: 0.0) == 0.5


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
    assert recall(drawn(0)[0]) > recall(drawn(0, nuisance=0.6)[0]) + 0.1  # what the gallery alone has crowds it


def test_query_bank_chooses_beta_on_validation_alone():
    val, test, (bank, _) = drawn(1, nuisance=0.6)
    score, beta = query_bank(val, test, bank, betas=(5.0, 40.0))

    def at(pair, b):
        scores = qb_norm(retrieval.dot(*pair), retrieval.dot(bank, pair[1]), b)
        return float(np.mean(retrieval.ranks_of_scores(scores, np.arange(len(scores))) <= 1))

    assert beta == (5.0 if at(val, 5.0) >= at(val, 40.0) else 40.0)
    assert score == at(test, beta)


def test_lie_names_what_it_measures():
    found = lie(drawn(2, cone=8.0)[0], "before")
    assert found.keys() == {"nearest cosine before", "hubness before"} and found["nearest cosine before"] > 0.9
