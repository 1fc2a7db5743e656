"""Dirichlet budgets and random masking."""

import jax
import numpy as np
import pytest

from mmrep.errors import ConfigError
from mmrep.masking import budgets

SIZES = (16, 16, 16)


def drawn(n=4000, visible=12, alphas=(1.0, 1.0, 1.0), **options):
    share = budgets.dirichlet_budgets(jax.random.key(0), n, alphas, **options)
    visible_tokens = budgets.random_masking(jax.random.key(1), share, SIZES, visible, options.get("present"))
    return np.asarray(share), visible_tokens


def test_the_visible_tokens_are_as_many_as_asked_and_distinct():
    _, visible_tokens = drawn(200)
    keep = np.asarray(visible_tokens.ids_keep)
    assert keep.shape == (200, 12) and all(len({*row}) == 12 for row in keep)
    mask = np.asarray(visible_tokens.mask)
    assert (mask.sum(1) == 12).all()
    for row, kept in zip(mask, keep):
        assert {*np.nonzero(row)[0]} == {*kept}


def test_restore_undoes_the_shuffle():
    _, visible_tokens = drawn(20)
    restore, keep = np.asarray(visible_tokens.ids_restore), np.asarray(visible_tokens.ids_keep)
    assert (np.sort(restore, 1) == np.arange(48)).all()
    np.testing.assert_array_equal(np.take_along_axis(restore, keep, 1), np.broadcast_to(np.arange(12), keep.shape))


def test_flat_dirichlet_budgets_follow_their_closed_form():
    share, visible_tokens = drawn()
    counts = np.asarray(visible_tokens.mask).reshape(-1, 3, 16).sum(-1)
    assert np.abs(counts.mean(0) - 4).max() < 0.2  # E[n_t] = V / 3
    # P(n_t = 0) = 1 - (1 - 0.5 / V)^2 before the repair, which can only fill.
    assert abs((np.round(share * 12) == 0).mean() - (1 - (1 - 0.5 / 12) ** 2)) < 0.012
    assert np.abs(counts - np.round(share * 12)).max() <= 3  # the repair of rounding


def test_concentration_sets_the_spread():
    even, _ = drawn(alphas=(1e4,) * 3)
    assert np.abs(even - 1 / 3).max() < 0.03
    sparse, _ = drawn(alphas=(0.01,) * 3)
    assert (sparse.max(1) > 0.99).mean() > 0.9 and np.isfinite(sparse).all()


def test_subsets_are_drawn_evenly():
    share, _ = drawn(7000, subsets=True)
    used = (share > 1e-3) @ np.array([1, 2, 4])
    assert np.abs(np.bincount(used, minlength=8)[1:] / 7000 - 1 / 7).max() < 0.03


def test_an_absent_modality_is_never_seen():
    present = np.tile([[True, False, True]], (300, 1))
    share, visible_tokens = drawn(300, present=jax.numpy.asarray(present))
    assert (share[:, 1] == 0).all() and not np.asarray(visible_tokens.mask)[:, 16:32].any()
    np.testing.assert_allclose(share.sum(1), 1, rtol=1e-5)


def test_a_budget_larger_than_its_modality_is_refilled_from_the_others():
    share = np.tile([[1.0, 0.0, 0.0]], (5, 1)).astype(np.float32)
    visible_tokens = budgets.random_masking(jax.random.key(0), jax.numpy.asarray(share), SIZES, 20)
    counts = np.asarray(visible_tokens.mask).reshape(5, 3, 16).sum(-1)
    assert (counts[:, 0] == 16).all() and (counts.sum(1) == 20).all()


def test_one_visible_token_and_all_visible():
    _, visible_tokens = drawn(50, visible=1)
    assert (np.asarray(visible_tokens.mask).sum(1) == 1).all()
    assert np.asarray(budgets.all_visible(2, SIZES).mask).all()


def test_given_masks_must_keep_equal_counts():
    mask = np.zeros((2, 6), bool)
    mask[:, [4, 1]] = True
    np.testing.assert_array_equal(budgets.from_mask(mask).ids_keep, [[1, 4], [1, 4]])
    mask[0, 0] = True
    with pytest.raises(ConfigError, match="same number"):
        budgets.from_mask(mask)
    with pytest.raises(ConfigError, match="same number"):
        budgets.from_mask(np.zeros((2, 6), bool))


@pytest.mark.parametrize(
    ("sizes", "visible", "alphas"),
    [((4,), 5, (1.0,)), ((4,), 0, (1.0,)), ((4,), 2, (0.0,)), ((4, 4), 2, (1.0,)), ((), 1, ())],
)
def test_impossible_budgets_are_refused(sizes, visible, alphas):
    with pytest.raises(ConfigError):
        budgets.check(sizes, visible, alphas)
