"""Hinge losses against loops over pairs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrep.losses.ranking import hinge, hinge_rows


@pytest.mark.parametrize("ids", [None, [0, 1, 0, 2]])
@pytest.mark.parametrize("hardest", [True, False])
def test_hinge_equals_naive(hardest, ids):
    s = np.random.default_rng(0).uniform(-1, 1, (4, 4)).astype(np.float32)
    names = ids or range(4)
    rows = [[max(0, 0.3 + s[i, j] - s[i, i]) for j in range(4) if names[i] != names[j]] for i in range(4)]
    columns = [[max(0, 0.3 + s[i, j] - s[j, j]) for i in range(4) if names[i] != names[j]] for j in range(4)]
    found = hinge(jnp.asarray(s), 0.3, hardest, None if ids is None else jnp.array(ids))
    reduce = max if hardest else sum
    np.testing.assert_allclose(found[0], [reduce(r) for r in rows], rtol=1e-5)
    np.testing.assert_allclose(found[1], [reduce(c) for c in columns], rtol=1e-5)
    traced = jax.jit(lambda flag: hinge(jnp.asarray(s), 0.3, flag, None if ids is None else jnp.array(ids)))
    np.testing.assert_allclose(traced(hardest), found, rtol=1e-6)


def test_hinge_rows_by_hand():
    np.testing.assert_allclose(hinge_rows(jnp.eye(2), 0.8), [0, 0])
    np.testing.assert_allclose(hinge_rows(jnp.eye(2), 1.5), [0.25, 0.25])  # eSSPR's dossier


def test_pairs_beyond_the_margin_and_single_pairs_cost_nothing():
    assert not any(x.any() for x in hinge(jnp.eye(3) * 2 - 1, 0.2))
    assert not any(x.any() for x in hinge(jnp.ones((1, 1)), 0.2))
