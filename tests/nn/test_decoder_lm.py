"""The language model's cross-attention and masks; its numbers against other libraries are in tests/interop/test_decoder_lm.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrep.errors import ConfigError
from mmrep.nn.attention import prefix_mask
from mmrep.nn.config import TransformerConfig
from mmrep.nn.encoders.decoder_lm import DecoderLM, generate

LM = DecoderLM(TransformerConfig(width=16, depth=2, heads=2), vocab=9, length=8, cross=True)
IDS = np.array([[1, 5, 6], [1, 7, 5]], np.int32)
CONTEXT = jax.random.normal(jax.random.key(1), (2, 4, 6))
SEEN = jnp.array([[True, True, True, False]] * 2)


def test_generation_with_a_context_equals_the_whole_sequence_anew():
    module = LM.module()
    params = jax.jit(module.init)(jax.random.key(0), IDS, context=CONTEXT)["params"]
    found = jax.jit(
        lambda ids, context: generate(
            LM, params, ids, 4, jax.random.key(0), ends=lambda ids: ids < 0, context=context, context_valid=SEEN
        )
    )
    whole = jax.jit(lambda ids, context: module.apply({"params": params}, ids, context=context, context_valid=SEEN)[0])
    ids = np.pad(IDS, ((0, 0), (0, 4)))
    for n in range(3, 7):
        ids[:, n] = np.asarray(whole(ids, CONTEXT))[:, n - 1].argmax(-1)
    np.testing.assert_array_equal(found(IDS, CONTEXT).ids, ids[:, 3:])
    padded, other = CONTEXT.at[:, 3].set(9.0), CONTEXT.at[:, 0].set(9.0)
    np.testing.assert_array_equal(whole(ids, CONTEXT), whole(ids, padded))
    assert not np.allclose(whole(ids, CONTEXT), whole(ids, other))
    with pytest.raises(ConfigError, match="cross is False"):
        DecoderLM(LM.transformer, vocab=9).module().init(jax.random.key(0), IDS, context=CONTEXT)


def test_a_mask_takes_the_causal_ones_place():
    module = DecoderLM(LM.transformer, vocab=9).module()
    params = jax.jit(module.init)(jax.random.key(0), IDS)["params"]
    run = jax.jit(lambda ids, mask: module.apply({"params": params}, ids, mask=mask)[0])
    first = IDS.copy()
    first[:, 1] = 8
    both = prefix_mask(jnp.array([2, 0]), 3)
    changed = (
        np.abs(run(IDS, both) - run(first, both)).max((1, 2)),
        np.abs(run(IDS, both) - run(first, both))[:, 0].max(1),
    )
    assert (changed[0] > 1e-4).all() and changed[1][0] > 1e-4 and changed[1][1] == 0
