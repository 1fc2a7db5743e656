import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrep.errors import ConfigError
from mmrep.nn.heads import LogitBias, LogScale, MaskedLmHead, Projection, l2_normalise


def test_l2_normalise_numbers_zero_and_dtype():
    np.testing.assert_allclose(l2_normalise(jnp.array([[3.0, 4.0], [0.0, 0.0]])), [[0.6, 0.8], [0, 0]], rtol=1e-6)
    gradient = jax.grad(lambda x: l2_normalise(x).sum())(jnp.zeros((1, 3)))
    assert np.isfinite(gradient).all()
    half = l2_normalise(jnp.full((1, 64), 200.0, jnp.float16))  # the sum of squares overflows float16
    assert half.dtype == jnp.float16
    np.testing.assert_allclose(half, np.full((1, 64), 0.125), rtol=1e-3)


def test_projection_equals_numpy():
    x = jax.random.normal(jax.random.key(0), (3, 5))
    params = Projection(4).init(jax.random.key(1), x)
    y = np.asarray(x) @ np.asarray(params["params"]["out"]["kernel"])
    np.testing.assert_allclose(Projection(4).apply(params, x), y / np.linalg.norm(y, axis=1, keepdims=True), rtol=1e-5)
    np.testing.assert_allclose(Projection(4, normalise=False).apply(params, x), y, rtol=1e-5)


def test_projection_with_hidden_has_two_layers():
    params = Projection(4, hidden=7, use_bias=True).init(jax.random.key(1), jnp.ones((2, 5)))["params"]
    shapes = jax.tree.map(jnp.shape, params)
    assert shapes == {"hidden": {"kernel": (5, 7), "bias": (7,)}, "out": {"kernel": (7, 4), "bias": (4,)}}


def test_log_scale_value_and_maximum():
    params = LogScale().init(jax.random.key(0))
    np.testing.assert_allclose(params["params"]["log_scale"], np.log(1 / 0.07), rtol=1e-6)
    np.testing.assert_allclose(LogScale().apply(params), 1 / 0.07, rtol=1e-6)
    high = {"params": {"log_scale": jnp.float32(6.0)}}
    np.testing.assert_allclose(LogScale().apply(high), 100.0, rtol=1e-6)
    np.testing.assert_allclose(LogScale(max=None).apply(high), np.exp(6.0), rtol=1e-6)


def test_log_scale_above_its_maximum_has_gradients_downwards_only():
    high = {"params": {"log_scale": jnp.float32(6.0)}}
    down = jax.grad(lambda p: LogScale().apply(p))(high)["params"]["log_scale"]
    up = jax.grad(lambda p: -LogScale().apply(p))(high)["params"]["log_scale"]
    np.testing.assert_allclose(down, 100.0, rtol=1e-6)
    assert up == 0
    inside = {"params": {"log_scale": jnp.float32(2.0)}}
    np.testing.assert_allclose(
        jax.grad(lambda p: -LogScale().apply(p))(inside)["params"]["log_scale"], -np.exp(2.0), rtol=1e-6
    )


def test_scalars_are_strong_float32():
    for module in (LogScale(), LogitBias()):
        for leaf in jax.tree.leaves(module.init(jax.random.key(0))):
            assert leaf.dtype == jnp.float32 and not leaf.weak_type
    assert LogitBias().apply(LogitBias().init(jax.random.key(0))) == -10


def test_errors_name_the_field():
    with pytest.raises(ConfigError, match="initial"):
        LogScale(initial=0.0).init(jax.random.key(0))
    with pytest.raises(ConfigError, match="dim"):
        Projection(0).init(jax.random.key(0), jnp.ones((1, 2)))


def test_masked_lm_head_equals_numpy_with_gradients_for_the_table():
    tokens, table = jax.random.normal(jax.random.key(0), (2, 3, 4)), jax.random.normal(jax.random.key(1), (7, 4))
    params = MaskedLmHead().init(jax.random.key(2), tokens, table)["params"]
    params["bias"] = jnp.arange(7.0)
    x = np.asarray(tokens @ params["transform"]["kernel"])
    x = np.asarray(jax.nn.gelu(x, approximate=False))
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    found = MaskedLmHead().apply({"params": params}, tokens, table)
    np.testing.assert_allclose(found, x @ np.asarray(table).T + np.arange(7), rtol=1e-4, atol=1e-5)
    gradient = jax.grad(lambda t: MaskedLmHead().apply({"params": params}, tokens, t).sum())(table)
    assert float(jnp.abs(gradient).min()) > 0
