"""Uniformity and alignment."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrep.errors import ConfigError
from mmrep.losses.geometry import alignment, cross_uniformity, uniformity

X = jnp.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
Y = jnp.array([[0.6, 0.8], [-0.6, 0.8], [0.0, -1.0]])


def test_hand_values():
    np.testing.assert_allclose(uniformity(X), -4.3963490, rtol=1e-6)
    np.testing.assert_allclose(uniformity(Y), -3.9523600, rtol=1e-6)
    np.testing.assert_allclose(cross_uniformity(X, Y), -2.1874727, rtol=1e-6)
    np.testing.assert_allclose(alignment(X, Y).mean(), 1.0666667, rtol=1e-6)


def test_equal_rows_are_at_zero_with_a_finite_gradient():
    same = jnp.ones((4, 3)) / jnp.sqrt(3.0)
    assert float(uniformity(same)) == pytest.approx(0, abs=1e-6)
    grads = jax.grad(lambda x: uniformity(x) + alignment(x, same).sum())(same)
    assert np.isfinite(grads).all()


def test_one_row_has_no_pairs():
    with pytest.raises(ConfigError, match="at least 2"):
        uniformity(X[:1])
