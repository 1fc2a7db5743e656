"""Sampling against numbers of apple/ml-4m at commit cda590f (fourm/models/generate.py), run on these arguments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrep.generation import sampling

LOGITS = np.array([[2.0, 1.0, 0.5, 0.0, -1.0, 3.0], [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]], np.float32)


filtered = jax.jit(lambda logits, k, p: sampling.keep_top_p(sampling.keep_top_k(logits, k), p))


@pytest.mark.parametrize(
    ("k", "p", "kept"),
    [
        (3, 0.0, [[1, 1, 0, 0, 0, 1], [0, 0, 0, 1, 1, 1]]), (0.5, 0.0, [[1, 1, 0, 0, 0, 1], [0, 0, 0, 1, 1, 1]]),
        (0, 0.7, [[1, 0, 0, 0, 0, 1], [0, 0, 1, 1, 1, 1]]), (0, 0.3, [[0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 1, 1]]),
        (4, 0.8, [[1, 0, 0, 0, 0, 1], [0, 0, 1, 1, 1, 1]]), (0, 1.0, [[1] * 6] * 2), (0, 0.0, [[1] * 6] * 2),
    ],
)  # fmt: skip
def test_filters_equal_the_authors(k, p, kept):
    found = filtered(jnp.asarray(LOGITS), jnp.float32(k), jnp.float32(p))
    np.testing.assert_array_equal(np.isfinite(found), np.array(kept, bool))


def test_sampling_follows_the_tempered_distribution():
    logits = jnp.broadcast_to(jnp.asarray(LOGITS[0]), (20_000, 6))
    ids, chance = jax.jit(sampling.sample)(jax.random.key(0), logits, 2.0, 4, 0.0)
    kept = np.exp(LOGITS[0] / 2) * np.isin(np.arange(6), [0, 1, 2, 5])
    np.testing.assert_allclose(np.bincount(ids, minlength=6) / 20_000, kept / kept.sum(), atol=0.015)
    np.testing.assert_allclose(chance, (kept / kept.sum())[np.asarray(ids)], rtol=1e-5)
    cold, sure = sampling.sample(jax.random.key(0), jnp.asarray(LOGITS), 0.0)
    assert cold.tolist() == [5, 5] and sure.tolist() == [1.0, 1.0]


def test_guidance_is_a_weighted_sum_of_differences():
    plain, a, b = (jnp.asarray(np.random.default_rng(i).normal(size=(2, 5)), jnp.float32) for i in range(3))
    found = sampling.guide(jnp.stack([a, b]), plain, jnp.array([3.0, -0.5]))
    np.testing.assert_allclose(found, plain + 3 * (a - plain) - 0.5 * (b - plain), rtol=1e-5)
    np.testing.assert_allclose(sampling.guide(a[None], plain, jnp.ones(1)), a, rtol=1e-5)
