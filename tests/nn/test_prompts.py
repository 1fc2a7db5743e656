from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from mmrep.errors import ConfigError
from mmrep.nn import prompts
from mmrep.nn.attention import causal_mask
from mmrep.nn.config import TransformerConfig
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.nn.encoders.text import TextEncoder
from mmrep.nn.transformer import Block, Transformer, stack_blocks

SHAPE = TransformerConfig(width=16, depth=3, heads=2)
PIXELS = jax.random.uniform(jax.random.key(9), (2, 16, 16, 3))
IDS = jnp.array([[1, 5, 6, 2, 0, 0], [1, 7, 2, 0, 0, 0]])


def made(module, *inputs):
    params = module.init(jax.random.key(0), *inputs)
    return params, lambda: module.apply(params, *inputs)


def put_before(vectors, run):
    with prompts.prompted(vectors):
        return run()


def test_shallow_prompts_are_tokens_in_front():
    module = ImageEncoder(SHAPE, patch=8, pool="cls").module(jnp.float32)
    _, run = made(module, PIXELS)
    vectors = prompts.init(jax.random.key(1), run, 4)
    assert {k: v.shape for k, v in vectors.items()} == {"transformer": (1, 4, 16)}
    with prompts.prompted(vectors):
        pooled, out = run()
    plain, before = run()
    assert jax.tree.map(jnp.shape, out) == jax.tree.map(jnp.shape, before) and not np.allclose(pooled, plain, atol=1e-3)
    again, _ = run()  # nothing stays behind
    np.testing.assert_array_equal(plain, again)
    x = jax.random.normal(jax.random.key(2), (2, 5, 16))
    module = Transformer(SHAPE)
    params, run = made(module, x)
    vectors = prompts.init(jax.random.key(1), run, 4)
    with prompts.prompted(vectors):
        y, out = run()
    front = jnp.broadcast_to(vectors["transformer"][0], (2, 4, 16))
    np.testing.assert_allclose(y, module.apply(params, jnp.concatenate([front, x], 1))[0][:, 4:], atol=1e-5)
    np.testing.assert_array_equal(out["tokens"], y)


def test_deep_prompts_replace_what_the_block_before_left():
    x = jax.random.normal(jax.random.key(2), (2, 5, 16))
    params, run = made(Transformer(SHAPE), x)
    vectors = prompts.init(jax.random.key(1), run, 4, depth=2)
    assert vectors["transformer"].shape == (2, 4, 16)
    y, _ = put_before(vectors, run)
    _, remat = put_before(vectors, lambda: Transformer(replace(SHAPE, remat=True)).apply(params, x))
    z = x
    for i in range(3):
        front = jnp.broadcast_to(vectors["transformer"][i], (2, 4, 16)) if i < 2 else z[:, :4]
        rest = z if i == 0 else z[:, 4:]
        z, _ = Block(SHAPE).apply({"params": params["params"][f"block{i:02d}"]}, jnp.concatenate([front, rest], 1))
    want = nn.LayerNorm(epsilon=SHAPE.epsilon).apply({"params": params["params"]["norm"]}, z[:, 4:])
    np.testing.assert_allclose(y, want, atol=1e-5)
    np.testing.assert_allclose(remat["tokens"], y, atol=1e-5)


@pytest.mark.parametrize("causal", [True, False])
def test_masks_hold(causal):
    module = TextEncoder(SHAPE, 16, 6, causal, "eos").module(jnp.float32)
    _, run = made(module, IDS)
    vectors = prompts.init(jax.random.key(1), run, 3)
    params, _ = made(module, IDS)
    whole, out = put_before(vectors, run)
    short, _ = put_before(vectors, lambda: module.apply(params, IDS[:, :4]))
    one, _ = put_before(vectors, lambda: module.clone(pooled_only=True).apply(params, IDS))
    changed = put_before(vectors, lambda: module.apply(params, IDS.at[0, 2].set(9)))[1]["tokens"]
    np.testing.assert_allclose(whole, short, atol=1e-5)
    np.testing.assert_allclose(whole, one, atol=1e-5)
    # Under a causal mask no later token reaches an earlier one, by way of the prompts neither.
    assert np.allclose(changed[0, :2], out["tokens"][0, :2], atol=1e-6) == causal


def test_scanned_blocks_and_biases():
    x, bias = jax.random.normal(jax.random.key(2), (2, 5, 16)), jax.random.normal(jax.random.key(3), (1, 2, 5, 5))
    module = Transformer(SHAPE)
    params = module.init(jax.random.key(0), x)
    scanned, stacked = Transformer(replace(SHAPE, scan=True)), {"params": stack_blocks(params["params"])}
    vectors = prompts.init(jax.random.key(1), lambda: module.apply(params, x), 2)
    a, _ = put_before(vectors, lambda: module.apply(params, x, causal_mask(5), bias=bias))
    b, out = put_before(vectors, lambda: scanned.apply(stacked, x, causal_mask(5), bias=bias))
    np.testing.assert_allclose(a, b, atol=1e-5)
    assert out["blocks"].shape == (3, 2, 5, 16)
    with pytest.raises(ConfigError, match="scan=False"):
        prompts.init(jax.random.key(1), lambda: scanned.apply(stacked, x), 2, depth=2)


def test_what_has_no_tokens_is_refused():
    with pytest.raises(ConfigError, match="without a Transformer"):
        prompts.init(jax.random.key(0), lambda: jnp.ones(3), 2)
    with pytest.raises(ConfigError, match="at least 1"):
        prompts.init(jax.random.key(0), lambda: jnp.ones(3), 0)
