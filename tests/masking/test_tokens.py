"""Which tokens masked language modelling corrupts, and which an encoder does without."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrep.errors import ConfigError
from mmrep.masking.tokens import leave_out, mask_tokens, preserve
from mmrep.modality import BOS, EOS, MASK, PAD


def texts(rows=400, length=32, vocab=50):
    r = np.random.default_rng(0)
    ids = r.integers(5, vocab, (rows, length))
    ends = r.integers(2, length, rows)
    at = np.arange(length)
    ids = np.where(at < ends[:, None], ids, np.where(at == ends[:, None], EOS, PAD))
    ids[:, 0] = BOS
    return jnp.asarray(ids, jnp.int32)


def test_masking_rates_and_what_is_never_masked():
    ids = texts()
    corrupted, target = jax.jit(mask_tokens, static_argnums=2)(jax.random.key(0), ids, 50)
    assert corrupted.dtype == jnp.int32 and target.dtype == bool
    ids, corrupted, target = map(np.asarray, (ids, corrupted, target))
    special = (ids == PAD) | (ids == BOS)
    assert not target[special].any()
    np.testing.assert_array_equal(corrupted[~target], ids[~target])
    assert abs(target[~special].mean() - 0.15) < 0.015
    hits, labels = corrupted[target], ids[target]
    assert abs((hits == MASK).mean() - 0.8) < 0.04
    # a random piece meets its own label once in 45 times
    assert abs((hits == labels).mean() - 0.1) < 0.03
    drawn = hits[(hits != MASK) & (hits != labels)]
    assert drawn.min() >= 5 and drawn.max() < 50 and len(np.unique(drawn)) > 20
    assert target[ids == EOS].any()


def test_masking_is_deterministic_by_key():
    ids = texts(8)
    a, b, c = (mask_tokens(jax.random.key(k), ids, 50)[0] for k in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert (np.asarray(a) != np.asarray(c)).any()


def test_masking_nothing_maskable_rate_extremes_and_small_vocabulary():
    ids = jnp.array([[BOS, PAD, PAD], [PAD, PAD, PAD]], jnp.int32)
    corrupted, target = mask_tokens(jax.random.key(0), ids, 50, rate=1.0)
    assert not target.any()
    np.testing.assert_array_equal(corrupted, ids)
    ids = texts(8)
    assert not mask_tokens(jax.random.key(0), ids, 50, rate=0.0)[1].any()
    target = mask_tokens(jax.random.key(0), ids, 50, rate=1.0)[1]
    np.testing.assert_array_equal(target, (ids != PAD) & (ids != BOS))
    with pytest.raises(ConfigError, match="first_piece"):
        mask_tokens(jax.random.key(0), ids, 5)


def test_tokens_that_are_left_out_and_preserved():
    valid = jnp.arange(11) < jnp.array([11, 11, 6, 2, 1])[:, None]
    left = jax.jit(leave_out, static_argnums=(2, 3))
    hidden = left(jax.random.key(0), valid, 0.4, 1)
    assert hidden.sum(1).tolist() == [4, 4, 2, 0, 0] and not (hidden & ~valid).any() and not hidden[:, 0].any()
    runs = left(jax.random.key(1), valid, 0.6, 3)
    assert runs.sum(1).tolist() == [6, 6, 3, 1, 0]
    assert (
        np.diff(np.flatnonzero(runs[0])).tolist().count(1) >= 3
    )  # a run of three, one that the count cuts, one at the end
    seen = preserve(valid & ~hidden, 7)
    for row, places, real in zip(np.asarray(valid & ~hidden), *map(np.asarray, seen)):
        assert places[real].tolist() == np.flatnonzero(row).tolist()
