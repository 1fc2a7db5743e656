"""Decoding from a small language model: its cached steps against the whole sequence computed anew for every token."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrep.generation.decode import decode
from mmrep.nn.attention import causal_mask, padding_mask
from mmrep.nn.config import TransformerConfig
from mmrep.nn.transformer import Transformer, init_cache

VOCAB, WIDTH, EOS, LENGTH = 11, 16, 2, 9
KEY = jax.random.key(0)
PROMPTS = np.array([[5, 6, 7, 8], [9, 4, 0, 0], [3, 0, 0, 0]], np.int32)  # padded behind


def model(scan=False, **options):
    config = TransformerConfig(
        width=WIDTH, depth=2, heads=4, kv_heads=2, rotary=100.0, qk_norm=True, norm_type="rms", scan=scan, **options
    )
    transformer, table = Transformer(config), jax.random.normal(jax.random.key(1), (VOCAB, WIDTH))
    params = jax.jit(transformer.init)(KEY, jnp.ones((1, 2, WIDTH)))
    return config, partial(transformer.apply, params), table


def prefill(config, apply, table, prompts):
    """Prompt tokens at their own positions; the padding between prompt and answer is masked."""
    (b, n), room = prompts.shape, prompts.shape[1] + LENGTH
    valid = jnp.arange(room) < jnp.asarray((prompts > 0).sum(1))[:, None]
    mask = causal_mask(n, 0, room) & padding_mask(valid)
    y, out = apply(table[prompts], mask, cache=init_cache(config, b, room))
    last = (prompts > 0).sum(1) - 1
    logits = y[jnp.arange(b), last] @ table.T

    def step(cache, ids, i):
        seen = valid | ((jnp.arange(room) >= n) & (jnp.arange(room) <= n + i))
        positions = (last + 1 + i)[:, None]
        y, out = apply(table[ids][:, None], padding_mask(seen), positions=positions, cache=cache)
        return y[:, 0] @ table.T, out["cache"]

    return step, out["cache"], logits


def naive(log_probs, prompt, length):
    """Greedy for one row without a cache: the whole sequence anew for each token. Also the log-probability of the answer."""
    total = 0.0
    ids = np.zeros((1, PROMPTS.shape[1] + length), np.int32)  # one shape for all prompts: what is behind has no effect
    ids[0, : len(prompt)] = prompt
    for n in range(len(prompt), len(prompt) + length):
        log_prob = np.asarray(log_probs(ids)[0, n - 1])
        ids[0, n] = log_prob.argmax()
        total += log_prob.max()
        if ids[0, n] == EOS:
            break
    return ids[0, len(prompt) : n + 1].tolist(), total


@pytest.mark.parametrize("scan", [False, True], ids=["looped", "scanned"])
def test_greedy_equals_the_sequence_computed_anew(scan):
    config, apply, table = model(scan)

    @jax.jit
    def run(prompts):
        return decode(*prefill(config, apply, table, prompts), LENGTH, KEY, ends=lambda ids: ids == EOS)

    room = PROMPTS.shape[1] + LENGTH
    log_probs = jax.jit(lambda ids: jax.nn.log_softmax(apply(table[ids], causal_mask(room))[0] @ table.T))
    found = run(PROMPTS)
    for row, prompt in enumerate(PROMPTS):
        want, log_prob = naive(log_probs, prompt[prompt > 0].tolist(), LENGTH)
        assert found.ids[row].tolist() == want + [0] * (LENGTH - len(want))
        assert found.lengths[row] == len(want)
        np.testing.assert_allclose(found.log_prob[row], log_prob, rtol=1e-4, atol=1e-4)


def counting(ends_at):
    """A step that counts: the next token is one more, and the cache is the number of calls."""

    def step(cache, ids, i):
        return jnp.where(jnp.arange(VOCAB) == ids[:, None] + 1, 50.0, 0.0), cache + 1

    logits = jnp.where(jnp.arange(VOCAB) == jnp.array([[3], [6]]), 50.0, 0.0)
    return decode(step, jnp.int32(0), logits, 6, KEY, ends=lambda ids: ids == ends_at)


def test_a_row_ends_by_itself_and_the_loop_with_the_last():
    found = counting(8)
    np.testing.assert_array_equal(found.ids, [[3, 4, 5, 6, 7, 8], [6, 7, 8, 0, 0, 0]])
    np.testing.assert_array_equal(found.lengths, [6, 3])
    np.testing.assert_allclose(found.log_prob, 0, atol=1e-4)
    calls = []

    def step(cache, ids, i):
        jax.debug.callback(lambda i: calls.append(int(i)), i)
        return jnp.zeros((2, VOCAB)).at[:, EOS].set(9.0), cache

    decode(step, (), jnp.zeros((2, VOCAB)).at[:, 5].set(9.0), 6, KEY, ends=lambda ids: ids == EOS)
    jax.effects_barrier()
    assert calls == [0]
    one = decode(step, (), jnp.zeros((2, VOCAB)).at[:, EOS].set(9.0), 6, KEY, ends=lambda ids: ids == EOS)
    jax.effects_barrier()
    assert calls == [0] and one.ids.tolist() == [[EOS, 0, 0, 0, 0, 0]] * 2 and one.lengths.tolist() == [1, 1]


def test_sampling_follows_the_distribution_and_the_key():
    weights = np.array([0.5, 0.3, 0.2])

    def step(cache, ids, i):
        return jnp.broadcast_to(jnp.log(weights), (500, 3)), cache

    def run(key, **options):
        start = step((), None, 0)[0]
        return decode(step, (), start, 20, key, ends=lambda ids: ids < 0, temperature=1.0, **options)

    found = np.asarray(run(KEY).ids)
    share = np.bincount(found.ravel(), minlength=3) / found.size
    np.testing.assert_allclose(share, weights, atol=0.02)
    np.testing.assert_array_equal(found, run(KEY).ids)
    assert (found != run(jax.random.key(1)).ids).any()
    assert set(np.unique(run(KEY, top_k=2.0).ids)) == {0, 1} and set(np.unique(run(KEY, top_p=0.4).ids)) == {0}
    # The log-probability is the model's, whatever the sampling.
    np.testing.assert_allclose(run(KEY, top_k=1.0).log_prob, 20 * np.log(0.5), rtol=1e-5)
