import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrep.errors import ConfigError
from mmrep.nn.config import TransformerConfig
from mmrep.nn.encoders.text import TextEncoder, TextTransformer
from mmrep.nn.pooling import last_pool, mean_pool

KEY = jax.random.key(0)


def shape(width, depth, heads, **options):
    return TransformerConfig(width=width, depth=depth, heads=heads, **options)


IDS = np.array([[1, 9, 8, 7, 2], [1, 6, 2, 0, 0]], np.int32)


def test_pooling_of_valid_tokens():
    tokens = jnp.arange(12.0).reshape(2, 3, 2)
    valid = jnp.array([[True, True, False], [False, False, False]])
    np.testing.assert_array_equal(last_pool(tokens, valid), [[2, 3], [6, 7]])
    np.testing.assert_array_equal(mean_pool(tokens, valid), [[1, 2], [0, 0]])


@pytest.mark.parametrize(
    "pool, causal, norm", [("eos", True, "pre"), ("mean", True, "pre"), ("mean", False, "pre"), ("cls", False, "post")]
)
def test_padding_has_no_effect(pool, causal, norm):
    module = TextTransformer(TextEncoder(shape(16, 1, 2, norm=norm), vocab=20, length=12, causal=causal, pool=pool))
    params = jax.jit(module.init)(KEY, IDS)
    run = jax.jit(module.apply)
    pooled, out = run(params, IDS)
    padded, padded_out = run(params, np.pad(IDS, ((0, 0), (0, 7))))
    np.testing.assert_allclose(padded, pooled, atol=1e-6)
    for i, n in enumerate((5, 3)):
        np.testing.assert_allclose(padded_out["tokens"][i, :n], out["tokens"][i, :n], atol=1e-6)
    np.testing.assert_array_equal(padded_out["valid"].sum(1), [5, 3])
    alone, _ = run(params, IDS[1:, :3])
    np.testing.assert_allclose(alone[0], pooled[1], atol=1e-6)


def test_pooled_is_the_eos_or_cls_token():
    for pool, places in [("eos", (4, 2)), ("cls", (0, 0))]:
        module = TextTransformer(TextEncoder(shape(32, 1, 2), vocab=20, length=6, pool=pool))
        pooled, out = jax.jit(module.init_with_output)(KEY, IDS)[0]
        for i, place in enumerate(places):
            np.testing.assert_array_equal(pooled[i], out["tokens"][i, place])


@pytest.mark.parametrize("pool, causal, norm", [("eos", True, "pre"), ("cls", False, "post")])
def test_pooled_only_equals_pooled_with_gradients(pool, causal, norm):
    config = TextEncoder(shape(16, 2, 2, norm=norm), vocab=20, length=6, pool=pool, causal=causal)
    params = jax.jit(TextTransformer(config).init)(KEY, IDS)

    def run(pooled_only):
        def f(params):
            pooled, _ = TextTransformer(config, pooled_only=pooled_only).apply(params, IDS)
            return jnp.sin(pooled).sum(), pooled

        (_, pooled), gradient = jax.value_and_grad(f, has_aux=True)(params)
        return pooled, gradient

    fast, slow = (jax.jit(run, static_argnums=0)(flag) for flag in (True, False))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-5), fast, slow)


def test_only_causal_tokens_are_independent_of_later_ones():
    changed = IDS.copy()
    changed[0, 3] = 11
    for causal in (True, False):
        module = TextTransformer(TextEncoder(shape(32, 1, 2), vocab=20, length=6, causal=causal))
        params = jax.jit(module.init)(KEY, IDS)
        run = jax.jit(lambda ids, module=module, params=params: module.apply(params, ids)[1]["tokens"])
        same = np.allclose(run(IDS)[0, :3], run(changed)[0, :3], atol=1e-7)
        assert same == causal


def test_embedding_init_and_parameter_tree():
    module = TextTransformer(TextEncoder(shape(32, 1, 2, norm="post"), vocab=500, length=6))
    params = jax.jit(module.init)(KEY, IDS)["params"]
    table = params["embed"]["embedding"]
    assert table.shape == (500, 32) and 0.0195 < table.std() < 0.0205
    assert set(params) == {"embed", "positions", "embed_norm", "transformer"}
    assert set(params["transformer"]) == {"block00"}  # post-norm has no final LayerNorm
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(params))


def test_an_empty_text_is_finite_with_finite_gradient():
    module = TextTransformer(TextEncoder(shape(32, 1, 2), vocab=20, length=6, pool="mean"))
    params = jax.jit(module.init)(KEY, IDS)
    value, gradient = jax.jit(jax.value_and_grad(lambda p: module.apply(p, np.zeros((1, 4), np.int32))[0].sum()))(
        params
    )
    assert value == 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_errors_name_the_field():
    with pytest.raises(ConfigError, match="raise the length"):
        TextTransformer(TextEncoder(shape(32, 1, 2), vocab=20, length=4)).init(KEY, IDS)
    with pytest.raises(ConfigError, match="pooled_only"):
        TextTransformer(TextEncoder(shape(32, 1, 2), vocab=20, length=8, pool="mean"), pooled_only=True).init(KEY, IDS)
    with pytest.raises(ConfigError, match="scan=False"):
        config = TextEncoder(shape(32, 1, 2, scan=True), vocab=20, length=8, pool="eos")
        TextTransformer(config, pooled_only=True).init(KEY, IDS)
    with pytest.raises(ConfigError, match="causal"):
        TextEncoder(causal=True, pool="cls")
