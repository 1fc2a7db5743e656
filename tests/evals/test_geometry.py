"""Measures of the gap between two sets of embeddings."""

import numpy as np
import pytest

from mmrep.errors import ConfigError, DataError
from mmrep.evals.geometry import Gap, centroid_distance, rank_variance, separability, spectrum
from mmrep.model import Model


def sphere(seed, n=400, d=8, offset=0.0):
    x = np.random.default_rng(seed).standard_normal((n, d)) + offset
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def test_two_cones_and_one():
    one, other, apart = sphere(0), sphere(1), sphere(2, offset=3.0)
    assert centroid_distance(one, other) < 0.15 and centroid_distance(one, apart) > 0.9
    assert centroid_distance(np.eye(2, 4), np.eye(2, 4, k=2)) == pytest.approx(1.0)
    assert separability(one, other) == pytest.approx(0.5, abs=0.1) and separability(one, apart) > 0.95
    assert separability(one, 5 * one) == pytest.approx(0.5, abs=0.1)
    with pytest.raises(DataError, match="5 rows"):
        separability(one[:4], other)


def test_spectrum():
    found = spectrum(np.random.default_rng(0).standard_normal((500, 3)) * [2.0, 1.0, 0.0])
    np.testing.assert_allclose(found, [0.8, 0.2, 0], atol=0.05)


def test_rank_variance():
    assert rank_variance([np.array([1.0, 5.0]), np.array([3.0, 5.0])]) == 0.5
    with pytest.raises(ConfigError, match="2 or more"):
        rank_variance([np.ones(3)])


class Given(Model):
    def __init__(self, **embeddings):
        self.given = embeddings

    def embed_split(self, name, split="test", fields=()):
        return self.given[name]


def test_the_evaluator():
    x = sphere(0)
    found = Gap("a", "b").run(Given(a=x, b=2 * x))
    assert found["a|b centroid distance"] < 1e-6 and found["a|b pair cosine"] == pytest.approx(1)
    assert found["a|b uniformity"] < -2.5 and found["a|b dimensions"] == 8 and found["a|b alignment"] < 1e-6
    with pytest.raises(ConfigError, match="Gap.second"):
        Gap("a", "c").check(["a", "b"], lambda split: range(9))
    with pytest.raises(ConfigError, match="of 5 records"):
        Gap("a", "b").check(["a", "b"], lambda split: range(4))
