"""Transformer blocks and stacks, with or without cross-attention, looped or scanned."""

import re
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int, Shaped

from mmrep.errors import ConfigError, near
from mmrep.nn.attention import Attention
from mmrep.nn.config import TransformerConfig
from mmrep.nn.norms import norm_layer
from mmrep.nn.placement import by_rows


@jax.custom_jvp
def gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """x Phi(x), exact (Hendrycks and Gimpel 2016); equal to `nn.gelu(x, approximate=False)`."""
    return nn.gelu(x, approximate=False)


@gelu.defjvp
def _gelu_jvp(primals, tangents):
    (x,), (t,) = primals, tangents
    x32 = x.astype(jnp.float32)
    phi = 0.5 * (1 + jax.lax.erf(x32 * 0.5**0.5))
    slope = phi + x32 * jnp.exp(-0.5 * x32 * x32) * (2 * jnp.pi) ** -0.5
    # The backward pass keeps the slope instead of x: otherwise XLA computes erf and exp again there, for each use.
    y, slope = jax.lax.optimization_barrier(((x32 * phi).astype(x.dtype), slope.astype(x.dtype)))
    return y, slope * t


ACTIVATIONS: dict[str, Any] = {
    "gelu": gelu,
    "gelu_tanh": lambda x: nn.gelu(x, approximate=True),
    "quick_gelu": lambda x: x * nn.sigmoid(1.702 * x),
    "relu": nn.relu,
}
GATES: dict[str, Any] = {"swiglu": nn.silu, "geglu": ACTIVATIONS["gelu_tanh"]}


class Mlp(nn.Module):
    """Dense to `hidden`, activation, Dense back to the width of the input; `activation` as in TransformerConfig.

    A gated one is down(act(up(x)) * gate(x)): our `up` is Llama's `gate_proj`, our `gate` its `up_proj`.
    Raises ConfigError for an unknown activation.
    """

    hidden: int
    dtype: Any = jnp.float32
    activation: str = "gelu"
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        known = ACTIVATIONS | GATES
        if self.activation not in known:
            raise ConfigError(f"activation {self.activation!r} is unknown{near(self.activation, known)}")
        settings = {"use_bias": self.use_bias, "dtype": self.dtype, "kernel_init": nn.initializers.xavier_uniform()}
        # One axis for all tokens: see `flat_dense`.
        flat = x.reshape(-1, x.shape[-1])
        y = known[self.activation](nn.Dense(self.hidden, **settings, name="up")(flat))
        if self.activation in GATES:
            y = y * nn.Dense(self.hidden, **settings, name="gate")(flat)
        y = nn.Dense(x.shape[-1], **settings, name="down")(y)
        return y.reshape(x.shape)


def take_rows(mask: Shaped[Array, "_ H N M"] | None, at: Int[Array, " B"]) -> Shaped[Array, "_ H 1 M"] | None:
    """The rows of a mask (or a bias) for the queries `at`, one an example."""
    if mask is None or mask.shape[2] == 1:
        return mask
    mask = jnp.broadcast_to(mask, (at.shape[0], *mask.shape[1:]))
    return jnp.take_along_axis(mask, at[:, None, None, None], axis=2)


Cache = dict[str, Any]
"""{"length": number of tokens written, then per block "key", "value" and, in cross-attention, "context_key", "context_value"}."""


def init_cache(config: TransformerConfig, batch: int, length: int, dtype: Any = jnp.float32) -> Cache:
    """An empty key-value cache for `length` tokens of `batch` sequences: {"length": [], "block00": {"key", "value"}, ...}.

    With `config.scan` the blocks are stacked under "blocks", as their parameters are. Keys and values are [B, length, kv_heads, head_dim].
    Writing more than `length` tokens overwrites the last ones. Context keys and values are added by the first call with a context.
    """
    shape = (batch, length, config.key_heads, config.key_dim)

    def empty(*leading: int) -> dict[str, Array]:
        return {name: jnp.zeros((*leading, *shape), dtype) for name in ("key", "value")}

    start = {"length": jnp.zeros((), jnp.int32)}
    if config.scan:
        return start | {"blocks": empty(config.depth)}
    return start | {f"block{i:02d}": empty() for i in range(config.depth)}


class Block(nn.Module):
    """Self-attention, with `cross` also cross-attention to `context`, then an MLP, each with a residual connection.

    Returns (x, the block's cache). norm_context: False leaves the context as it comes, "shared" normalises it by the norm of the
    cross-attention's queries (CROMA), "own" by one of its own (4M).
    `bias` and `context_bias` are added to the logits of self- and cross-attention; `positions` as in Transformer.
    `at` [B] computes one token of each example alone: [B,1,D], equal to that row of the full output at a fraction of the work.
    `drop` is the probability that a part is left out for an example, all its tokens at once, where an rng "drop" is given
    (stochastic depth, Huang et al. 2016); parts that stay are scaled by 1 / (1 - drop). `config.dropout` acts where an rng "dropout" is given.
    `cache`, written from index `start` on: see `init_cache`.
    """

    config: TransformerConfig
    cross: bool = False
    norm_context: Literal[False, "shared", "own"] = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B N D"],
        mask: Bool[Array, "#B #H #N #K"] | None = None,
        context: Float[Array, "B M E"] | None = None,
        context_mask: Bool[Array, "#B #H #N #M"] | None = None,
        at: Int[Array, " B"] | None = None,
        bias: Float[Array, "#B #H #N #K"] | None = None,
        context_bias: Float[Array, "#B #H #N #M"] | None = None,
        drop: float | Float[Array, ""] | None = None,
        positions: Int[Array, "#B N"] | None = None,
        cache: Cache | None = None,
        start: Int[Array, ""] | None = None,
    ) -> tuple[Float[Array, "B _ D"], Cache | None]:
        c = self.config
        if not self.cross and context is not None:
            raise ConfigError("A context was given; set cross=True.")
        if self.cross and context is None and "context_key" not in (cache or {}):
            raise ConfigError("cross=True needs a context to attend to.")
        if at is not None and cache is not None:
            raise ConfigError("`at` takes one token of a whole sequence; with a cache, give that token alone.")
        found: Cache = {}
        if c.rotary is not None and positions is None:
            positions = (jnp.arange(x.shape[1]) + (0 if start is None else start))[None]
        rows = (lambda y: y) if at is None else (lambda y: jnp.take_along_axis(y, at[:, None, None], axis=1))
        if at is not None:
            mask, context_mask, bias, context_bias = (
                take_rows(m, at) for m in (mask, context_mask, bias, context_bias)
            )
        own = self.norm_context == "own"
        names = ["attn"] + ["cross"] * self.cross + ["mlp"] + ["context"] * (self.cross and own)
        norms = {name: norm_layer(c, self.dtype, f"norm_{name}") for name in names}

        def attend_self(y: Array) -> Array:
            attention = Attention(c, self.dtype, name="attn")
            if at is not None:
                one = None if positions is None else jnp.take_along_axis(
                    jnp.broadcast_to(positions, y.shape[:2]), at[:, None], axis=1
                )  # fmt: skip
                return attention(rows(y), y, mask, bias, one, positions)[0]
            before = None if cache is None else {name: cache[name] for name in ("key", "value")}
            y, after = attention(y, None, mask, bias, positions, None, before, start)
            found.update(after or {})
            return y

        def attend_context(y: Array) -> Array:
            keys = context
            if context is not None and self.norm_context:
                keys = norms["context" if own else "cross"](context)
            before = (
                None if cache is None else {n: cache[f"context_{n}"] for n in ("key", "value")} if keys is None else {}
            )
            y, after = Attention(c, self.dtype, name="cross")(y, keys, context_mask, context_bias, cache=before)
            found.update({f"context_{name}": value for name, value in (after or {}).items()})
            return y

        def mlp(y: Array) -> Array:
            return Mlp(c.hidden, self.dtype, c.activation, c.bias, name="mlp")(y)

        def dropped(y: Array) -> Array:
            if c.dropout and self.has_rng("dropout"):
                kept = jax.random.bernoulli(self.make_rng("dropout"), 1 - c.dropout, y.shape)
                y = jnp.where(kept, y / (1 - c.dropout), jnp.zeros((), y.dtype))
            if drop is None or not self.has_rng("drop"):
                return y
            stays = jax.random.bernoulli(self.make_rng("drop"), 1 - drop, (len(y), 1, 1))
            return y * by_rows((stays / (1 - drop)).astype(y.dtype))

        x = by_rows(x)
        for name, part in (("attn", attend_self), ("cross", attend_context), ("mlp", mlp)):
            if name in norms:
                norm = norms[name]
                residual = rows(x) if name == "attn" else x
                x = by_rows(residual + dropped(part(norm(x))) if c.norm == "pre" else norm(residual + dropped(part(x))))
        return x, None if cache is None else found


class Transformer(nn.Module):
    """The blocks of `config`; with norm="pre" a final norm follows, unless `final_norm` is off.

    Returns (y, out): y is the final (normed) [B,N,D], out holds it as "tokens" and every block's output as "block00", "block01", ...,
    or with `config.scan` as "blocks" [depth,B,N,D], whose parameters are stacked under "blocks" (see `stack_blocks`).
    `cross`, `norm_context`, `bias` and `context_bias` as in Block. `config.drop_path` acts where an rng "drop" is given,
    `config.dropout` where an rng "dropout" is.
    `positions`: of the tokens, for `config.rotary`; None: 0, 1, ..., counted from the tokens in the cache.
    `at` [B] computes one token of each example: y is [B,1,D] and the last block processes it alone; out has neither "tokens" nor that block.
    `cache` (see `init_cache`): x are the next N tokens of sequences whose earlier tokens are in it; self-attention takes place over all of
    these, as far as `mask` [.., N, K] over all K places keeps them (`causal_mask(N, cache["length"], K)`), and out["cache"] is the new
    cache. Cross-attention stores the context's keys and values where `context` is given, and uses the stored ones where it is None.
    """

    config: TransformerConfig
    cross: bool = False
    norm_context: Literal[False, "shared", "own"] = False
    final_norm: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B N D"],
        mask: Bool[Array, "#B #H #N #K"] | None = None,
        context: Float[Array, "B M E"] | None = None,
        context_mask: Bool[Array, "#B #H #N #M"] | None = None,
        at: Int[Array, " B"] | None = None,
        bias: Float[Array, "#B #H #N #K"] | None = None,
        context_bias: Float[Array, "#B #H #N #M"] | None = None,
        positions: Int[Array, "#B N"] | None = None,
        cache: Cache | None = None,
    ) -> tuple[Float[Array, "B _ D"], dict[str, Any]]:
        c = self.config
        if c.scan and at is not None:
            raise ConfigError("pooled_only (or `at`) treats the last block apart, which a scan cannot; set scan=False.")
        if not c.depth and at is not None:
            raise ConfigError("depth is 0: there is no last block for `at` (pooled_only); set depth to at least 1.")
        drops = np.linspace(0, c.drop_path, c.depth).astype(np.float32) if c.drop_path else None
        settings = {"config": c, "cross": self.cross, "norm_context": self.norm_context, "dtype": self.dtype}
        block = nn.remat(Block, prevent_cse=not c.scan) if c.remat else Block
        x = x.astype(self.dtype)
        start = None if cache is None else cache["length"]
        out: dict[str, Any] = {}
        after: Cache = {} if start is None else {"length": start + x.shape[1]}
        if c.scan:

            def layer(module, x, drop, cache, mask, context, context_mask, bias, context_bias, positions, start):
                y, cache = module(
                    x, mask, context, context_mask, None, bias, context_bias, drop, positions, cache, start
                )
                return y, (y, cache)

            layers = nn.scan(
                layer,
                variable_axes={"params": 0},
                split_rngs={"params": True, "drop": True, "dropout": True},
                in_axes=(
                    nn.broadcast if drops is None else 0, nn.broadcast if cache is None else 0, *[nn.broadcast] * 7
                ),
                length=c.depth,
            )  # fmt: skip
            scanned = None if drops is None else jnp.asarray(drops)
            stacked = None if cache is None else cache["blocks"]
            x, (out["blocks"], after["blocks"]) = layers(
                block(**settings, name="blocks"), x, scanned, stacked, mask, context, context_mask, bias, context_bias,
                positions, start,
            )  # fmt: skip
        else:
            for i in range(c.depth):
                name, here = f"block{i:02d}", at if i == c.depth - 1 else None
                drop = None if drops is None else float(drops[i])
                x, after[name] = block(**settings, name=name)(
                    x, mask, context, context_mask, here, bias, context_bias, drop, positions,
                    None if cache is None else cache[name], start,
                )  # fmt: skip
                out[name] = x
        if c.norm == "pre" and self.final_norm:
            x = norm_layer(c, self.dtype, "norm")(x)
        if at is None:
            out["tokens"] = x
        else:
            del out[f"block{c.depth - 1:02d}"]
        return x, out if cache is None else out | {"cache": after}


_BLOCK = re.compile(r"block\d+")


def stack_blocks(params: dict) -> dict:
    """Parameters of looped Transformers (block00, block01, ...) as those of scanned ones (blocks, stacked), at any depth of the tree."""
    params = {name: stack_blocks(sub) if isinstance(sub, dict) else sub for name, sub in params.items()}
    names = sorted((name for name in params if _BLOCK.fullmatch(name)), key=lambda name: int(name[5:]))
    if names:
        layers = [params.pop(name) for name in names]
        params["blocks"] = jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)
    return params


def unstack_blocks(params: dict) -> dict:
    """The inverse of `stack_blocks`."""
    params = {name: unstack_blocks(sub) if isinstance(sub, dict) else sub for name, sub in params.items()}
    if "blocks" in params:
        stacked = params.pop("blocks")
        for i in range(jax.tree.leaves(stacked)[0].shape[0]):
            params[f"block{i:02d}"] = jax.tree.map(lambda leaf, i=i: leaf[i], stacked)
    return params
