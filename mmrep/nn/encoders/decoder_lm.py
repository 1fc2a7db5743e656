"""A decoder-only language model: GPT-2's form (learned positions) or Llama's (rotary ones, RMSNorm, grouped queries, SwiGLU)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from mmrep.errors import ConfigError
from mmrep.generation.decode import Decoded, decode
from mmrep.generation.sampling import Number
from mmrep.nn.attention import causal_mask, padding_mask
from mmrep.nn.config import TransformerConfig
from mmrep.nn.norms import norm_layer
from mmrep.nn.placement import by_rows
from mmrep.nn.pooling import last_pool
from mmrep.nn.transformer import Cache, Transformer, init_cache
from mmrep.system import Params


@dataclass(frozen=True)
class DecoderLM:
    """A causal transformer over ids in [0, vocab) of sequences of up to `length` tokens, a prefix of vectors included.

    learned_positions: a table of `length` rows is added to the tokens (GPT-2: Radford et al. 2019); False with transformer.rotary.
    tied: the logits are products with the table of tokens; False: with a table of their own.
    cross: every block also attends to a context, the tokens of another encoder (of any width).
    embed_norm: the sum of tokens and positions is normed, too (RoBERTa's form, with transformer.norm="post").
    Raises ConfigError where vocab or length is below 1.
    """

    transformer: TransformerConfig = TransformerConfig(depth=2)
    vocab: int = 1024
    length: int = 128
    learned_positions: bool = True
    tied: bool = True
    cross: bool = False
    embed_norm: bool = False

    def __post_init__(self) -> None:
        if self.vocab < 1 or self.length < 1:
            raise ConfigError(f"vocab is {self.vocab} and length is {self.length}; both must be at least 1.")

    def module(self, dtype: Any = jnp.float32, name: str | None = None, pooled_only: bool = False) -> "DecoderStack":
        return DecoderStack(self, dtype, name=name)


class DecoderStack(nn.Module):
    """The module of DecoderLM over `prefix` [B,P,D], vectors of the model's width before the tokens, and ids [B,L].

    Returns (logits [B,P+L,V] in float32, out): row i has the logits of the token behind place i. out["tokens"] are the final normed
    vectors, out["block00"], ... each block's; out["valid"] as given, and out["pooled"] [B,D] is the vector of the last valid place.
    valid: False at places that no other attends to: padding before or behind a row. It covers all places: P + L, or those of the cache.
    positions: of the P + L places; None: 0, 1, ..., counted from the tokens in the cache.
    cache (see `mmrep.nn.transformer.init_cache`): holds earlier tokens of the same sequences; out["cache"] is the new one.
    mask: takes the place of the causal one (e.g. `mmrep.nn.attention.prefix_mask`); padding is excluded beside it.
    context, context_valid (with `cross`): tokens attend to the valid ones; None with a cache that holds the context's keys and values.
    Raises ConfigError where there are more than `length` places, or a context without `cross`.
    """

    config: DecoderLM
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        ids: Int[Array | np.ndarray, "B L"],
        prefix: Float[Array | np.ndarray, "B P D"] | None = None,
        valid: Bool[Array | np.ndarray, "B K"] | None = None,
        positions: Int[Array, "#B N"] | None = None,
        cache: Cache | None = None,
        context: Float[Array | np.ndarray, "B M E"] | None = None,
        context_valid: Bool[Array | np.ndarray, "B M"] | None = None,
        mask: Bool[Array, "#B #H N K"] | None = None,
    ) -> tuple[Float[Array, "B N V"], dict[str, Any]]:
        c, t = self.config, self.config.transformer
        init = nn.initializers.normal(0.02)
        table = nn.Embed(c.vocab, t.width, dtype=self.dtype, embedding_init=init, name="embed")
        x = table(jnp.asarray(ids))
        if prefix is not None:
            x = jnp.concatenate([jnp.asarray(prefix, x.dtype), x], axis=1)
        n = x.shape[1]
        if n > c.length:
            raise ConfigError(f"A sequence of {n} tokens came in; raise the length, now {c.length}.")
        start = 0 if cache is None else cache["length"]
        if positions is None:
            positions = (start + jnp.arange(n))[None]
        if c.learned_positions:
            x = x + nn.Embed(c.length, t.width, dtype=self.dtype, embedding_init=init, name="positions")(positions)
        if c.embed_norm:
            x = norm_layer(t, self.dtype, "embed_norm")(x)
        places = n if cache is None else (cache["blocks"] if t.scan else cache["block00"])["key"].shape[-3]
        kept = causal_mask(n, start, places) if mask is None else mask
        if valid is not None:
            kept = kept & padding_mask(jnp.asarray(valid))
        if context is not None and not c.cross:
            raise ConfigError("A context came in and cross is False; set DecoderLM.cross=True.")
        seen = None if context_valid is None else padding_mask(jnp.asarray(context_valid))
        context = None if context is None else jnp.asarray(context, self.dtype)
        y, out = Transformer(t, c.cross, dtype=self.dtype, name="transformer")(
            x, kept, context, seen, positions=positions, cache=cache
        )
        if c.tied:
            logits = table.attend(y)
        else:
            logits = nn.Dense(c.vocab, use_bias=False, dtype=self.dtype, kernel_init=init, name="out")(y)
        if cache is None:
            out["valid"] = jnp.ones(x.shape[:2], bool) if valid is None else jnp.asarray(valid)
            out["pooled"] = last_pool(y, out["valid"])
        return by_rows(logits.astype(jnp.float32)), out


def next_token_loss(
    logits: Float[Array, "B N V"], ids: Int[Array, "B N"], target: Bool[Array, "B N"]
) -> tuple[Float[Array, "B N"], Bool[Array, "B N"]]:
    """(cross-entropy in nats of each token given those before it, 0 for the first, and which of them count)."""
    log_z = jax.nn.logsumexp(logits[:, :-1], axis=-1)
    chosen = jnp.take_along_axis(logits[:, :-1], ids[:, 1:, None], axis=-1)[..., 0]
    return jnp.pad(log_z - chosen, ((0, 0), (1, 0))), target.at[:, 0].set(False)


def generate(
    config: DecoderLM,
    params: Params,
    ids: Int[Array | np.ndarray, "B L"],
    length: int,
    rng: PRNGKeyArray,
    *,
    ends: Callable[[Int[Array, " B"]], Bool[Array, " B"]],
    prefix: Float[Array | np.ndarray, "B P D"] | None = None,
    valid: Bool[Array | np.ndarray, "B N"] | None = None,
    context: Float[Array | np.ndarray, "B M E"] | None = None,
    context_valid: Bool[Array | np.ndarray, "B M"] | None = None,
    temperature: Number = 0.0,
    top_k: Number = 0.0,
    top_p: Number = 0.0,
    pad: int = 0,
    dtype: Any = jnp.float32,
) -> Decoded:
    """Up to `length` tokens after a prompt, a prefix of vectors and ids, with a key-value cache; see `mmrep.generation.decode`.

    context, context_valid: of a model with `cross`; its keys and values are computed once.

    valid: of the P + L places of the prompt. Shorter prompts are padded in front (False there), so that all end at the same place;
    positions are counted from each row's first valid place.   Call it inside jit; `config`, `length` and `ends` are static.
    Raises ConfigError where prompt and answer together are longer than config.length.
    """
    rows, n = ids.shape[0], ids.shape[1] + (0 if prefix is None else prefix.shape[1])
    if n + length > config.length:
        raise ConfigError(
            f"the prompt has {n} tokens and length is {length}: together at most {config.length}, the model's length"
        )
    module = config.module(dtype)
    kept = jnp.ones((rows, n), bool) if valid is None else jnp.asarray(valid)
    places = jnp.concatenate([kept, jnp.ones((rows, length), bool)], axis=1)
    at = jnp.maximum(jnp.cumsum(places, axis=1) - 1, 0)

    def run(cache: Cache, ids: Array, prefix: Any, positions: Array, context: Any = None) -> tuple[Array, Cache]:
        logits, out = module.apply({"params": params}, ids, prefix, places, positions, cache, context, context_valid)
        return logits[:, -1], out["cache"]

    def step(cache: Cache, ids: Array, i: Array) -> tuple[Array, Cache]:
        return run(cache, ids[:, None], None, jnp.take(at, n + i, axis=1)[:, None])

    empty = init_cache(config.transformer, rows, n + length, dtype)
    logits, cache = run(empty, jnp.asarray(ids), prefix, at[:, :n], context)
    return decode(
        step, cache, logits, length, rng, ends=ends, temperature=temperature, top_k=top_k, top_p=top_p, pad=pad
    )
