"""Writing texts from any model of the next token: greedy or beam search, freely or among given texts."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mmrep.errors import ConfigError
from mmrep.generation.decode import Decoded

NextLogits = Callable[[Int[Array, "N L"], Int[Array, ""]], Float[Array, "N V"]]
"""(ids, at) -> logits of the token at index `at`, given those before it; what `ids` holds from `at` on has no meaning."""


def write(
    next_logits: NextLogits,
    start: Int[Array, "B P"],
    length: int,
    *,
    ends: Callable[[Int[Array, "..."]], Bool[Array, "..."]],
    beams: int = 1,
    pad: int = 0,
    allowed: Int[Array, "S V"] | None = None,
) -> Decoded:
    """The likeliest text of up to `length` tokens behind `start` that a search with so many beams finds; 1 beam is greedy.

    next_logits gets N = B * beams rows, those of a start adjacent: repeat what belongs to a row, `jnp.repeat(x, beams, axis=0)`. It computes
    whole sequences; with a key-value cache, see `mmrep.generation.decode`.
    ends: which tokens end their row, e.g. `lambda ids: ids == EOS`.
    allowed: a table as `trie` makes it; only its texts are written. A token that no text allows has probability 0; the others' are as given.
    Call it inside jit; `length` and `beams` are static. Raises ConfigError for less than 1 beam or token.
    """
    if beams < 1 or length < 1:
        raise ConfigError(f"beams is {beams} and length {length}; both must be at least 1.")
    rows, prefix = start.shape
    ids = jnp.pad(jnp.repeat(start[:, None], beams, axis=1), ((0, 0), (0, 0), (0, length)), constant_values=pad)
    # At the start all beams are one.
    score = jnp.where(jnp.arange(beams) == 0, 0.0, -jnp.inf) + jnp.zeros((rows, 1))
    none = jnp.zeros((rows, beams), jnp.int32)

    def step(i: Array, state: tuple) -> tuple:
        ids, score, done, lengths, node = state
        logits = next_logits(ids.reshape(rows * beams, -1), prefix + i).astype(jnp.float32)
        log_p = jax.nn.log_softmax(logits, axis=-1).reshape(rows, beams, -1)
        vocab = log_p.shape[-1]
        if allowed is not None:
            log_p = jnp.where(allowed[node] >= 0, log_p, -jnp.inf)
        # A row that has ended goes on with padding, at no cost.
        padding = jnp.where(jnp.arange(vocab) == pad, 0.0, -jnp.inf)
        log_p = jnp.where(done[..., None], padding, log_p)
        score, best = jax.lax.top_k((score[..., None] + log_p).reshape(rows, -1), beams)
        beam, token = best // vocab, (best % vocab).astype(jnp.int32)

        def of(x: Array) -> Array:
            return jnp.take_along_axis(x, beam.reshape(rows, beams, *(1,) * (x.ndim - 2)), axis=1)

        ids, done, lengths, node = (of(x) for x in (ids, done, lengths, node))
        ids = ids.at[:, :, prefix + i].set(token)
        if allowed is not None:
            node = jnp.where(done, node, jnp.maximum(allowed[node, token], 0))
        return ids, score, done | ends(token), lengths + ~done, node

    state = (ids, score, none > 0, none, none)
    ids, score, _, lengths, _ = jax.lax.fori_loop(0, length, step, state)
    return Decoded(ids[:, 0, prefix:], lengths[:, 0], score[:, 0])


def trie(texts: Sequence[Sequence[int]], vocab: int) -> Int[np.ndarray, "S V"]:
    """The next state for each state and token, -1 where no text goes on so; the state at the start is 0. Each text ends with its end token.

    Raises ConfigError for an id outside [0, vocab), and where there is no text or an empty one.
    """
    states: list[dict[int, int]] = [{}]
    for text in texts:
        at = 0
        for token in map(int, text):
            if not 0 <= token < vocab:
                raise ConfigError(f"a text has the id {token}, outside [0, {vocab})")
            if token not in states[at]:
                states[at][token] = len(states)
                states.append({})
            at = states[at][token]
    if not texts or any(not len(text) for text in texts):
        raise ConfigError("trie: give at least one text, and no empty one")
    table = np.full((len(states), vocab), -1, np.int32)
    for i, following in enumerate(states):
        table[i, list(following)] = list(following.values())
    return table
