import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrep.errors import ConfigError
from mmrep.nn.attention import Attention, attend, causal_mask, padding_mask
from mmrep.nn.config import TransformerConfig

TWO = TransformerConfig(width=8, heads=2)


def naive(params, x, context, heads, mask=None, bias=None):
    """Attention with loops over batch, heads and queries, in float64."""

    def dense(name, v):
        return np.asarray(v, np.float64) @ np.asarray(params[name]["kernel"]) + np.asarray(
            params[name].get("bias", 0.0)
        )

    q, k, v = dense("query", x), dense("key", context), dense("value", context)
    b, n, d = q.shape
    m, dh = k.shape[1], d // heads
    mask = np.broadcast_to(True if mask is None else np.asarray(mask), (b, heads, n, m))
    bias = np.broadcast_to(0.0 if bias is None else np.asarray(bias), (b, heads, n, m))
    y = np.zeros_like(q)
    for i in range(b):
        for h in range(heads):
            part = slice(h * dh, (h + 1) * dh)
            for t in range(n):
                keep = mask[i, h, t]
                logits = k[i][keep][:, part] @ q[i, t, part] / np.sqrt(dh) + bias[i, h, t][keep]
                weights = np.exp(logits - logits.max())
                y[i, t, part] = weights / weights.sum() @ v[i][keep][:, part]
    return dense("out", y)


@pytest.fixture(scope="module")
def setting():
    keys = jax.random.split(jax.random.key(0), 4)
    x, context = jax.random.normal(keys[0], (2, 5, 8)), jax.random.normal(keys[1], (2, 7, 6))
    valid = jnp.array([[True] * 7, [True] * 3 + [False] * 4])
    bias = jax.random.normal(keys[2], (1, 2, 5, 7))
    return x, context, valid, bias, keys[3]


def test_self_attention_causal_equals_naive(setting):
    x, *_, key = setting
    params = jax.jit(Attention(TWO).init)(key, x)
    y = jax.jit(Attention(TWO).apply)(params, x, mask=causal_mask(5))
    np.testing.assert_allclose(y, naive(params["params"], x, x, 2, causal_mask(5)), atol=1e-5)


def test_cross_attention_with_padding_and_bias_equals_naive(setting):
    x, context, valid, bias, key = setting
    params = jax.jit(Attention(TWO).init)(key, x, context)
    y = jax.jit(Attention(TWO).apply)(params, x, context, padding_mask(valid), bias)
    np.testing.assert_allclose(y, naive(params["params"], x, context, 2, padding_mask(valid), bias), atol=1e-5)


def test_hidden_keys_have_no_influence_nor_gradient(setting):
    x, context, valid, _, key = setting
    params = jax.jit(Attention(TWO).init)(key, x, context)
    total = jax.jit(lambda c: Attention(TWO).apply(params, x, c, padding_mask(valid))[1].sum())
    assert total(context) == total(context.at[1, 3:].set(50.0))
    gradient = jax.jit(jax.grad(total))(context)
    assert (gradient[1, 3:] == 0).all() and (gradient[1, :3] != 0).all()


def qkv(dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(3), 4)
    q = jax.random.normal(keys[0], (2, 5, 2, 4), dtype)
    k, v = (jax.random.normal(key, (2, 7, 2, 4), dtype) for key in keys[1:3])
    return q, k, v, jax.random.normal(keys[3], (1, 2, 5, 7))


@pytest.mark.parametrize("masked, biased", [(False, False), (True, False), (True, True)])
def test_matmul_equals_xla_with_gradients(masked, biased):
    q, k, v, bias = qkv()
    mask = causal_mask(7)[:, :, 2:] & padding_mask(jnp.arange(7) < jnp.array([[7], [4]])) if masked else None
    bias = bias if biased else jnp.zeros((1, 1, 1, 7))

    def both(implementation):
        def f(q, k, v, bias):
            y = attend(q, k, v, mask, bias if biased else None, implementation)
            return jnp.sum(jnp.sin(y)), y

        return jax.jit(jax.value_and_grad(f, argnums=(0, 1, 2, 3), has_aux=True))(q, k, v, bias)

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), both("matmul"), both("xla"))


def test_a_query_without_keys_gets_the_mean_in_both():
    q, k, v, _ = qkv()
    hidden = jnp.zeros((1, 1, 5, 7), bool)
    for implementation in ("matmul", "xla"):
        y = attend(q, k, v, hidden, implementation=implementation)
        np.testing.assert_allclose(y, np.broadcast_to(v.mean(1, keepdims=True), y.shape), atol=1e-6)


def test_bfloat16_matmul_is_as_near_the_truth_as_xla():
    q, k, v, _ = qkv(jnp.bfloat16)
    truth = attend(*(part.astype(jnp.float32) for part in (q, k, v)), implementation="xla")
    for implementation in ("matmul", "xla"):
        y = attend(q, k, v, implementation=implementation)
        assert y.dtype == jnp.bfloat16
        np.testing.assert_allclose(y.astype(jnp.float32), truth, atol=0.02)


def test_masks():
    np.testing.assert_array_equal(causal_mask(3)[0, 0], [[1, 0, 0], [1, 1, 0], [1, 1, 1]])
    assert padding_mask(jnp.ones((2, 4), bool)).shape == (2, 1, 1, 4)


def test_bfloat16_keeps_float32_parameters(setting):
    x, *_, key = setting
    module = Attention(TWO, dtype=jnp.bfloat16)
    params = jax.jit(module.init)(key, x)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    y = jax.jit(module.apply)(params, x)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(y.astype(jnp.float32), Attention(TWO).apply(params, x), atol=0.05)


def test_errors_name_the_field(setting):
    with pytest.raises(ConfigError, match="width is 16"):
        Attention(TransformerConfig(width=16, heads=2)).init(setting[-1], setting[0])
    with pytest.raises(ConfigError, match="implementation"):
        attend(*qkv()[:3], implementation="flash")
