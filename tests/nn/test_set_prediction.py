"""The matching against SciPy's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from mmrep.errors import ConfigError
from mmrep.nn.set_prediction import match


def test_match_equals_scipy_and_ignores_padding():
    cost = np.random.default_rng(0).normal(size=(6, 5, 3)).astype(np.float32)
    valid = np.arange(3) < np.array([3, 2, 1, 0, 3, 2])[:, None]
    cost[~np.broadcast_to(valid[:, None], cost.shape)] = np.nan
    chosen, taken = jax.jit(match)(cost, valid)
    for c, v, found, used in zip(cost, valid, np.asarray(chosen), np.asarray(taken)):
        rows, columns = linear_sum_assignment(c[:, v])
        np.testing.assert_array_equal(found[v], rows[np.argsort(columns)])
        assert set(np.flatnonzero(used)) == set(rows)
    with pytest.raises(ConfigError, match="more queries"):
        match(jnp.zeros((1, 2, 3)), jnp.ones((1, 3), bool))
