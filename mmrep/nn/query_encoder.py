"""Learned queries between an encoder's tokens and text (Q-Former; Li et al. 2023, BLIP-2, arXiv 2301.12597, section 3.1)."""

from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from mmrep.errors import ConfigError
from mmrep.nn.attention import Attention, padding_mask, query_text_mask
from mmrep.nn.config import TransformerConfig
from mmrep.nn.norms import norm_layer
from mmrep.nn.placement import by_rows
from mmrep.nn.positions import LearnedPositions
from mmrep.nn.transformer import Mlp

Mode = Literal["contrast", "match", "generate"]


class QueryLayer(nn.Module):
    """Self-attention over queries and text together, cross-attention of the queries alone where `cross`, and an MLP for each of them."""

    config: TransformerConfig
    cross: bool
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B N D"],
        queries: int,
        mask: Bool[Array, "#B 1 #N N"],
        context: Float[Array, "B M E"] | None,
        context_mask: Bool[Array, "#B 1 1 M"] | None,
    ) -> Float[Array, "B N D"]:
        c = self.config

        def normed(x: Array, name: str, part: Any) -> Array:
            norm = norm_layer(c, self.dtype, f"norm_{name}")
            return by_rows(x + part(norm(x)) if c.norm == "pre" else norm(x + part(x)))

        x = normed(x, "attn", lambda y: Attention(c, self.dtype, name="attn")(y, None, mask)[0])
        q, text = x[:, :queries], x[:, queries:]
        if self.cross and queries:
            q = normed(q, "cross", lambda y: Attention(c, self.dtype, name="cross")(y, context, context_mask)[0])
        found = []
        for name, part in (("mlp", q), ("mlp_text", text)):
            if part.shape[1]:
                mlp = Mlp(c.hidden, self.dtype, c.activation, c.bias, name=name)
                part = normed(part, name, mlp)
            found.append(part)
        return jnp.concatenate(found, axis=1)


class QueryGroup(nn.Module):
    """`cross_every` layers, the first of them with cross-attention: what a scan repeats."""

    config: TransformerConfig
    cross_every: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B N D"],
        queries: int,
        mask: Bool[Array, "#B 1 #N N"],
        context: Float[Array, "B M E"] | None,
        context_mask: Bool[Array, "#B 1 1 M"] | None,
    ) -> Float[Array, "B N D"]:
        for i in range(self.cross_every):
            layer = QueryLayer(self.config, i == 0, self.dtype, name=f"layer{i}")
            x = layer(x, queries, mask, context, context_mask)
        return x


class QueryEncoder(nn.Module):
    """`queries` learned vectors that attend to a context, and a text whose self-attention has the same parameters.

    cross_every: cross-attention in layers 0, k, 2 k, ...; with `config.scan` it must divide the depth.
    vocab, length: of the text; 0 is padding.
    Modes (see `mmrep.nn.attention.query_text_mask`): "contrast", queries and text apart, either of which may be None; "match", together;
    "generate", the text causally behind the queries, its first token replaced by a learned start of its own.
    valid: of the context.   Returns (queries [B, M, D] or None, text tokens [B, L, D] or None).
    Raises ConfigError where a mode lacks an input. Initialise with context and text and the mode "generate", which has every parameter.
    """

    config: TransformerConfig
    queries: int = 32
    vocab: int = 1024
    length: int = 32
    cross_every: int = 2
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        context: Float[Array, "B N E"] | None,
        valid: Bool[Array, "B N"] | None = None,
        ids: Int[Array | np.ndarray, "B L"] | None = None,
        mode: Mode = "contrast",
    ) -> tuple[Float[Array, "B M D"] | None, Float[Array, "B L D"] | None]:
        c, parts, kept = self.config, [], []
        if (context is None and ids is None) or (mode != "contrast" and (context is None or ids is None)):
            raise ConfigError(f"mode {mode!r} needs a context and a text; 'contrast' at least one of them.")
        given = context if context is not None else jnp.asarray(ids)
        rows, count = given.shape[0], 0 if context is None else self.queries
        init = nn.initializers.normal(0.02)
        if context is not None:
            probe = self.param("queries", init, (self.queries, c.width), jnp.float32).astype(self.dtype)
            x = norm_layer(c, self.dtype, "query_norm")(jnp.broadcast_to(probe, (rows, *probe.shape)))
            parts, kept = [x], [jnp.ones(x.shape[:2], bool)]
        length = 0
        if ids is not None:
            ids = jnp.asarray(ids)
            length = ids.shape[1]
            x = nn.Embed(self.vocab, c.width, dtype=self.dtype, embedding_init=init, name="embed")(ids)
            if mode == "generate":
                start = self.param("start", init, (c.width,), jnp.float32).astype(self.dtype)
                x = jnp.concatenate([jnp.broadcast_to(start, (rows, 1, c.width)), x[:, 1:]], axis=1)
            x = LearnedPositions(self.length, dtype=self.dtype, name="positions")(x)
            parts, kept = [*parts, norm_layer(c, self.dtype, "embed_norm")(x)], [*kept, ids > 0]
        # The queries are the same for all rows, and a loop over layers would keep them whole on every device.
        x = by_rows(jnp.concatenate(parts, axis=1))
        mask = query_text_mask(count, length, mode) & padding_mask(jnp.concatenate(kept, axis=1))
        seen = None if valid is None else padding_mask(jnp.asarray(valid))
        context = None if context is None else jnp.asarray(context, self.dtype)
        if c.scan:
            x = self._scanned(x, count, mask, context, seen)
        else:
            layer = nn.remat(QueryLayer, static_argnums=2) if c.remat else QueryLayer
            for i in range(c.depth):
                cross = i % self.cross_every == 0
                x = layer(c, cross, self.dtype, name=f"block{i:02d}")(x, count, mask, context, seen)
        if c.norm == "pre":
            x = norm_layer(c, self.dtype, "norm")(x)
        return (x[:, :count] if count else None), (x[:, count:] if length else None)

    def _scanned(self, x: Array, count: int, mask: Array, context: Array | None, seen: Array | None) -> Array:
        """The layers, compiled once; their parameters are stacked under "blocks"."""
        c = self.config
        if c.depth % self.cross_every:
            raise ConfigError(
                f"depth {c.depth} cannot be scanned in groups of {self.cross_every} layers: give a multiple of "
                "cross_every, or scan=False"
            )
        group = nn.remat(QueryGroup, prevent_cse=False, static_argnums=2) if c.remat else QueryGroup

        def step(module: Any, x: Array, mask: Array, context: Array | None, seen: Array | None) -> tuple[Array, None]:
            return module(x, count, mask, context, seen), None

        layers = nn.scan(
            step, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=(nn.broadcast,) * 3,
            length=c.depth // self.cross_every,
        )  # fmt: skip
        return layers(group(c, self.cross_every, self.dtype, name="blocks"), x, mask, context, seen)[0]
