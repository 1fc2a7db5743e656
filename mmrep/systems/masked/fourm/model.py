"""4M's network as pure functions: one encoder and one decoder over tokens of any stream (Mizrahi et al. 2023, arXiv 2312.06647).

m = token_model(streams, encoder=replace(BASE, depth=6), decoder=replace(BASE, depth=6))
params = m.init(rng)
context, out = m.encode(params, masked.inputs)
y = m.decode(params, context, masked.inputs, masked.queries, masked.reach)      # then m.tables(params) and tied_heads
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from mmrep.errors import ConfigError
from mmrep.modality import FIRST_PIECE
from mmrep.nn.adapters import grid_positions, take
from mmrep.nn.attention import padding_mask
from mmrep.nn.config import TransformerConfig
from mmrep.nn.positions import sincos_1d
from mmrep.nn.transformer import Transformer
from mmrep.system import Params
from mmrep.systems.masked.fourm.masking import Stream, Tokens, attention_mask

BASE = TransformerConfig(width=768, depth=12, heads=12, epsilon=1e-6, activation="swiglu", use_bias=False)
"""4M-B's encoder and decoder; other sizes replace width, depth and heads."""


class Tables(nn.Module):
    """Learnt rows by name."""

    rows: tuple[tuple[str, int], ...]
    width: int

    @nn.compact
    def __call__(self) -> dict[str, Array]:
        init = nn.initializers.normal(0.02)
        return {name: self.param(name, init, (n, self.width), jnp.float32) for name, n in self.rows}


def linear_name(s: Stream) -> str:
    """The parameters by which a stream without ids goes in."""
    return f"{'vectors' if s.vectors else 'pixels'}_{s.name}"


class Memory(NamedTuple):
    """Of a text that is read token by token: the decoder's keys and values, its context and what of that is real, and which tokens were read."""

    cache: Any
    context: Float[Array, "B N D"]
    real: Bool[Array, "B N"]
    seen: Bool[Array, " L"]


class TokenModel(NamedTuple):
    """init: rng -> params.   encode: (params, tokens, patches = {}) -> (encoded [B, N, D], the encoder's `out`).

    patches: [B, places, values] in [-1, 1] of each pixel stream, (row, column, channel) inside a patch; of vectors, [B, L, values].

    decode: (params, encoded, its tokens, queries, reach [B, M] or None: no self-attention mask) -> [B, M, D].
    begin:  (params, encoded, its tokens, length) -> a memory for so many tokens of one text, to be read one by one.
    read:   (params, memory, query [B, 1]) -> ([B, 1, D], memory): what `decode` gives for the last of the tokens read so far.
    tables: params -> the decoder's table of each stream, in which its logits are taken.
    """

    init: Callable[[PRNGKeyArray], Params]
    encode: Callable[..., tuple[Float[Array, "B N D"], dict[str, Any]]]
    decode: Callable[[Params, Array, Tokens, Tokens, Int[Array, "B M"] | None], Float[Array, "B M D"]]
    begin: Callable[[Params, Array, Tokens, int], Memory]
    read: Callable[[Params, Memory, Tokens], tuple[Float[Array, "B 1 D"], Memory]]
    tables: Callable[[Params], tuple[Array, ...]]


def token_model(
    streams: Sequence[Stream],
    encoder: TransformerConfig,
    decoder: TransformerConfig,
    *,
    separate: bool = True,
    causal: bool = True,
    dtype: str = "float32",
    position_base: float = 10_000.0,
) -> TokenModel:
    """separate: decoder queries see their own stream alone.   causal: off, every query sees all (a leak where texts are read; ablation).

    position_base: of the positions' slowest wave; on a small grid a small one tells places apart better.

    Raises ConfigError for a width that cannot work.
    """
    width = encoder.width
    if width % 4 or width != decoder.width:
        raise ConfigError(
            f"system.encoder.width is {width} and decoder.width {decoder.width}: give both one multiple of 4"
        )
    kind = jnp.dtype(dtype)
    texts = [s for s in streams if s.length and not s.vectors]
    linear = [s for s in streams if s.only_input]
    rows = tuple((s.name, s.rows) for s in streams if not s.only_input)
    modules: dict[str, nn.Module] = {
        "in": Tables(rows, width),
        "out": Tables(rows, width),
        "stream": Tables(tuple((s.name, 1) for s in streams), width),
        "mask": Tables((("token", 1),), width),
        "encoder": Transformer(encoder, dtype=kind),
        "context": nn.Dense(width, dtype=kind, kernel_init=nn.initializers.xavier_uniform()),
        "decoder": Transformer(decoder, cross=True, norm_context="own", dtype=kind),
    }
    for s in linear:
        modules[linear_name(s)] = nn.Dense(
            width, use_bias=s.vectors > 0, dtype=kind, kernel_init=nn.initializers.xavier_uniform()
        )
    learned = [s for s in streams if s.learned]
    if learned:
        modules["place"] = Tables(tuple((s.name, s.size) for s in learned), width)
    # One row of positions after another: of each grid once, and of texts.
    longest = max((2 * s.length + 2 for s in streams if s.length), default=0)
    shapes = sorted({s.grid for s in streams if not s.length and not s.learned})
    starts = np.cumsum([0, *(r * c for r, c in shapes), longest, *(s.size for s in learned)])

    def place_row(s: Stream) -> int:
        return int(
            starts[
                len(shapes) + 1 + learned.index(s) if s.learned else len(shapes) if s.length else shapes.index(s.grid)
            ]
        )

    first_place = np.array([place_row(s) for s in streams])
    sizes = [0 if s.only_input else s.rows for s in streams]
    first_row = np.cumsum([0, *sizes[:-1]])
    text_row = np.cumsum([0, *(s.rows if s in texts else 0 for s in streams[:-1])])
    is_text = np.array([s in texts for s in streams])

    def run(params: Params, name: str, *inputs: Any, **options: Any) -> Any:
        return modules[name].apply({"params": params[name]}, *inputs, **options)

    def init(rng: PRNGKeyArray) -> Params:
        x = jnp.zeros((1, 2, width), jnp.float32)
        inputs: dict[str, tuple] = {"encoder": (x,), "context": (x,), "decoder": (x, None, x)}
        values = {linear_name(s): s.vectors or s.patch**2 * s.channels for s in linear}
        inputs |= {k: (jnp.zeros((1, n), jnp.float32),) for k, n in values.items()}
        keys = jax.random.split(rng, len(modules))
        return {k: m.init(key, *inputs.get(k, ()))["params"] for key, (k, m) in zip(keys, modules.items())}

    def labels(params: Params, tokens: Tokens) -> Array:
        """Position and stream of each token; 0 for padding."""
        fixed = *(grid_positions(*g, width, position_base) for g in shapes), sincos_1d(longest, width)
        ladder = jnp.concatenate([*fixed, *(params["place"][s.name] for s in learned)]).astype(kind)
        positions = ladder[jnp.asarray(first_place)[tokens.stream] + tokens.place]
        names = jnp.concatenate([params["stream"][s.name] for s in streams]).astype(kind)
        # A product with one-hot rows: its gradient is a product too, where a look-up's is a scatter.
        where = positions + jax.nn.one_hot(tokens.stream, len(streams), dtype=kind) @ names
        return jnp.where(tokens.valid[..., None], where, 0)

    def encode(
        params: Params, tokens: Tokens, patches: Mapping[str, Array] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        x = jnp.zeros((*tokens.ids.shape, width), kind)
        if rows:
            table = jnp.concatenate([params["in"][name] for name, _ in rows])
            x = table[jnp.asarray(first_row)[tokens.stream] + tokens.ids].astype(kind)
        for s in linear:
            if patches and s.name in patches:
                here = tokens.stream == streams.index(s)
                # Of vectors the id says which, as places are those in the order of what is left of the text.
                at = tokens.place if s.patch else jnp.minimum(tokens.ids - FIRST_PIECE, s.length - 1)
                chosen = take(patches[s.name].astype(kind), jnp.where(here, at, 0))
                if s.vectors:
                    chosen = jnp.where((tokens.ids < s.sentinel)[..., None], chosen, 0)
                flat = run(params, linear_name(s), chosen.reshape(-1, chosen.shape[-1]))
                x = jnp.where(here[..., None], flat.reshape(x.shape), x)
        x = jnp.where(tokens.valid[..., None], x, 0) + labels(params, tokens)
        return run(params, "encoder", x, padding_mask(tokens.valid))

    def asked(params: Params, queries: Tokens) -> Array:
        """What goes into the decoder: texts as they are read, images as the mask token."""
        y = jnp.broadcast_to(params["mask"]["token"][0].astype(kind), (*queries.ids.shape, width))
        reads = jnp.asarray(is_text)[queries.stream]
        if texts:
            table = jnp.concatenate([params["out"][s.name] for s in texts])
            at = jnp.where(reads, jnp.asarray(text_row)[queries.stream] + queries.ids, 0)
            y = jnp.where(reads[..., None], table[at].astype(kind), y)
        return jnp.where(queries.valid[..., None], y, 0) + labels(params, queries)

    def decode(params: Params, encoded: Array, inputs: Tokens, queries: Tokens, reach: Array | None) -> Array:
        context = run(params, "context", encoded) + labels(params, inputs)
        mask = padding_mask(queries.valid) if reach is None else attention_mask(reach, queries.stream, separate)
        if not causal:
            same = queries.stream[:, :, None] == queries.stream[:, None, :]
            mask = padding_mask(queries.valid) & same[:, None] if separate else padding_mask(queries.valid)
        return run(params, "decoder", asked(params, queries), mask, context, padding_mask(inputs.valid))[0]

    def remember(params: Params, cache: Any, *inputs: Any) -> tuple[Array, Any]:
        variables = {"params": params["decoder"]} | ({} if cache is None else {"cache": cache})
        (y, _), changed = modules["decoder"].apply(variables, *inputs, mutable=["cache"])
        return y, changed["cache"]

    def begin(params: Params, encoded: Array, inputs: Tokens, length: int) -> Memory:
        context = run(params, "context", encoded) + labels(params, inputs)
        room = jnp.zeros((len(encoded), length, width), kind)
        _, cache = remember(params, None, room, None, context, padding_mask(inputs.valid))
        return Memory(cache, context, inputs.valid, jnp.zeros(length, bool))

    def read(params: Params, memory: Memory, query: Tokens) -> tuple[Array, Memory]:
        seen = jnp.arange(len(memory.seen)) <= memory.seen.sum()
        mask, real = seen[None, None, None], padding_mask(memory.real)
        y, cache = remember(params, memory.cache, asked(params, query), mask, memory.context, real)
        return y, memory._replace(cache=cache, seen=seen)

    def tables(params: Params) -> tuple[Any, ...]:
        # What only goes in is never predicted: its table is one row that no token meets.
        return tuple(jnp.zeros((1, width), jnp.float32) if s.only_input else params["out"][s.name] for s in streams)

    return TokenModel(init, encode, decode, begin, read, tables)
