"""4M's network as pure functions: one encoder and one decoder over the tokens of all modalities (Mizrahi et al. 2023, arXiv 2312.06647).

m = fourm_model(modalities, encoder=replace(BASE, depth=6), decoder=replace(BASE, depth=6))
params = m.init(rng)
context, out = m.encode(params, masked.inputs)
y = m.decode(params, context, masked.inputs, masked.queries, masked.decoder_attention_mask)
logits = m.to_logits(params, y, i)                                     # of modality i; training uses `heads`
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
from mmrep.nn import transformer
from mmrep.nn.attention import padding_mask
from mmrep.nn.config import TransformerConfig
from mmrep.nn.positions import grid_positions, sincos_1d
from mmrep.nn.transformer import Cache, Transformer
from mmrep.system import Params
from mmrep.systems.masked.fourm.masking import expand_decoder_attention_mask
from mmrep.systems.masked.fourm.tokens import TokenModality, Tokens

BASE = TransformerConfig(width=768, depth=12, heads=12, epsilon=1e-6, activation="swiglu", use_bias=False)
"""4M-B's encoder and decoder; other sizes replace width, depth and heads."""


class EmbeddingTables(nn.Module):
    """Learned embeddings by name."""

    rows: tuple[tuple[str, int], ...]
    width: int
    std: float = 0.02

    @nn.compact
    def __call__(self) -> dict[str, Array]:
        init = nn.initializers.normal(self.std)
        return {name: self.param(name, init, (n, self.width), jnp.float32) for name, n in self.rows}


class DecodeState(NamedTuple):
    """Autoregressive decoding: the decoder's KV cache, with the context's keys and values, and the context's padding mask."""

    cache: Cache
    context_valid: Bool[Array, "B N"]


class FourM(NamedTuple):
    """init: rng -> params.   encode: (params, tokens, {input-only modality: values} = {}) -> (context [B, N, D], the encoder's `out`).

    decode:      (params, context, its tokens, queries, decoder_attention_mask [B, M] or None: no self-attention mask) -> [B, M, D].
    init_cache:  (params, context, its tokens, length) -> DecodeState for `length` tokens of one sequence.
    decode_step: (params, state, query [B, 1]) -> ([B, 1, D], state): equals `decode` at the last of the tokens so far.
    to_logits:   (params, y [B, M, D], i) -> logits [B, M, V] of modality i.
    embeddings:  params -> the decoder's embedding table of each modality, which also gives its logits (tied weights).
    """

    init: Callable[[PRNGKeyArray], Params]
    encode: Callable[..., tuple[Float[Array, "B N D"], dict[str, Any]]]
    decode: Callable[[Params, Array, Tokens, Tokens, Int[Array, "B M"] | None], Float[Array, "B M D"]]
    init_cache: Callable[[Params, Array, Tokens, int], DecodeState]
    decode_step: Callable[[Params, DecodeState, Tokens], tuple[Float[Array, "B 1 D"], DecodeState]]
    to_logits: Callable[[Params, Array, int], Float[Array, "B M V"]]
    embeddings: Callable[[Params], tuple[Array, ...]]


def fourm_model(
    modalities: Sequence[TokenModality],
    encoder: TransformerConfig,
    decoder: TransformerConfig,
    *,
    sep_mask: bool = True,
    causal_mask: bool = True,
    dtype: str = "float32",
    position_base: float = 10_000.0,
    embedding_std: float = 0.02,
    decoder_embedding_std: float = 0.02,
) -> FourM:
    """sep_mask: decoder queries attend within their own modality.   causal_mask: False lets every query attend to all (ablation: texts leak).

    embedding_std: of the encoder's initial token embeddings. Beside those of positions, which are of the size of 0.7, tokens of the authors' 0.02
        are nearly alike at first.   decoder_embedding_std: of the decoder's, whose rows also give the logits.
    position_base: period base of the sine-cosine position embeddings; on a small grid a small base separates positions better.

    Raises ConfigError for a width that cannot work.
    """
    width = encoder.width
    if width % 4 or width != decoder.width:
        raise ConfigError(
            f"system.encoder.width is {width} and decoder.width {decoder.width}: give both one multiple of 4"
        )
    kind = jnp.dtype(dtype)
    texts = [m for m in modalities if m.is_sequence and not m.input_only]
    projected = [m for m in modalities if m.input_only]
    learned = [m for m in modalities if m.learned_positions]
    rows = tuple((m.name, m.num_embeddings) for m in modalities if not m.input_only)
    modules: dict[str, nn.Module] = {
        "encoder_embeddings": EmbeddingTables(rows, width, embedding_std),
        "decoder_embeddings": EmbeddingTables(rows, width, decoder_embedding_std),
        "mod_emb": EmbeddingTables(tuple((m.name, 1) for m in modalities), width),
        "mask_token": EmbeddingTables((("token", 1),), width),
        "encoder": Transformer(encoder, dtype=kind),
        "decoder_proj_context": nn.Dense(width, dtype=kind, kernel_init=nn.initializers.xavier_uniform()),
        "decoder": Transformer(decoder, cross=True, norm_context="own", dtype=kind),
    }
    for m in projected:
        modules[f"proj_{m.name}"] = nn.Dense(
            width, use_bias=m.is_sequence, dtype=kind, kernel_init=nn.initializers.xavier_uniform()
        )
    if learned:
        modules["pos_emb"] = EmbeddingTables(tuple((m.name, m.max_tokens) for m in learned), width)

    # Position embeddings are one table: each grid once, then sequences, then learned ones.
    longest = max((2 * m.length + 2 for m in modalities if m.is_sequence), default=0)
    grids = sorted({m.grid for m in modalities if not m.is_sequence and not m.learned_positions})
    starts = np.cumsum([0, *(r * c for r, c in grids), longest, *(m.max_tokens for m in learned)])

    def position_block(m: TokenModality) -> int:
        if m.learned_positions:
            return len(grids) + 1 + learned.index(m)
        return len(grids) if m.is_sequence else grids.index(m.grid)

    first_position = np.array([starts[position_block(m)] for m in modalities])
    # Rows of each modality in the concatenated tables: of all modalities, and of texts alone.
    sizes = [0 if m.input_only else m.num_embeddings for m in modalities]
    first_row = np.cumsum([0, *sizes[:-1]])
    first_text_row = np.cumsum([0, *(m.num_embeddings if m in texts else 0 for m in modalities[:-1])])
    is_text = np.array([m in texts for m in modalities])

    def apply(params: Params, name: str, *inputs: Any, **options: Any) -> Any:
        return modules[name].apply({"params": params[name]}, *inputs, **options)

    def init(rng: PRNGKeyArray) -> Params:
        x = jnp.zeros((1, 2, width), jnp.float32)
        inputs: dict[str, tuple] = {"encoder": (x,), "decoder_proj_context": (x,), "decoder": (x, None, x)}
        for m in projected:
            inputs[f"proj_{m.name}"] = (jnp.zeros((1, m.num_values), jnp.float32),)
        keys = jax.random.split(rng, len(modules))
        return {k: m.init(key, *inputs.get(k, ()))["params"] for key, (k, m) in zip(keys, modules.items())}

    def modality_embedding(params: Params, tokens: Tokens) -> Array:
        """Position and modality embedding of each token; 0 for padding."""
        fixed = *(grid_positions(*g, width, position_base) for g in grids), sincos_1d(longest, width)
        table = jnp.concatenate([*fixed, *(params["pos_emb"][m.name] for m in learned)]).astype(kind)
        positions = table[jnp.asarray(first_position)[tokens.modality] + tokens.position]
        mod_emb = jnp.concatenate([params["mod_emb"][m.name] for m in modalities]).astype(kind)
        # A product with one-hot rows: its gradient is a product too, while the gradient of indexing is a scatter.
        emb = positions + jax.nn.one_hot(tokens.modality, len(modalities), dtype=kind) @ mod_emb
        return jnp.where(tokens.valid[..., None], emb, 0)

    def encode(
        params: Params, tokens: Tokens, values: Mapping[str, Array] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        x = jnp.zeros((*tokens.ids.shape, width), kind)
        if rows:
            table = jnp.concatenate([params["encoder_embeddings"][name] for name, _ in rows])
            x = table[jnp.asarray(first_row)[tokens.modality] + tokens.ids].astype(kind)
        for m in projected:
            if values and m.name in values:
                own = tokens.modality == modalities.index(m)
                # Ids of embeddings count them; positions count the tokens that span masking leaves.
                at = tokens.position if m.patch_size else jnp.minimum(tokens.ids - FIRST_PIECE, m.length - 1)
                chosen = jnp.take_along_axis(values[m.name].astype(kind), jnp.where(own, at, 0)[..., None], axis=1)
                if m.embedding_dim:
                    chosen = jnp.where((tokens.ids < m.sentinel)[..., None], chosen, 0)
                flat = apply(params, f"proj_{m.name}", chosen.reshape(-1, chosen.shape[-1]))
                x = jnp.where(own[..., None], flat.reshape(x.shape), x)
        x = jnp.where(tokens.valid[..., None], x, 0) + modality_embedding(params, tokens)
        return apply(params, "encoder", x, padding_mask(tokens.valid))

    def embed_decoder_inputs(params: Params, queries: Tokens) -> Array:
        """Token embeddings for sequences (teacher forcing), mask tokens for images."""
        y = jnp.broadcast_to(params["mask_token"]["token"][0].astype(kind), (*queries.ids.shape, width))
        text = jnp.asarray(is_text)[queries.modality]
        if texts:
            table = jnp.concatenate([params["decoder_embeddings"][m.name] for m in texts])
            at = jnp.where(text, jnp.asarray(first_text_row)[queries.modality] + queries.ids, 0)
            y = jnp.where(text[..., None], table[at].astype(kind), y)
        return jnp.where(queries.valid[..., None], y, 0) + modality_embedding(params, queries)

    def project_context(params: Params, encoded: Array, inputs: Tokens) -> Array:
        return apply(params, "decoder_proj_context", encoded) + modality_embedding(params, inputs)

    def decode(params: Params, encoded: Array, inputs: Tokens, queries: Tokens, attention_mask: Array | None) -> Array:
        context = project_context(params, encoded, inputs)
        if not causal_mask:
            same = queries.modality[:, :, None] == queries.modality[:, None, :]
            mask = padding_mask(queries.valid) & same[:, None] if sep_mask else padding_mask(queries.valid)
        elif attention_mask is None:
            mask = padding_mask(queries.valid)
        else:
            mask = expand_decoder_attention_mask(attention_mask, queries.modality, sep_mask)
        y = embed_decoder_inputs(params, queries)
        return apply(params, "decoder", y, mask, context, padding_mask(inputs.valid))[0]

    def init_cache(params: Params, encoded: Array, inputs: Tokens, length: int) -> DecodeState:
        empty = transformer.init_cache(decoder, len(encoded), length, kind)
        # The first call with a context stores its keys and values; the token that goes with it is overwritten.
        token = jnp.zeros((len(encoded), 1, width), kind)
        _, out = apply(params, "decoder", token, context=project_context(params, encoded, inputs), cache=empty)
        return DecodeState(out["cache"] | {"length": empty["length"]}, inputs.valid)

    def decode_step(params: Params, state: DecodeState, query: Tokens) -> tuple[Array, DecodeState]:
        x, context_mask = embed_decoder_inputs(params, query), padding_mask(state.context_valid)
        y, out = apply(params, "decoder", x, context_mask=context_mask, cache=state.cache)
        return y, state._replace(cache=out["cache"])

    def embeddings(params: Params) -> tuple[Any, ...]:
        # Input-only modalities are never predicted: their table is one row that no token uses.
        unused = jnp.zeros((1, width), jnp.float32)
        return tuple(unused if m.input_only else params["decoder_embeddings"][m.name] for m in modalities)

    def to_logits(params: Params, y: Array, i: int) -> Array:
        return y @ embeddings(params)[i].astype(y.dtype).T

    return FourM(init, encode, decode, init_cache, decode_step, to_logits, embeddings)
