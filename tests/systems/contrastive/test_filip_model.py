import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrep.errors import ConfigError
from mmrep.losses.contrastive import info_nce, symmetric_info_nce_of_logits
from mmrep.systems.contrastive.filip import model as late_interaction
from mmrep.systems.contrastive.filip.model import select_tokens

late_similarity = jax.jit(late_interaction.late_similarity, static_argnames="chunk")


def unit(seed, *shape):
    x = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return jnp.asarray(x / np.linalg.norm(x, axis=-1, keepdims=True))


def naive(x, vx, y, vy):
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    s_xy, s_yx = np.zeros((len(x), len(y))), np.zeros((len(x), len(y)))
    for i in range(len(x)):
        for j in range(len(y)):
            s = x[i][np.asarray(vx[i])] @ y[j][np.asarray(vy[j])].T
            if s.size:
                s_xy[i, j], s_yx[i, j] = s.max(1).mean(), s.max(0).mean()
    return s_xy, s_yx


def test_filip_golden_numbers():
    images = jnp.array([[[1, 0], [0, 1]], [[0.6, 0.8], [0.8, -0.6]]], jnp.float32)
    texts = jnp.array([[[1, 0], [0, -1], [0, 1]], [[0, 1], [0.6, 0.8], [0.8, 0.6]]], jnp.float32)
    valid = jnp.array([[True, True, False], [True, True, True]])
    s_i, s_t = late_similarity(images, jnp.ones((2, 2), bool), texts, valid)
    np.testing.assert_allclose(s_i, [[0.5, 0.9], [0.7, 0.64]], rtol=1e-6)
    np.testing.assert_allclose(s_t, [[0.5, 0.8666667], [0.7, 0.92]], rtol=1e-6)
    np.testing.assert_allclose(info_nce(s_i / 0.5).mean(), 0.9630234, rtol=1e-6)
    np.testing.assert_allclose(info_nce(s_t.T / 0.5).mean(), 0.7771253, rtol=1e-6)
    np.testing.assert_allclose(symmetric_info_nce_of_logits(s_i / 0.5, s_t.T / 0.5).mean(), 0.8700744, rtol=1e-6)


@pytest.mark.parametrize("chunk", [None, 1, 2, 3, 7, 9])
def test_values_and_gradients_equal_naive_and_plain(chunk):
    x, y = unit(0, 4, 3, 5), unit(1, 7, 6, 5)
    vx = jnp.ones((4, 3), bool).at[1, 2].set(False)
    vy = jnp.arange(6) < jnp.array([6, 1, 2, 3, 4, 5, 0])[:, None]  # the last text has no token at all
    found = late_similarity(x, vx, y, vy, chunk)
    for a, b in zip(found, naive(x, vx, y, vy)):
        np.testing.assert_allclose(a, b, atol=1e-6)
    np.testing.assert_array_equal(found[0][:, 6], 0.0)

    weights = jax.random.normal(jax.random.key(0), (2, 4, 7))

    def loss(x, y, chunk):
        s = late_similarity(x, vx, y, vy, chunk)
        return (weights[0] * s[0] + weights[1] * s[1]).sum()

    gradients = jax.jit(jax.grad(loss, (0, 1)), static_argnums=2)
    for a, b in zip(gradients(x, y, chunk), gradients(x, y, None)):
        assert np.isfinite(a).all()
        np.testing.assert_allclose(a, b, atol=1e-6)
    np.testing.assert_array_equal(gradients(x, y, chunk)[1][6], 0.0)


def test_padding_does_not_matter():
    x, y = unit(0, 2, 3, 5), unit(1, 3, 4, 5)
    vx, vy = jnp.ones((2, 3), bool), jnp.ones((3, 4), bool)
    wide = jnp.pad(y, ((0, 0), (0, 2), (0, 0)), constant_values=9.0)
    for a, b in zip(
        late_similarity(x, vx, y, vy), late_similarity(x, vx, wide, jnp.pad(vy, ((0, 0), (0, 2))))
    ):  # fmt: skip
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_low_precision_tokens_are_reduced_in_float32():
    x, y = unit(0, 2, 3, 5), unit(1, 2, 4, 5)
    vx, vy = jnp.ones((2, 3), bool), jnp.ones((2, 4), bool)
    low = late_similarity(x.astype(jnp.bfloat16), vx, y.astype(jnp.bfloat16), vy)
    assert low[0].dtype == low[1].dtype == jnp.float32
    np.testing.assert_allclose(low[0], late_similarity(x, vx, y, vy)[0], atol=0.02)


def test_select_tokens_keeps_the_best_valid_ones():
    tokens = jnp.array([[[1, 0], [0, 1], [0.6, 0.8], [0.8, 0.6]]], jnp.float32)
    others = jnp.array([[[1, 0], [0, 1]]], jnp.float32)
    valid, valid_others = jnp.array([[True, True, True, False]]), jnp.array([[True, False]])
    kept, kept_valid = select_tokens(tokens, valid, others, valid_others, 2)
    np.testing.assert_allclose(kept, [[[1, 0], [0.6, 0.8]]])
    assert kept_valid.all()
    assert not select_tokens(tokens, valid, others, valid_others, 4)[1][0, 3]  # padding comes last and stays invalid
    with pytest.raises(ConfigError, match=r"1\.\.4"):
        select_tokens(tokens, valid, others, valid_others, 5)
    with pytest.raises(ConfigError, match="chunk"):
        late_interaction.late_similarity(tokens, valid, others, valid_others, 0)
