import numpy as np
import pytest

from mmrep.errors import ConfigError
from mmrep.evals.knn import knn_predict


def brute(train_x, train_y, test_x, k, weighted, temperature=0.07):
    result = []
    for q in np.asarray(test_x, np.float64):
        cosines = [float(q @ t / np.linalg.norm(q) / np.linalg.norm(t)) for t in np.asarray(train_x, np.float64)]
        near = sorted(range(len(train_x)), key=lambda j, c=cosines: (-np.float32(c[j]), j))[:k]
        votes = {}
        for j in near:
            votes[train_y[j]] = votes.get(train_y[j], 0.0) + (np.exp(cosines[j] / temperature) if weighted else 1.0)
        result.append(min(votes, key=lambda c, v=votes: (-v[c], c)))
    return np.array(result)


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("k", [1, 4, 500])
def test_equals_brute_force(weighted, k):
    r = np.random.default_rng(0)
    train_x, test_x = r.normal(size=(30, 5)).astype(np.float32), r.normal(size=(20, 5)).astype(np.float32)
    train_y = r.integers(0, 4, 30) * 10
    found = knn_predict(train_x, train_y, test_x, k, weighted)
    np.testing.assert_array_equal(found, brute(train_x, train_y, test_x, k, weighted))


def test_ties_strings_and_small_temperature():
    train = np.array([[1.0, 0], [2.0, 0], [0, 1.0]])
    assert knn_predict(train, np.array(["b", "a", "c"]), np.array([[3.0, 0]]), k=2).tolist() == ["a"]  # smallest label
    assert knn_predict(train, np.array([0, 0, 1]), np.array([[0.1, 1.0]]), k=3, temperature=1e-3).tolist() == [1]
    assert knn_predict(train, np.array([0, 0, 1]), np.array([[0.1, 1.0]]), k=3, weighted=False).tolist() == [0]
    assert knn_predict(train, np.array([0, 0, 1]), np.zeros((1, 2)), k=3).tolist() == [0]
    with pytest.raises(ConfigError, match="positive"):
        knn_predict(train, np.array([0, 0, 1]), train, k=0)
