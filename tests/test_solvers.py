"""Closed forms against their definitions."""

import numpy as np
import pytest

from mmrep import solvers
from mmrep.errors import DataError


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def test_canonical_correlations_are_the_correlations_of_the_projections():
    z = normal(0, 400, 3)
    x, y = (z @ normal(s, 3, d) + 0.5 * normal(s + 9, 400, d) + 2 for s, d in ((1, 8), (2, 6)))
    found = solvers.cca(x, y, 4, eps=0.0)
    a, b = found.x(x), found.y(y)
    np.testing.assert_allclose(a.mean(0), 0, atol=1e-9)
    np.testing.assert_allclose(a.T @ a / 400, np.eye(4), atol=1e-9)
    np.testing.assert_allclose(a.T @ b / 400, np.diag(found.correlations), atol=1e-9)
    assert (np.diff(found.correlations) <= 0).all() and found.correlations[2] > 0.6 > found.correlations[3]
    from sklearn.cross_decomposition import CCA

    theirs = CCA(1, scale=False, max_iter=5000, tol=1e-12).fit_transform(x, y)
    assert np.corrcoef(theirs[0][:, 0], theirs[1][:, 0])[0, 1] == pytest.approx(found.correlations[0], abs=1e-4)


def test_directions_without_variance_are_left_out():
    x = np.c_[normal(0, 30, 3), np.ones(30), np.zeros(30)]
    assert solvers.cca(x, normal(1, 30, 6), 9, eps=0.0).x.weight.shape == (5, 3)


def test_the_ridge_keeps_few_rows_from_fitting_noise():
    x, y = normal(0, 20, 30), normal(1, 20, 25)
    assert solvers.cca(x, y, 1, eps=0.0).correlations[0] > 0.999
    assert solvers.cca(x, y, 1, eps=1.0).correlations[0] < 0.9


def test_affine_maps():
    x, w, b = normal(0, 50, 4), normal(1, 4, 3), normal(2, 3)
    exact = solvers.affine(x, x @ w + b)
    np.testing.assert_allclose(exact.weight, w, atol=1e-9)
    np.testing.assert_allclose(exact(x), x @ w + b, atol=1e-9)
    y = x @ w + normal(3, 50, 3)
    found = solvers.affine(x, y, penalty=0.3)
    v, r = x.var(0).mean(), found(x) - y
    np.testing.assert_allclose((x - x.mean(0)).T @ r / 50 + 0.3 * v * found.weight, 0, atol=1e-9)
    np.testing.assert_allclose(r.mean(0), 0, atol=1e-9)


def test_procrustes_recovers_a_rotation():
    r = np.linalg.qr(normal(0, 5, 5))[0]
    x = normal(1, 40, 5)
    np.testing.assert_allclose(solvers.procrustes(x, x @ r), r, atol=1e-6)


def test_sylvester():
    a, b = (m @ m.T + np.eye(len(m)) for m in (normal(0, 4, 4), normal(1, 7, 7)))
    c = normal(2, 4, 7)
    v = solvers.sylvester(a, b, c)
    assert np.abs(a @ v + v @ b - c).max() < 1e-8


def test_cka_of_rotations_and_of_noise():
    x = normal(0, 300, 6)
    assert solvers.linear_cka(x, 3 * x @ np.linalg.qr(normal(1, 6, 6))[0] + 1) == pytest.approx(1)
    assert 0 <= solvers.linear_cka(x, normal(2, 300, 6)) < 0.1
    k, h = x @ x.T, np.eye(300) - 1 / 300
    y = x[:, :2] + normal(3, 300, 2)
    hsic = lambda a, b: np.trace(a @ h @ b @ h)  # noqa: E731
    naive = hsic(k, y @ y.T) / np.sqrt(hsic(k, k) * hsic(y @ y.T, y @ y.T))
    assert solvers.linear_cka(x, y) == pytest.approx(naive)


def test_assignment():
    scores = np.array([[0.9, 0.8, 0.0], [0.8, 0.1, 0.0]])
    assert solvers.assignment(scores).tolist() == [1, 0]
    assert sorted(solvers.assignment(scores.T).tolist()) == [-1, 0, 1]
    with pytest.raises(DataError, match="NaN"):
        solvers.assignment(np.full((2, 2), np.nan))


def test_rows_must_pair():
    with pytest.raises(DataError, match="found 3 and 4"):
        solvers.affine(normal(0, 3, 2), normal(0, 4, 2))
    with pytest.raises(DataError, match="infinite"):
        solvers.cca(np.full((3, 2), np.inf), normal(0, 3, 2), 1)
