import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrep.errors import ConfigError
from mmrep.nn.attention import (
    Attention,
    attend,
    block_causal_mask,
    causal_mask,
    padding_mask,
    prefix_mask,
    query_text_mask,
)
from mmrep.nn.config import TransformerConfig
from mmrep.nn.positions import rotary

TWO = TransformerConfig(width=8, heads=2)


def naive(params, x, context, config, mask=None, bias=None, positions=None, context_positions=None):
    """Attention with loops over batch, heads and queries, in float64."""
    heads, groups = config.heads, config.key_heads

    def dense(name, v):
        return np.asarray(v, np.float64) @ np.asarray(params[name]["kernel"]) + np.asarray(
            params[name].get("bias", 0.0)
        )

    def each_head(name, v, n_heads, at):
        found = dense(name, v).reshape(*v.shape[:2], n_heads, -1)
        if config.qk_norm and name != "value":
            scale = np.asarray(params[f"norm_{name}"]["scale"])
            if config.norm_type == "layer":
                found = found - found.mean(-1, keepdims=True)
            found = found / np.sqrt((found**2).mean(-1, keepdims=True) + config.epsilon) * scale
        if config.rotary and at is not None and name != "value":
            found = rotated(found, np.asarray(at), config.rotary)
        return found

    q = each_head("query", x, heads, positions)
    k, v = (each_head(name, context, groups, context_positions) for name in ("key", "value"))
    b, n, _, dim = q.shape
    m = k.shape[1]
    mask = np.broadcast_to(True if mask is None else np.asarray(mask), (b, heads, n, m))
    bias = np.broadcast_to(0.0 if bias is None else np.asarray(bias), (b, heads, n, m))
    y = np.zeros_like(q)
    for i in range(b):
        for h in range(heads):
            g = h * groups // heads
            for t in range(n):
                keep = mask[i, h, t]
                logits = k[i, keep, g] @ q[i, t, h] / np.sqrt(dim) + bias[i, h, t][keep]
                weights = np.exp(logits - logits.max())
                y[i, t, h] = weights / weights.sum() @ v[i, keep, g]
    return dense("out", y.reshape(b, n, -1))


def rotated(x, positions, base):
    """One pair of channels at a time: a complex number times exp(i angle), Llama's pairing of i with i + K/2."""
    half, y = x.shape[-1] // 2, np.zeros_like(x)
    for c in range(half):
        turn = np.exp(1j * np.broadcast_to(positions, x.shape[:2]) * base ** (-2 * c / x.shape[-1]))[..., None]
        z = (x[..., c] + 1j * x[..., c + half]) * turn
        y[..., c], y[..., c + half] = z.real, z.imag
    return y


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
    y, _ = jax.jit(Attention(TWO).apply)(params, x, mask=causal_mask(5))
    np.testing.assert_allclose(y, naive(params["params"], x, x, TWO, causal_mask(5)), atol=1e-5)


def test_cross_attention_with_padding_and_bias_equals_naive(setting):
    x, context, valid, bias, key = setting
    params = jax.jit(Attention(TWO).init)(key, x, context)
    y, _ = jax.jit(Attention(TWO).apply)(params, x, context, padding_mask(valid), bias)
    np.testing.assert_allclose(y, naive(params["params"], x, context, TWO, padding_mask(valid), bias), atol=1e-5)


OPTIONS = {
    "rotary": {"rotary": 100.0},
    "norm": {"qk_norm": True},
    "rms": {"qk_norm": True, "norm_type": "rms", "use_bias": False},
    "grouped": {"kv_heads": 2},
    "one": {"kv_heads": 1, "head_dim": 6},
    "all": {"rotary": 100.0, "qk_norm": True, "norm_type": "rms", "kv_heads": 2, "use_bias": "qkv", "head_dim": 4},
}


def randomised(params):
    """Scales, biases and kernels all different from their initial values."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(7), len(leaves))
    return tree.unflatten([x + 0.3 * jax.random.normal(key, x.shape) for x, key in zip(leaves, keys)])


@pytest.mark.parametrize("implementation, name", [*(("matmul", name) for name in OPTIONS), ("xla", "all")])
def test_options_equal_naive(setting, implementation, name):
    x, *_, key = setting
    config = TransformerConfig(width=8, heads=4, implementation=implementation, **OPTIONS[name])
    positions = jnp.array([[0, 1, 2, 3, 4], [3, 4, 5, 8, 9]])
    params = randomised(jax.jit(Attention(config).init)(key, x, positions=positions))
    y, _ = jax.jit(Attention(config).apply)(params, x, mask=causal_mask(5), positions=positions)
    want = naive(params["params"], x, x, config, causal_mask(5), None, positions, positions)
    np.testing.assert_allclose(y, want, atol=2e-5)
    # Key biases exist where softmax does not cancel them.
    biased = bool(config.use_bias) and (config.qk_norm or config.rotary is not None)
    assert ("bias" in params["params"]["key"]) == biased
    assert ("bias" in params["params"]["out"]) == (config.use_bias is True)


def test_rotary_cross_attention_between_positions(setting):
    x, context, _, _, key = setting
    config = TransformerConfig(width=8, heads=2, rotary=10.0)
    at, there = jnp.array([[2, 3, 4, 5, 6]]), jnp.arange(7)[None]
    params = randomised(jax.jit(Attention(config).init)(key, x, context, positions=at, context_positions=there))
    y, _ = jax.jit(Attention(config).apply)(params, x, context, positions=at, context_positions=there)
    want = naive(params["params"], x, context, config, None, None, at, there)
    np.testing.assert_allclose(y, want, atol=1e-5)


def test_rotary_logits_depend_on_the_distance_alone():
    q, k = jax.random.normal(jax.random.key(0), (2, 1, 1, 1, 8))
    q, k = (jnp.broadcast_to(x, (1, 6, 1, 8)) for x in (q, k))
    for shift in (0, 1000):
        at = jnp.arange(6)[None] + shift
        logits = np.einsum("bnhk,bmhk->nm", rotary(q, at), rotary(k, at))
        for i in range(5):
            np.testing.assert_allclose(logits[i + 1, i], logits[1, 0], atol=1e-3)
            np.testing.assert_allclose(logits[i, i + 1], logits[0, 1], atol=1e-3)
    np.testing.assert_array_equal(rotary(q, None), rotary(q, jnp.arange(6)[None]))


def test_rotary_is_llamas_rotate_half():
    """x cos + rotate_half(x) sin, with the angles written twice, as the released Llama code for these weights does."""
    x, at = np.random.default_rng(0).standard_normal((2, 5, 3, 8)), np.array([[0, 1, 7, 90, 2000]])
    angles = at[..., None] * 10_000.0 ** (-np.arange(0, 8, 2) / 8)
    angles = np.concatenate([angles, angles], axis=-1)[:, :, None]
    half = np.concatenate([-x[..., 4:], x[..., :4]], axis=-1)
    want = x * np.cos(angles) + half * np.sin(angles)
    np.testing.assert_allclose(rotary(jnp.asarray(x, jnp.float32), jnp.asarray(at)), want, atol=2e-4)


def test_masked_keys_have_no_effect_and_no_gradient(setting):
    x, context, valid, _, key = setting
    params = jax.jit(Attention(TWO).init)(key, x, context)
    total = jax.jit(lambda c: Attention(TWO).apply(params, x, c, padding_mask(valid))[0][1].sum())
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


def test_a_query_without_keys_gets_the_mean():
    q, k, v, _ = qkv()
    hidden = jnp.zeros((1, 1, 5, 7), bool)
    for implementation in ("matmul", "xla"):
        y = attend(q, k, v, hidden, implementation=implementation)
        np.testing.assert_allclose(y, np.broadcast_to(v.mean(1, keepdims=True), y.shape), atol=1e-6)


def test_bfloat16_error_of_both_implementations():
    q, k, v, _ = qkv(jnp.bfloat16)
    truth = attend(*(part.astype(jnp.float32) for part in (q, k, v)), implementation="xla")
    for implementation in ("matmul", "xla"):
        y = attend(q, k, v, implementation=implementation)
        assert y.dtype == jnp.bfloat16
        np.testing.assert_allclose(y.astype(jnp.float32), truth, atol=0.02)


def test_masks():
    np.testing.assert_array_equal(causal_mask(3)[0, 0], [[1, 0, 0], [1, 1, 0], [1, 1, 1]])
    np.testing.assert_array_equal(causal_mask(2, 1, 4)[0, 0], [[1, 1, 0, 0], [1, 1, 1, 0]])
    assert padding_mask(jnp.ones((2, 4), bool)).shape == (2, 1, 1, 4)


def test_bfloat16_keeps_float32_parameters(setting):
    x, *_, key = setting
    module = Attention(TWO, dtype=jnp.bfloat16)
    params = jax.jit(module.init)(key, x)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    y, _ = jax.jit(module.apply)(params, x)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(y.astype(jnp.float32), Attention(TWO).apply(params, x)[0], atol=0.05)


def test_errors_name_the_field(setting):
    with pytest.raises(ConfigError, match="width is 16"):
        Attention(TransformerConfig(width=16, heads=2)).init(setting[-1], setting[0])
    with pytest.raises(ConfigError, match="implementation"):
        attend(*qkv()[:3], implementation="flash")


def test_masks_of_prefixes_frames_and_queries():
    found = prefix_mask(jnp.array([0, 2]), 3)[:, 0].astype(int)
    assert found.tolist() == [[[1, 0, 0], [1, 1, 0], [1, 1, 1]], [[1, 1, 0], [1, 1, 0], [1, 1, 1]]]
    assert block_causal_mask(2, 2)[0, 0].astype(int).tolist() == [
        [1, 1, 0, 0],
        [1, 1, 0, 0],
        [1, 1, 1, 1],
        [1, 1, 1, 1],
    ]
    expected = {
        "contrast": [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]],
        "match": [[1, 1, 1, 1]] * 4,
        "generate": [[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]],
    }
    for mode, rows in expected.items():
        assert query_text_mask(2, 2, mode)[0, 0].astype(int).tolist() == rows
    with pytest.raises(ConfigError, match="mode is 'both'"):
        query_text_mask.__wrapped__(2, 2, "both")
