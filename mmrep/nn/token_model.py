"""4M's network as pure functions: one encoder and one decoder over tokens of any stream (Mizrahi et al. 2023, arXiv 2312.06647).

m = token_model(streams, encoder_depth=6, decoder_depth=6, width=192, heads=3)
params = m.init(rng)
context, out = m.encode(params, masked.inputs)
y = m.decode(params, context, masked.inputs, masked.queries, masked.reach)      # then m.tables(params) and tied_heads
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int, PRNGKeyArray

from mmrep.errors import ConfigError
from mmrep.masking.spans import Stream, Tokens, attention_mask
from mmrep.nn.adapters import EPS, grid_positions
from mmrep.nn.attention import padding_mask
from mmrep.nn.positions import sincos_1d
from mmrep.nn.transformer import Transformer
from mmrep.system import Params


class Tables(nn.Module):
    """Learnt rows by name."""

    rows: tuple[tuple[str, int], ...]
    width: int

    @nn.compact
    def __call__(self) -> dict[str, Array]:
        init = nn.initializers.normal(0.02)
        return {name: self.param(name, init, (n, self.width), jnp.float32) for name, n in self.rows}


class TokenModel(NamedTuple):
    """init: rng -> params.   encode: (params, tokens) -> (encoded [B, N, D], the encoder's `out`).

    decode: (params, encoded, its tokens, queries, reach [B, M] or None: no self-attention mask) -> [B, M, D].
    tables: params -> the decoder's table of each stream, in which its logits are taken.
    """

    init: Callable[[PRNGKeyArray], Params]
    encode: Callable[[Params, Tokens], tuple[Float[Array, "B N D"], dict[str, Any]]]
    decode: Callable[[Params, Array, Tokens, Tokens, Int[Array, "B M"] | None], Float[Array, "B M D"]]
    tables: Callable[[Params], tuple[Array, ...]]


def token_model(
    streams: Sequence[Stream],
    width: int = 768,
    encoder_depth: int = 12,
    decoder_depth: int = 12,
    heads: int = 12,
    *,
    separate: bool = True,
    causal: bool = True,
    scan: bool = False,
    remat: bool = False,
    dtype: str = "float32",
) -> TokenModel:
    """separate: decoder queries see their own stream alone.   causal: off, every query sees all (a leak where texts are read; ablation).

    Raises ConfigError for a width that cannot work.
    """
    if width % 4 or width % heads:
        raise ConfigError(f"system.width is {width}: it must be a multiple of 4 and of its {heads} heads")
    kind = jnp.dtype(dtype)
    texts = [s for s in streams if s.length]
    rows = tuple((s.name, s.rows) for s in streams)
    stack: dict[str, Any] = {
        "heads": heads, "scan": scan, "remat": remat, "dtype": kind, "epsilon": EPS, "activation": "swiglu", "use_bias": False,
    }  # fmt: skip
    modules: dict[str, nn.Module] = {
        "in": Tables(rows, width),
        "out": Tables(rows, width),
        "stream": Tables(tuple((s.name, 1) for s in streams), width),
        "mask": Tables((("token", 1),), width),
        "encoder": Transformer(encoder_depth, **stack),
        "context": nn.Dense(width, dtype=kind, kernel_init=nn.initializers.xavier_uniform()),
        "decoder": Transformer(decoder_depth, cross=True, norm_context="own", **stack),
    }
    # One row of positions after another: of each grid once, and of texts.
    longest = max((2 * s.length + 2 for s in texts), default=0)
    shapes = sorted({s.grid for s in streams if not s.length})
    starts = np.cumsum([0, *(rows * columns for rows, columns in shapes)])
    first_place = np.array([starts[len(shapes)] if s.length else starts[shapes.index(s.grid)] for s in streams])
    sizes = [s.rows for s in streams]
    first_row = np.cumsum([0, *sizes[:-1]])
    text_row = np.cumsum([0, *(s.rows if s.length else 0 for s in streams[:-1])])
    is_text = np.array([s.length > 0 for s in streams])

    def run(params: Params, name: str, *inputs: Any, **options: Any) -> Any:
        return modules[name].apply({"params": params[name]}, *inputs, **options)

    def init(rng: PRNGKeyArray) -> Params:
        x = jnp.zeros((1, 2, width), jnp.float32)
        inputs: dict[str, tuple] = {"encoder": (x,), "context": (x,), "decoder": (x, None, x)}
        keys = jax.random.split(rng, len(modules))
        return {k: m.init(key, *inputs.get(k, ()))["params"] for key, (k, m) in zip(keys, modules.items())}

    def labels(params: Params, tokens: Tokens) -> Array:
        """Position and stream of each token; 0 for padding."""
        ladder = jnp.concatenate([*(grid_positions(*g, width) for g in shapes), sincos_1d(longest, width)]).astype(kind)
        positions = ladder[jnp.asarray(first_place)[tokens.stream] + tokens.place]
        names = jnp.concatenate([params["stream"][s.name] for s in streams]).astype(kind)
        # A product with one-hot rows: its gradient is a product too, where a look-up's is a scatter.
        where = positions + jax.nn.one_hot(tokens.stream, len(streams), dtype=kind) @ names
        return jnp.where(tokens.valid[..., None], where, 0)

    def encode(params: Params, tokens: Tokens) -> tuple[Array, dict[str, Any]]:
        table = jnp.concatenate([params["in"][s.name] for s in streams])
        x = table[jnp.asarray(first_row)[tokens.stream] + tokens.ids].astype(kind)
        x = jnp.where(tokens.valid[..., None], x, 0) + labels(params, tokens)
        return run(params, "encoder", x, padding_mask(tokens.valid))

    def decode(params: Params, encoded: Array, inputs: Tokens, queries: Tokens, reach: Array | None) -> Array:
        context = run(params, "context", encoded) + labels(params, inputs)
        y = jnp.broadcast_to(params["mask"]["token"][0].astype(kind), (*queries.ids.shape, width))
        reads = jnp.asarray(is_text)[queries.stream]
        if texts:
            table = jnp.concatenate([params["out"][s.name] for s in texts])
            at = jnp.where(reads, jnp.asarray(text_row)[queries.stream] + queries.ids, 0)
            y = jnp.where(reads[..., None], table[at].astype(kind), y)
        y = jnp.where(queries.valid[..., None], y, 0) + labels(params, queries)
        mask = padding_mask(queries.valid) if reach is None else attention_mask(reach, queries.stream, separate)
        if not causal:
            same = queries.stream[:, :, None] == queries.stream[:, None, :]
            mask = padding_mask(queries.valid) & same[:, None] if separate else padding_mask(queries.valid)
        return run(params, "decoder", y, mask, context, padding_mask(inputs.valid))[0]

    return TokenModel(init, encode, decode, lambda params: tuple(params["out"][s.name] for s in streams))
