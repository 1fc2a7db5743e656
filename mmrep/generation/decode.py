"""Autoregressive decoding with a key-value cache, of any model: greedy, or sampled with temperature, top-k and top-p."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from mmrep.generation.sampling import Number, sample

Step = Callable[[Any, Int[Array, " B"], Int[Array, ""]], tuple[Float[Array, "B V"], Any]]
"""(cache, ids, i) -> (logits of the next token, cache); ids are the i-th generated tokens of all rows, counted from 0."""


class Decoded(NamedTuple):
    """ids: generated tokens, `pad` after a row's end.   lengths: tokens of a row, its end included.   log_prob: the model's, summed over them."""

    ids: Int[Array, "B L"]
    lengths: Int[Array, " B"]
    log_prob: Float[Array, " B"]


def decode(
    step: Step,
    cache: Any,
    logits: Float[Array, "B V"],
    length: int,
    rng: PRNGKeyArray,
    *,
    ends: Callable[[Int[Array, " B"]], Bool[Array, " B"]],
    temperature: Number = 0.0,
    top_k: Number = 0.0,
    top_p: Number = 0.0,
    pad: int = 0,
) -> Decoded:
    """Up to `length` tokens a row, each fed back through `step`; the loop stops when every row has ended.

    logits: of the first token, as the model gives them for the prompt, whose keys and values are in `cache`.
    ends: which tokens end their row, e.g. `lambda ids: ids == EOS`.   temperature 0 takes the likeliest token; see `sampling.sample`.
    A cache may be any pytree of fixed shapes, and must hold `length` - 1 tokens more. Call it inside jit; only `length` is static.

        def step(cache, ids, i):
            y, out = model.apply({"params": params}, embed(ids[:, None]), cache=cache)
            return y[:, 0] @ table.T, out["cache"]
    """
    rows = logits.shape[0]

    def draw(i: Array, logits: Array, done: Array) -> tuple[Array, Array]:
        drawn, _ = sample(jax.random.fold_in(rng, i), logits, temperature, top_k, top_p)
        log_prob = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
        chosen = jnp.take_along_axis(log_prob, drawn[:, None], axis=-1)[:, 0]
        return jnp.where(done, pad, drawn).astype(jnp.int32), jnp.where(done, 0.0, chosen)

    def body(carry: tuple) -> tuple:
        i, ids, lengths, score, done, cache = carry
        logits, cache = step(cache, jax.lax.dynamic_index_in_dim(ids, i - 1, axis=1, keepdims=False), i - 1)
        drawn, chosen = draw(i, logits, done)
        return i + 1, ids.at[:, i].set(drawn), lengths + ~done, score + chosen, done | ends(drawn), cache

    first, score = draw(jnp.int32(0), logits, jnp.zeros(rows, bool))
    ids = jnp.full((rows, length), pad, jnp.int32).at[:, 0].set(first)
    start = jnp.int32(1), ids, jnp.ones(rows, jnp.int32), score, ends(first), cache
    _, ids, lengths, score, _, _ = jax.lax.while_loop(lambda c: (c[0] < length) & ~c[4].all(), body, start)
    return Decoded(ids, lengths, score)
