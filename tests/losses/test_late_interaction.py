"""Token-wise similarities against loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrep.losses import late_interaction

late_similarity = jax.jit(late_interaction.late_similarity, static_argnames=("chunk", "padding"))


def unit(seed, *shape):
    x = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return jnp.asarray(x / np.linalg.norm(x, axis=-1, keepdims=True))


def loop(x, y):
    """Both similarities, one pair of token sets at a time, in float64."""
    s_xy, s_yx = np.zeros((2, len(x[0]), len(y[0])))
    for i, (a, u) in enumerate(zip(*map(np.asarray, x))):
        for j, (b, v) in enumerate(zip(*map(np.asarray, y))):
            s = a[u].astype(np.float64) @ b[v].T
            if s.size:
                s_xy[i, j], s_yx[i, j] = s.max(1).mean(), s.max(0).mean()
    return s_xy, s_yx


@pytest.mark.parametrize("chunk", [None, 1, 3, 9])
def test_values_and_gradients_equal_a_loop_whatever_the_chunk(chunk):
    x, y = unit(0, 4, 3, 5), unit(1, 7, 6, 5)
    vx = jnp.ones((4, 3), bool).at[1, 2].set(False)
    vy = jnp.arange(6) < jnp.array([6, 1, 2, 3, 4, 5, 0])[:, None]  # the last text has no token
    found = late_similarity((x, vx), (y, vy), chunk)
    for a, b in zip(found, loop((x, vx), (y, vy))):
        np.testing.assert_allclose(a, b, atol=1e-6)
    np.testing.assert_array_equal(found[0][:, 6], 0.0)
    weights = jax.random.normal(jax.random.key(0), (2, 4, 7))

    def total(x, y, chunk):
        s = late_interaction.late_similarity((x, vx), (y, vy), chunk)
        return (weights[0] * s[0] + weights[1] * s[1]).sum()

    gradients = jax.jit(jax.grad(total, (0, 1)), static_argnums=2)
    for a, b in zip(gradients(x, y, chunk), gradients(x, y, None)):
        np.testing.assert_allclose(a, b, atol=1e-6)
    np.testing.assert_array_equal(gradients(x, y, chunk)[1][6], 0.0)


def test_low_precision_tokens_are_reduced_in_float32():
    x, y = (unit(0, 2, 3, 5), jnp.ones((2, 3), bool)), (unit(1, 2, 4, 5), jnp.ones((2, 4), bool))
    low = late_similarity(*((v.astype(jnp.bfloat16), valid) for v, valid in (x, y)))
    assert low[0].dtype == low[1].dtype == jnp.float32
    np.testing.assert_allclose(low[0], late_similarity(x, y)[0], atol=0.02)


def test_weights_replace_the_mean():
    x, y = (unit(0, 3, 4, 5), jnp.arange(4) < jnp.array([4, 2, 0])[:, None]), (unit(1, 5, 3, 5), jnp.ones((5, 3), bool))
    uniform = [v / jnp.maximum(v.sum(1, keepdims=True), 1) for v in (x[1], y[1])]
    for chunk in (None, 2):
        for a, b in zip(late_similarity(x, y, chunk, *uniform), late_similarity(x, y)):
            np.testing.assert_allclose(a, b, atol=1e-6)
    first = jnp.zeros((3, 4)).at[:, 0].set(1.0).at[1, 3].set(9.0)  # a weight of padding counts for nothing
    s_xy, _ = late_similarity(x, y, weights_x=first)
    np.testing.assert_allclose(s_xy[:2], jnp.einsum("bd,cmd->bcm", x[0][:2, 0], y[0]).max(-1), atol=1e-6)


def test_zero_padding_wins_where_all_similarities_are_negative():
    x = jnp.array([[[1.0, 0.0]]]), jnp.ones((1, 1), bool)
    y = jnp.array([[[-1.0, 0.0], [0.0, 1.0]]]), jnp.array([[True, False]])
    assert float(late_similarity(x, y)[0][0, 0]) == -1.0
    assert float(late_similarity(x, y, padding="zero")[0][0, 0]) == 0.0
