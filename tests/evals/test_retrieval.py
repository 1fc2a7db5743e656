import jax.numpy as jnp
import numpy as np
import pytest

from mmrep.errors import ConfigError, DataError
from mmrep.evals.retrieval import (
    chance_recall,
    ranks,
    ranks_of_scores,
    recall_at,
    rerank,
    retrieval_metrics,
)


def brute(scores, positives):
    """Mean over the best and the worst order of equal scores, by sorting."""
    result = []
    for row, right in zip(np.asarray(scores), positives):
        places = []
        for bonus in (1, -1):
            order = sorted(range(len(row)), key=lambda j, b=bonus, r=row, p=right: (-r[j], -b * (j in p)))
            first = next(i for i, j in enumerate(order) if j in right)
            places.append(1 + sum(j not in right for j in order[:first]))
        result.append(sum(places) / 2)
    return np.array(result)


@pytest.mark.parametrize("block", [1, 3, 64])
def test_ranks_equal_brute_force_with_ties_and_several_positives(block):
    r = np.random.default_rng(0)
    queries, targets = r.integers(-2, 3, (20, 3)).astype(np.float32), r.integers(-2, 3, (15, 3)).astype(np.float32)
    scores = queries @ targets.T
    one = r.integers(0, 15, 20)
    np.testing.assert_array_equal(ranks(queries, targets, one, block), brute(scores, [[j] for j in one]))
    several = [r.choice(15, r.integers(1, 4), replace=False) for _ in range(20)]
    expected = brute(scores, several)
    np.testing.assert_array_equal(ranks(queries, targets, several, block), expected)
    matrix = np.zeros((20, 15), bool)
    for i, p in enumerate(several):
        matrix[i, p] = True
    np.testing.assert_array_equal(
        ranks(jnp.asarray(queries), jnp.asarray(targets), jnp.asarray(matrix), block), expected
    )
    np.testing.assert_array_equal(ranks_of_scores(scores, several), expected)
    assert len(np.unique(expected % 1)) == 2  # ties do occur: some ranks are halves


def test_duplicate_targets_tie_exactly_whatever_the_block():
    r = np.random.default_rng(0)
    unique = r.normal(size=(37, 48)).astype(np.float32)
    targets = np.repeat(unique, 3, axis=0)
    queries = unique + 0.01 * r.normal(size=unique.shape).astype(np.float32)
    for block in (1, 5, 37):
        np.testing.assert_array_equal(ranks(queries, targets, np.arange(37) * 3, block), 2.0)


def test_collapsed_and_diverged_models_have_the_rank_of_chance():
    same = np.ones((10, 4), np.float32)
    found = ranks(same, same, np.arange(10))
    np.testing.assert_array_equal(found, 5.5)
    assert recall_at(found, (1, 5)) == {"R@1": 0.0, "R@5": 0.0}
    np.testing.assert_array_equal(ranks(same * np.nan, same, np.arange(10)), 5.5)
    scores = np.array([[np.nan, 1.0, 2.0], [3.0, 1.0, np.nan]])
    np.testing.assert_array_equal(ranks_of_scores(scores, np.array([0, 0])), [3.0, 1.0])


def test_groups():
    scores = np.array([[9.0, 1.0, 8.0, 7.0]])
    assert ranks_of_scores(scores, [[1, 2]]).tolist() == [2.0]


def test_metrics_and_chance():
    found = retrieval_metrics(np.array([1.0, 2.0, 6.0, 30.0]), 50)
    assert found == {
        "R@1": 0.25, "R@5": 0.5, "R@10": 0.75, "median_rank": 4.0, "candidates": 50.0,
        "chance_R@1": pytest.approx(0.02), "chance_R@5": pytest.approx(0.1), "chance_R@10": pytest.approx(0.2),
    }  # fmt: skip
    assert chance_recall(4, 2, 2) == pytest.approx(1 - 1 / 6)
    assert chance_recall(3, 10) == 1.0
    mixed = retrieval_metrics(np.ones(2), 4, (2,), n_positives=np.array([1, 2]))
    assert mixed["chance_R@2"] == pytest.approx((0.5 + 5 / 6) / 2)
    r = np.random.default_rng(0)
    hits = [r.permutation(6)[:2].min() < 3 for _ in range(4000)]
    assert np.mean(hits) == pytest.approx(chance_recall(6, 3, 2), abs=0.03)


def test_rerank_scores_only_the_best_k():
    r = np.random.default_rng(0)
    scores, second = r.normal(size=(5, 7)), r.normal(size=(5, 7)).astype(np.float32)
    calls = []

    def rescore(i, j):
        calls.append(len(i))
        return second[i, j]

    found = rerank(scores, rescore, 3)
    assert calls == [15]
    for i in range(5):
        top = np.argsort(-scores[i])[:3]
        np.testing.assert_array_equal(found[i, top], second[i, top])
        assert np.isneginf(np.delete(found[i], top)).all()
    np.testing.assert_array_equal(rerank(scores, rescore, 99), second)


def test_sentences():
    x = np.ones((3, 2), np.float32)
    with pytest.raises(ConfigError, match="3 queries but 2"):
        ranks(x, x, np.arange(2))
    with pytest.raises(DataError, match=r"indices 1\.\.3"):
        ranks(x, x, np.arange(1, 4))
    with pytest.raises(DataError, match="query 2 has no correct answer"):
        ranks(x, x, [[0], [1], []], block=2)
    with pytest.raises(ConfigError, match="3 targets"):
        ranks(x, x, np.ones((3, 4), bool))
    with pytest.raises(DataError, match="at least one"):
        ranks(x[:0], x, np.arange(0))
