"""Which pairs are matched, and the loss."""

import jax
import jax.numpy as jnp
import numpy as np

from mmrep.losses import matching
from mmrep.losses.matching import matching_loss, random_pairs

hard_negatives = jax.jit(matching.hard_negatives)


def test_hard_negatives_follow_the_softmax_without_diagonal_and_equal_ids():
    logits = jnp.array([[9.0, 0.0, 1.0, 2.0], [0.0, 9.0, 0.0, 0.0], [3.0, 0.0, 9.0, 0.0], [0.0, 0.0, 0.0, 9.0]])
    ids = jnp.array([5, 6, 5, 7])
    keys = jax.random.split(jax.random.key(0), 4000)
    draw = jax.jit(jax.vmap(lambda k: hard_negatives(k, logits, ids)))
    index, valid = draw(keys)
    assert valid.all()
    shares = np.stack([np.bincount(np.asarray(index)[:, i], minlength=4) / 4000 for i in range(4)])
    allowed = np.array([[0, 1, 0, 1], [1, 0, 1, 1], [0, 1, 0, 1], [1, 1, 1, 0]], bool)
    weights = np.where(allowed, np.exp(np.asarray(logits)), 0.0)
    np.testing.assert_allclose(shares, weights / weights.sum(1, keepdims=True), atol=0.03)
    assert (shares[~allowed] == 0).all()


def test_small_temperature_does_not_underflow():
    # A softmax with its diagonal zeroed would be all zero here.
    logits = jnp.full((3, 3), -1e4).at[jnp.arange(3), jnp.arange(3)].set(1e4).at[0, 2].set(-9e3)
    index, valid = hard_negatives(jax.random.key(0), logits)
    assert valid.all() and index[0] == 2
    assert (np.asarray(index) != np.arange(3)).all()


def test_rows_with_nothing_left_fall_back_to_other_rows():
    draw = jax.vmap(lambda k: hard_negatives(k, jnp.zeros((3, 3)), jnp.array([1, 1, 1])))
    index, valid = draw(jax.random.split(jax.random.key(0), 200))
    assert not valid.any()
    assert (np.asarray(index) != np.arange(3)).all()
    assert {int(i) for i in np.asarray(index)[:, 0]} == {1, 2}
    index, valid = hard_negatives(jax.random.key(0), jnp.ones((1, 1)))
    assert index.tolist() == [0] and valid.tolist() == [False]


def test_deterministic_by_key_and_without_gradient():
    logits = jax.random.normal(jax.random.key(1), (8, 8))
    a, b, c = (hard_negatives(jax.random.key(k), logits)[0] for k in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert (np.asarray(a) != np.asarray(c)).any()


def test_equal_logits_make_negatives_uniform():
    index = jax.vmap(lambda k: hard_negatives(k, jnp.zeros((4, 4)))[0])(jax.random.split(jax.random.key(0), 3000))
    shares = np.bincount(np.asarray(index)[:, 1], minlength=4) / 3000
    np.testing.assert_allclose(shares, [1 / 3, 0, 1 / 3, 1 / 3], atol=0.04)


def test_matching_loss():
    logits = jnp.array([[0.0, 2.0], [0.0, 2.0], [1e4, -1e4]])
    expected = [np.log1p(np.exp(-2.0)), np.log1p(np.exp(2.0)), 2e4]
    np.testing.assert_allclose(matching_loss(logits, jnp.array([True, False, True])), expected, rtol=1e-6)


def test_an_equal_row_still_matches():
    ids = jnp.array([[1, 5], [1, 6], [1, 5], [1, 7]], jnp.int32)
    draw = jax.jit(jax.vmap(lambda k: random_pairs(k, ids)))
    index, is_match = map(np.asarray, draw(jax.random.split(jax.random.key(0), 400)))
    np.testing.assert_array_equal(is_match, (np.asarray(ids)[index] == np.asarray(ids)).all(-1))
    # Half are replaced, rows 0 and 2 in a third of these by their equal.
    assert abs(is_match[:, 1].mean() - 0.5) < 0.08 and abs(is_match[:, 0].mean() - 2 / 3) < 0.08
    own, match = random_pairs(jax.random.key(0), jnp.arange(4), 0.0)
    assert own.tolist() == [0, 1, 2, 3] and match.all()
