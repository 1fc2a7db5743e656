import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrep.errors import ConfigError
from mmrep.nn.attention import Attention
from mmrep.nn.config import TransformerConfig
from mmrep.nn.fusion import CoAttention, CoAttentionEncoder, JointEncoder
from mmrep.nn.transformer import Mlp

TWO = TransformerConfig(width=8, depth=1, heads=2, norm="post")


def draw(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


A, B = draw(0, 2, 3, 8), draw(1, 2, 4, 8)
VALID = jnp.array([[True, True, False], [True, True, True]])


def norm(params, x):
    x = np.asarray(x, np.float64)
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + TWO.epsilon)
    return x * params["scale"] + params["bias"]


def test_an_absent_part_is_a_learned_vector_whatever_its_content():
    model = JointEncoder(TWO)
    params = jax.jit(model.init)(jax.random.key(0), {"a": A, "b": B})["params"]
    assert {"type_a", "type_b", "absent_a", "absent_b"} <= {*params}
    run = jax.jit(lambda a, gone: model.apply({"params": params}, {"b": B, "a": a}, {"a": VALID}, {"a": gone}))
    gone = jnp.array([True, False])
    pooled, out = run(A, gone)
    np.testing.assert_array_equal(run(A.at[0].set(9.0), gone)[0], pooled)
    assert np.abs(run(A.at[1].set(9.0), gone)[0] - pooled)[1].max() > 1e-3
    # The padding of a part that is there has no effect; an absent part has none.
    here = jnp.array([False, False])
    np.testing.assert_allclose(run(A.at[0, 2].set(9.0), here)[0], run(A, here)[0], atol=1e-6)
    assert out["valid"].tolist()[0] == [True] * 7 and out["parts"]["a"].shape == (2, 3, 8)
    np.testing.assert_array_equal(out["parts"]["b"], out["tokens"][:, 3:])
    grads = jax.jit(jax.grad(lambda p: (model.apply({"params": p}, {"a": A, "b": B}, None, {"a": True})[0] ** 3).sum()))
    assert float(jnp.abs(grads(params)["absent_a"]).max()) > 0
    with pytest.raises(ConfigError, match="name its parts"):
        model.apply({"params": params}, {"a": A}, {"c": VALID})


@pytest.mark.parametrize("order", ["self, cross, mlp", "cross, self, mlp"])
def test_both_streams_attend_to_the_old_state_of_the_other(order):
    model = CoAttention(TWO, order, shared_cross=order[0] == "c")
    params = jax.jit(model.init)(jax.random.key(0), A, B)["params"]
    a, b = jax.jit(model.apply)({"params": params}, A, B, VALID)

    def attend(p, x, context, valid=None):
        mask = None if valid is None else valid[:, None, None]
        return Attention(TWO).apply({"params": p}, x, context, mask)[0]

    def rest(p, x, parts):
        for name, part in (*parts, ("mlp", lambda y: Mlp(TWO.hidden).apply({"params": p["mlp"]}, y))):
            x = jnp.asarray(norm(p[f"norm_{name}"], x + part(x)), jnp.float32)
        return x

    streams = (params["a"], A, B, VALID, None), (params["b"], B, A, None, VALID)
    for found, (p, x, other, own, others) in zip((a, b), streams):
        itself = "attn", lambda y, p=p, own=own: attend(p["attn"], y, y, own)
        if order[0] == "s":
            expected = rest(p, x, [itself, ("cross", lambda y, p=p: attend(p["cross"], y, other, others))])  # noqa: B023
        else:
            c = params["cross"]
            crossed = jnp.asarray(norm(c["norm"], x + attend(c["cross"], x, other, others)), jnp.float32)
            expected = rest(p, crossed, [itself])
        np.testing.assert_allclose(found, expected, atol=2e-5)


def test_bridges_bring_each_level_in():
    config = TransformerConfig(width=8, depth=3, heads=2, norm="post")
    model = CoAttentionEncoder(config)
    levels = [draw(i, 2, 3, 8) for i in range(3)], [draw(i + 5, 2, 4, 8) for i in range(3)]
    params = jax.jit(model.init)(jax.random.key(0), *levels)["params"]
    assert sorted(n for n in params if n.startswith("bridge")) == [
        "bridge_a01",
        "bridge_a02",
        "bridge_b01",
        "bridge_b02",
    ]
    a, _, out = jax.jit(model.apply)({"params": params}, *levels)
    x, y = levels[0][0], levels[1][0]
    for i in range(3):
        if i:
            x = norm(params[f"bridge_a{i:02d}"], levels[0][i] + x)
            y = norm(params[f"bridge_b{i:02d}"], levels[1][i] + y)
        layer = {"params": params[f"block{i:02d}"]}
        x, y = CoAttention(config).apply(layer, jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32))
    np.testing.assert_allclose(a, x, atol=2e-5)
    np.testing.assert_allclose(out["b"]["block02"], y, atol=2e-5)
    with pytest.raises(ConfigError, match="stream a has 2 levels and depth is 3"):
        model.apply({"params": params}, levels[0][:2], levels[1])


def test_pre_norm_streams_have_final_norms_and_normed_contexts():
    config = TransformerConfig(width=8, depth=1, heads=2, remat=True)
    for order in ("self, cross, mlp", "cross, self, mlp"):
        model = CoAttentionEncoder(config, order)
        (a, _, _), made = jax.jit(model.init_with_output)(jax.random.key(0), 5 * A, B)
        np.testing.assert_allclose(np.asarray(a).mean(-1), 0, atol=1e-5)
        assert {"norm_a", "norm_b"} <= {*made["params"]}
    with pytest.raises(ConfigError, match="unshared"):
        CoAttention(config, "self, cross, mlp", True).init(jax.random.key(0), A, B)
