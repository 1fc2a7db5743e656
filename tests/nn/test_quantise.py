"""Finite scalar quantisation and ids of patches, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrep.errors import ConfigError
from mmrep.nn import quantise as q


def test_fsq_has_every_id_and_its_code():
    levels = (4, 3, 5)
    grid = jnp.stack(jnp.meshgrid(*[jnp.linspace(-4, 4, 33)] * 3, indexing="ij"), -1).reshape(-1, 3)
    codes, ids = jax.jit(lambda z: q.fsq(z, levels))(grid)
    assert set(np.asarray(ids).tolist()) == set(range(60))
    np.testing.assert_allclose(codes, q.fsq_codes(ids, levels), atol=1e-6)
    assert np.abs(codes).max() == 1.0


def test_fsq_by_hand():
    codes, ids = q.fsq(jnp.asarray([[0.0, 0.0], [9.0, 9.0], [-9.0, -9.0]]), (3, 4))
    np.testing.assert_allclose(codes, [[0, 0], [1, 0.5], [-1, -1]], atol=1e-6)
    np.testing.assert_array_equal(ids, [1 + 3 * 2, 2 + 3 * 3, 0])
    slope = jax.grad(lambda z: q.fsq(z, (3, 4))[0].sum())(jnp.zeros((1, 2)))
    # d tanh(z + s) half: half (1 - tanh(s)^2), divided by levels // 2.
    half = np.array([2, 3]) * 0.999 / 2
    np.testing.assert_allclose(slope[0], half * (1 - (np.array([0, 0.5]) / half) ** 2) / [1, 2], rtol=1e-5)


def test_patch_ids_and_values_are_inverse_on_levels():
    rng = np.random.default_rng(0)
    ids = jnp.asarray(rng.integers(0, 24, (2, 3, 3)), jnp.int32)
    image = jnp.repeat(jnp.repeat(q.patch_values(ids, (2, 3, 4)), 2, axis=1), 2, axis=2)
    np.testing.assert_array_equal(q.patch_ids(image, (3, 3), (2, 3, 4)), ids)
    x = jnp.asarray([[[0.0, 0.2, 1.0, 1.0], [0.4, 0.6, 1.0, 0.8]]])[..., None]  # patch means 0.3 and 0.95
    np.testing.assert_array_equal(q.patch_ids(x, (1, 2), (11,))[0, 0], [3, 10])


def test_majority_of_a_patch():
    x = jnp.asarray([[[0, 1, 2, 2], [1, 1, 2, 0]]])
    np.testing.assert_array_equal(q.patch_majority(x, (1, 2), 3), [[[1, 2]]])
    np.testing.assert_array_equal(q.patch_majority(jnp.asarray([[[3, 3, 1, 1]]]), (1, 1), 4), [[[1]]])
    # Against counting, with ids outside the range, which are not counted.
    x = np.random.default_rng(0).integers(-1, 7, (3, 6, 8))
    cells = x.reshape(3, 2, 3, 2, 4).swapaxes(2, 3).reshape(3, 2, 2, 12)
    counted = (cells[..., None] == np.arange(5)).sum(3).argmax(-1)
    np.testing.assert_array_equal(q.patch_majority(jnp.asarray(x), (2, 2), 5), counted)
    np.testing.assert_array_equal(q.patch_majority(jnp.full((1, 2, 2), -1), (1, 1), 5), [[[0]]])


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: q.fsq(jnp.zeros((1, 2)), (3, 1)), "levels"), (lambda: q.fsq_codes(jnp.zeros(1, int), ()), "levels"),
        (lambda: q.patch_ids(jnp.zeros((1, 4, 4, 3)), (2, 2), (4,)), "channels"),
        (lambda: q.patch_ids(jnp.zeros((1, 4, 4, 1)), (3, 3), (4,)), "grid"),
    ],
)  # fmt: skip
def test_impossible_settings_are_refused(make, says):
    with pytest.raises(ConfigError, match=says):
        make()
