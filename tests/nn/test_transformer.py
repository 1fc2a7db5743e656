from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from mmrep.errors import ConfigError
from mmrep.nn.attention import causal_mask, padding_mask
from mmrep.nn.config import GATED, TransformerConfig
from mmrep.nn.transformer import Block, Mlp, Transformer, gelu, init_cache, stack_blocks, unstack_blocks

KEY = jax.random.key(0)


def shape(width, depth=1, heads=2, **options):
    return TransformerConfig(width=width, depth=depth, heads=heads, **options)


def close(a, b, atol=1e-5):
    jax.tree.map(lambda u, v: np.testing.assert_allclose(u, v, atol=atol), a, b)


@pytest.mark.parametrize("norm, remat", [("pre", True), ("post", False)])
def test_scanned_equals_looped_with_gradients(norm, remat):
    x, context = jax.random.normal(KEY, (2, 5, 16)), jax.random.normal(KEY, (2, 3, 8))
    config = shape(16, 3, norm=norm)
    looped = Transformer(config, cross=True)
    scanned = Transformer(replace(config, scan=True, remat=remat), cross=True)
    params = jax.jit(looped.init)(KEY, x, causal_mask(5), context)["params"]
    stacked = stack_blocks(params)
    close(unstack_blocks(stacked), params, atol=0)
    shapes = jax.eval_shape(scanned.init, KEY, x, causal_mask(5), context)["params"]
    assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, stacked)

    def loss(module):
        def f(params):
            y, out = module.apply({"params": params}, x, causal_mask(5), context)
            return (y**3).sum() / 50, (y, out)

        return jax.jit(jax.value_and_grad(f, has_aux=True))

    (loss_a, (y_a, out_a)), grad_a = loss(looped)(params)
    (loss_b, (y_b, out_b)), grad_b = loss(scanned)(stacked)
    close((loss_b, y_b), (loss_a, y_a))
    close(unstack_blocks(grad_b), grad_a, atol=1e-4)
    for i in range(3):
        close(out_b["blocks"][i], out_a[f"block{i:02d}"])
    close(out_a["tokens"], y_a, atol=0)


def test_scanned_layers_have_different_inits():
    kernel = Transformer(shape(8, 2, scan=True)).init(KEY, jnp.ones((1, 2, 8)))["params"]["blocks"]["mlp"]["up"][
        "kernel"
    ]
    assert kernel.shape == (2, 8, 32) and (kernel[0] != kernel[1]).all()


def test_stack_blocks_reaches_nested_trees_in_numeric_order():
    tree = {"text": {"transformer": {f"block{i:02d}": {"w": jnp.full(2, i)} for i in range(12)}, "norm": jnp.ones(1)}}
    stacked = stack_blocks(tree)
    np.testing.assert_array_equal(stacked["text"]["transformer"]["blocks"]["w"][:, 0], range(12))
    close(unstack_blocks(stacked), tree, atol=0)


def norm(x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)


@pytest.mark.parametrize("order", ["pre", "post"])
def test_pre_and_post_norm(order):
    """With one key to attend to, attention is linear, so that a block can be written out by hand."""
    x = np.asarray(jax.random.normal(KEY, (1, 1, 8)))
    block = Block(shape(8, norm=order))
    params = jax.jit(block.init)(KEY, x)["params"]
    attn = lambda v: v @ params["attn"]["value"]["kernel"] @ params["attn"]["out"]["kernel"]  # noqa: E731
    mlp = lambda v: jax.nn.gelu(v @ params["mlp"]["up"]["kernel"], approximate=False) @ params["mlp"]["down"]["kernel"]  # noqa: E731
    if order == "pre":
        y = x + attn(norm(x))
        expected = y + mlp(norm(y))
    else:
        y = norm(x + attn(x))
        expected = norm(y + mlp(y))
    close(jax.jit(block.apply)({"params": params}, x)[0], expected)


def test_causal_mask_over_several_layers():
    x = jax.random.normal(KEY, (1, 6, 16))
    module = Transformer(shape(16, 2))
    params = jax.jit(module.init)(KEY, x)
    run = jax.jit(lambda x: module.apply(params, x, causal_mask(6))[0])
    changed = run(x.at[:, 3].add(1.0))
    np.testing.assert_array_equal(changed[:, :3], run(x)[:, :3])
    assert (changed[:, 3:] != run(x)[:, 3:]).any(-1).all()


def test_masked_context_has_no_effect():
    x, context = jax.random.normal(KEY, (1, 4, 16)), jax.random.normal(KEY, (1, 3, 16))
    mask = jnp.array([True, True, False])[None, None, None]
    module = Transformer(shape(16), cross=True)
    params = jax.jit(module.init)(KEY, x, None, context)
    run = jax.jit(lambda c: module.apply(params, x, None, c, mask)[0])
    np.testing.assert_array_equal(run(context), run(context.at[:, 2].set(9.0)))


def test_attention_biases_and_the_shared_norm_of_the_context():
    """A bias of -1e9 equals a mask, also with `at`; a normalised context is invariant to its scale."""
    x, context = jax.random.normal(KEY, (2, 4, 16)), jax.random.normal(KEY, (2, 3, 16))
    module = Transformer(shape(16, 2), cross=True, norm_context="shared")
    params = jax.jit(module.init)(KEY, x, None, context)
    keep, keep_context = causal_mask(4), jnp.array([True, True, False])[None, None, None]
    whole = jax.jit(lambda x, *rest: module.apply(params, x, *rest)[0])
    bias, context_bias = (jnp.where(m, 0.0, -1e9) for m in (keep, keep_context))
    masked = whole(x, keep, context, keep_context)
    close(whole(x, None, context, None, None, bias, context_bias), masked)
    at = jnp.array([1, 2])
    close(whole(x, None, context, None, at, bias, context_bias)[:, 0], masked[jnp.arange(2), at])
    assert not np.allclose(whole(x, None, context), masked, atol=1e-3)
    close(whole(x, None, 3 * context + 1), whole(x, None, context), atol=1e-4)
    plain = Transformer(shape(16, 2), cross=True)
    assert not np.allclose(plain.apply(params, x, None, context)[0], whole(x, None, context), atol=1e-3)


@pytest.mark.parametrize(
    "activation, at_one",
    [
        ("gelu", 0.8413447),
        ("gelu_tanh", 0.8411920),
        ("quick_gelu", 0.8457958),
        ("relu", 1),
        ("swiglu", 0.7310586),
        ("geglu", 0.8411920),
    ],
)
def test_activations(activation, at_one):
    """At 1, and times the gate of 2 where there is one."""
    one = {"kernel": jnp.ones((1, 1)), "bias": jnp.zeros(1)}
    two = {"kernel": jnp.full((1, 1), 2.0), "bias": jnp.zeros(1)}
    gated = activation in GATED
    params = {"up": one, "down": one} | ({"gate": two} if gated else {})
    y = Mlp(1, activation=activation).apply({"params": params}, jnp.ones((1, 1)))
    np.testing.assert_allclose(y, [[2 * at_one if gated else at_one]], rtol=1e-6)


@pytest.mark.parametrize("options", [{}, {"scan": True}, {"remat": True}])
def test_stochastic_depth_drops_parts_of_whole_examples(options):
    config = shape(8, 3, drop_path=0.5, **options)
    model = Transformer(config, final_norm=False)
    x = jax.random.normal(jax.random.key(0), (600, 2, 8))
    params = jax.jit(model.init)(jax.random.key(1), x)
    plain = Transformer(replace(config, drop_path=0.0), final_norm=False)
    without, whole = jax.jit(lambda: (model.apply(params, x)[0], plain.apply(params, x)))()
    np.testing.assert_array_equal(without, whole[0])  # no rng, as where one infers
    blocks = jax.jit(lambda key: model.apply(params, x, rngs={"drop": key})[1])(jax.random.key(2))
    first, second, third = blocks["blocks"] if "scan" in options else (blocks[f"block{i:02d}"] for i in range(3))
    whole = whole[1]
    np.testing.assert_allclose(first, whole["blocks"][0] if "scan" in options else whole["block00"], atol=1e-6)
    # Rates 0, 1/4, 1/2: of both parts at once 1/16 and 1/4 of the examples, all tokens of each.
    for before, after, share in ((first, second, 1 / 16), (second, third, 1 / 4)):
        same = np.asarray(before == after).all(-1)
        np.testing.assert_array_equal(same[:, 0], same[:, 1])
        assert abs(same[:, 0].mean() - share) < 4 * (share * (1 - share) / 600) ** 0.5


def test_kept_parts_are_scaled_up():
    block = Block(shape(8))
    x = jnp.repeat(jax.random.normal(jax.random.key(0), (1, 2, 8)), 64, axis=0)
    params = jax.jit(block.init)(jax.random.key(1), x)
    silent = jax.tree_util.tree_map_with_path(lambda path, v: v * ("attn" not in str(path)), params)  # the MLP alone
    want = jax.jit(block.apply)(silent, x)[0] - x
    found = jax.jit(lambda: block.apply(silent, x, drop=0.75, rngs={"drop": jax.random.key(3)})[0] - x)()
    kept = np.abs(found).max((1, 2)) > 0
    assert 4 < kept.sum() < 32
    np.testing.assert_allclose(found[kept], 4 * want[kept], atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"scan": True}])
def test_dropout_zeroes_numbers_of_each_part_and_scales_the_others(options):
    config = shape(8, 2, dropout=0.25, **options)
    model = Transformer(config, final_norm=False)
    x = jax.random.normal(jax.random.key(0), (50, 4, 8))
    params = jax.jit(model.init)(jax.random.key(1), x)
    silent = jax.tree_util.tree_map_with_path(lambda path, v: v * ("attn" not in str(path)), params)  # MLPs alone
    plain = jax.jit(model.apply)(silent, x)[1]  # no rng, as where one infers
    found = jax.jit(lambda key: model.apply(silent, x, rngs={"dropout": key})[1])(jax.random.key(2))
    first, second = found["blocks"] if "scan" in options else (found["block00"], found["block01"])
    want = (plain["blocks"][0] if "scan" in options else plain["block00"]) - x
    part, kept = np.asarray(first - x), np.abs(first - x) > 1e-6
    np.testing.assert_allclose(part[kept], (want / 0.75)[kept], rtol=1e-2, atol=1e-5)
    assert abs(kept.mean() - 0.75) < 4 * (0.25 * 0.75 / kept.size) ** 0.5
    assert (kept != (np.abs(second - first) > 1e-6)).mean() > 0.2, "both blocks drop the same numbers"


EVERY_OPTION = {
    "rotary": 100.0, "kv_heads": 1, "qk_norm": True, "norm_type": "rms", "use_bias": False, "activation": "swiglu",
}  # fmt: skip


@pytest.mark.parametrize("scan", [False, True], ids=["looped", "scanned"])
@pytest.mark.parametrize("options", [{"norm": "post"}, EVERY_OPTION], ids=["post", "every option"])
def test_cached_equals_uncached(options, scan):
    """Three tokens at once, then one by one; the cache has room for two more."""
    config = shape(16, 3, scan=scan, **options)
    model, x = Transformer(config), jax.random.normal(KEY, (2, 6, 16))
    params = jax.jit(model.init)(KEY, x)
    whole, _ = jax.jit(model.apply)(params, x, causal_mask(6))

    @jax.jit
    def step(x, cache):
        y, out = model.apply(params, x, causal_mask(x.shape[1], cache["length"], 8), cache=cache)
        return y, out["cache"]

    cache = init_cache(config, 2, 8)
    assert jax.tree.structure(step(x[:, :3], cache)[1]) == jax.tree.structure(cache)
    found = []
    for part in (x[:, :3], x[:, 3:4], x[:, 4:5], x[:, 5:]):
        y, cache = step(part, cache)
        found.append(y)
    close(jnp.concatenate(found, axis=1), whole, atol=2e-5)
    assert int(cache["length"]) == 6


def test_a_cache_of_another_dtype_than_the_model():
    config, x = shape(16), jax.random.normal(KEY, (1, 3, 16))
    model = Transformer(config, dtype=jnp.bfloat16)
    params = jax.jit(model.init)(KEY, x)
    for dtype in (jnp.float32, jnp.bfloat16):
        y, out = model.apply(params, x, causal_mask(3), cache=init_cache(config, 1, 3, dtype))
        assert y.dtype == jnp.bfloat16 and out["cache"]["block00"]["key"].dtype == dtype
        close(y.astype(jnp.float32), model.apply(params, x, causal_mask(3))[0].astype(jnp.float32), atol=0.02)


@pytest.mark.parametrize("scan", [False, True], ids=["looped", "scanned"])
def test_cached_cross_attention_keeps_the_context(scan):
    """Rows of different lengths, the shorter one padded in front; its positions are given. The context is passed once."""
    config = shape(16, 2, scan=scan, rotary=100.0, kv_heads=1)
    model = Transformer(config, cross=True, norm_context="own")
    x, context = jax.random.normal(KEY, (2, 5, 16)), jax.random.normal(jax.random.key(1), (2, 4, 12))
    valid = jnp.array([[False, False, True, True, True], [True] * 5])
    context_mask = padding_mask(jnp.array([[True, True, False, False], [True] * 4]))
    positions = jnp.maximum(jnp.cumsum(valid, axis=1) - 1, 0)
    params = jax.jit(model.init)(KEY, x, None, context)
    run = jax.jit(model.apply)
    whole, _ = run(params, x, causal_mask(5) & padding_mask(valid), context, context_mask, positions=positions)
    alone, _ = run(params, x[:1, 2:], causal_mask(3), context[:1], context_mask[:1])
    close(whole[0, 2:], alone[0])
    cache, found = init_cache(config, 2, 5), []
    for i in range(5):
        mask, one = causal_mask(1, i, 5) & padding_mask(valid), slice(i, i + 1)
        given = None if i else context
        y, out = run(params, x[:, one], mask, given, context_mask, positions=positions[:, one], cache=cache)
        cache = out["cache"]
        found.append(y)
    close(jnp.concatenate(found, axis=1)[valid], whole[valid], atol=2e-5)


def test_one_token_of_a_rotary_transformer_is_that_of_the_whole():
    config = shape(16, 2, rotary=100.0, kv_heads=1, qk_norm=True)
    x, at = jax.random.normal(KEY, (2, 5, 16)), jnp.array([1, 4])
    params = jax.jit(Transformer(config).init)(KEY, x)
    run = jax.jit(Transformer(config).apply)
    whole, _ = run(params, x, causal_mask(5))
    close(run(params, x, causal_mask(5), at=at)[0][:, 0], whole[jnp.arange(2), at])


def test_scanned_equals_looped_with_every_option():
    config = shape(16, 3, **EVERY_OPTION)
    x = jax.random.normal(KEY, (2, 5, 16))
    params = jax.jit(Transformer(config).init)(KEY, x)["params"]
    y, _ = jax.jit(Transformer(config).apply)({"params": params}, x)
    scanned = Transformer(replace(config, scan=True, remat=True))
    z, _ = jax.jit(scanned.apply)({"params": stack_blocks(params)}, x)
    close(y, z)
    assert set(params["block00"]["attn"]) == {"query", "key", "value", "out", "norm_query", "norm_key"}
    assert set(params["norm"]) == {"scale"} and "bias" not in params["block00"]["mlp"]["up"]


def test_depth_0_is_the_norm_of_each_token_by_itself():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 3, 8)), jnp.float32)
    module = Transformer(TransformerConfig(width=8, depth=0, heads=2))
    params = jax.jit(module.init)(jax.random.key(0), x)
    y, out = module.apply(params, x)
    np.testing.assert_allclose(y, (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True), atol=1e-4)
    assert set(out) == {"tokens"}
    with pytest.raises(ConfigError, match="depth is 0"):
        module.apply(params, x, at=jnp.zeros(1, int))


def test_errors_name_the_field():
    x = jnp.ones((1, 2, 8))
    with pytest.raises(ConfigError, match="context"):
        Block(shape(8), cross=True).init(KEY, x)
    with pytest.raises(ConfigError, match="cross=True"):
        Block(shape(8)).init(KEY, x, None, x)
    with pytest.raises(ConfigError, match="width is 16"):
        Transformer(shape(16)).init(KEY, x)
    with pytest.raises(ConfigError, match="with a cache"):
        Transformer(shape(8)).init(KEY, x, at=jnp.zeros(1, jnp.int32), cache=init_cache(shape(8), 1, 2))
    with pytest.raises(ConfigError, match="scan=False"):
        Transformer(shape(8, scan=True)).init(KEY, x, at=jnp.zeros(1, jnp.int32))
    with pytest.raises(ConfigError, match="did you mean 'gelu'"):
        Mlp(4, activation="gelo").init(KEY, x)


def test_gelu_keeps_its_numbers_and_derivatives():
    x = jnp.linspace(-6, 6, 301)
    exact = lambda x: nn.gelu(x, approximate=False)  # noqa: E731
    np.testing.assert_array_equal(gelu(x), exact(x))
    for derivative in (jax.grad, lambda f: jax.grad(jax.grad(f)), lambda f: jax.jacfwd(f)):
        np.testing.assert_allclose(jax.vmap(derivative(gelu))(x), jax.vmap(derivative(exact))(x), atol=1e-6)
    low = x.astype(jnp.bfloat16)
    assert gelu(low).dtype == jax.vjp(gelu, low)[1](low)[0].dtype == jnp.bfloat16
