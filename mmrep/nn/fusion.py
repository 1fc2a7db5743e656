"""Fusing the tokens of several encoders: one joint stream, a stream that attends to another, or two that attend to each other."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from mmrep.errors import ConfigError
from mmrep.nn.attention import Attention, padding_mask
from mmrep.nn.config import TransformerConfig
from mmrep.nn.norms import norm_layer
from mmrep.nn.pooling import mean_pool
from mmrep.nn.transformer import Block, Transformer

Order = Literal["self, cross, mlp", "cross, self, mlp"]
ORDERS = ("self, cross, mlp", "cross, self, mlp")


class JointEncoder(nn.Module):
    """One transformer over the tokens of all parts, in the order of their names, each token plus a learned embedding of its part.

    parts:  {name: tokens [B, n, D]} of the width of `config`.   valid: {name: [B, n]}; a part without an entry has no padding.
    absent: {name: bool or [B]}: where True, a learned mask token of the part takes the place of each of its tokens, padding included,
            so that neither the content nor the number of the missing tokens has an effect.
    mask:   [#B, #H, N, N] over all N tokens beside the padding, e.g. `causal_mask(N)`.
    Returns (the mean of the valid tokens [B, D], out): out["tokens"] and out["valid"] of all N, out["parts"] {name: tokens}, the blocks.
    Raises ConfigError where there is no part, or `valid` or `absent` has a name that `parts` lacks.
    """

    config: TransformerConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        parts: Mapping[str, Float[Array, "B _ D"]],
        valid: Mapping[str, Bool[Array, "B _"]] | None = None,
        absent: Mapping[str, bool | Bool[Array, " B"]] | None = None,
        mask: Bool[Array, "#B #H N N"] | None = None,
    ) -> tuple[Float[Array, "B D"], dict[str, Any]]:
        valid, absent, names = valid or {}, absent or {}, sorted(parts)
        if not names or not {*valid, *absent} <= {*names}:
            raise ConfigError(
                f"JointEncoder has the parts {names}, masks of {sorted({*valid, *absent})}: name its parts."
            )
        rows, kept = [], []
        for name in names:
            x = jnp.asarray(parts[name], self.dtype)
            init = nn.initializers.normal(0.02)
            kind = self.param(f"type_{name}", init, (x.shape[-1],), jnp.float32)
            missing = self.param(f"absent_{name}", init, (x.shape[-1],), jnp.float32)
            here = jnp.asarray(valid[name]) if name in valid else jnp.ones(x.shape[:2], bool)
            if name in absent:
                gone = jnp.broadcast_to(jnp.asarray(absent[name]), x.shape[:1])[:, None]
                x, here = jnp.where(gone[..., None], missing.astype(x.dtype), x), here | gone
            rows.append(x + kind.astype(x.dtype))
            kept.append(here)
        tokens, whole = jnp.concatenate(rows, axis=1), jnp.concatenate(kept, axis=1)
        keys = padding_mask(whole)
        y, out = Transformer(self.config, dtype=self.dtype, name="transformer")(
            tokens, keys if mask is None else keys & mask
        )
        ends = [sum(x.shape[1] for x in rows[: i + 1]) for i in range(len(rows))]
        out["valid"], out["parts"] = whole, dict(zip(names, jnp.split(y, ends[:-1], axis=1)))
        out["pooled"] = pooled = mean_pool(y, whole)
        return pooled, out


class FusionEncoder(nn.Module):
    """A text stream whose blocks also attend to another modality's tokens (ALBEF, Li et al. 2021, section 3.1).

    The upper half of ALBEF's text stack: its tokens are those of a TextTransformer of the same `config` but for the depth.
    The context may have any width. Returns (pooled [B,D], out): pooled is the first token.
    """

    config: TransformerConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        tokens: Float[Array, "B N D"],
        context: Float[Array, "B M E"],
        valid: Bool[Array, "B N"] | None = None,
        context_valid: Bool[Array, "B M"] | None = None,
    ) -> tuple[Float[Array, "B D"], dict[str, Array]]:
        mask, context_mask = (None if v is None else padding_mask(v) for v in (valid, context_valid))
        fusion = Transformer(self.config, cross=True, dtype=self.dtype, name="transformer")
        x, out = fusion(tokens, mask, context, context_mask)
        if valid is not None:
            out["valid"] = valid
        out["pooled"] = pooled = x[:, 0]
        return pooled, out


class CoAttention(nn.Module):
    """One layer of two streams: both attend to the other's tokens of before the layer, never to its new ones.

    order: "self, cross, mlp" (METER, Dou et al. 2022; BridgeTower) or "cross, self, mlp" (LXMERT, Tan and Bansal 2019).
    shared_cross: both directions of the cross-attention have the same parameters, its norm included (LXMERT's code); for "cross, self, mlp".
    valid_a, valid_b: False at padding, to which no token attends. With norm="pre" the context is normed by a norm of its own.
    Returns (a, b). Raises ConfigError for another order, or `shared_cross` with the first.
    """

    config: TransformerConfig
    order: Order = "self, cross, mlp"
    shared_cross: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        a: Float[Array, "B N D"],
        b: Float[Array, "B M D"],
        valid_a: Bool[Array, "B N"] | None = None,
        valid_b: Bool[Array, "B M"] | None = None,
    ) -> tuple[Float[Array, "B N D"], Float[Array, "B M D"]]:
        c, (mask_a, mask_b) = self.config, (None if v is None else padding_mask(v) for v in (valid_a, valid_b))
        if self.order not in ORDERS or (self.shared_cross and self.order == ORDERS[0]):
            raise ConfigError(
                f"order is {self.order!r} with shared_cross={self.shared_cross}; choose 'cross, self, mlp', or 'self, cross, mlp' unshared."
            )
        own: Literal[False, "own"] = "own" if c.norm == "pre" else False
        if self.order == ORDERS[0]:
            left, right = (Block(c, True, own, self.dtype, name=name) for name in ("a", "b"))
            return left(a, mask_a, b, mask_b)[0], right(b, mask_b, a, mask_a)[0]
        crosses = [CrossAttention(c, self.dtype, name="cross" if self.shared_cross else "cross_a")]
        crosses += crosses if self.shared_cross else [CrossAttention(c, self.dtype, name="cross_b")]
        new_a, new_b = crosses[0](a, b, mask_b), crosses[1](b, a, mask_a)
        left, right = (Block(c, dtype=self.dtype, name=name) for name in ("a", "b"))
        return left(new_a, mask_a)[0], right(new_b, mask_b)[0]


class CrossAttention(nn.Module):
    """Attention to a context with its residual connection and norm, as one part of a block; norm="pre" norms the context by a norm of its own.

    `config.dropout` acts where an rng "dropout" is given.
    """

    config: TransformerConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B N D"],
        context: Float[Array, "B M E"],
        mask: Bool[Array, "#B #H #N #M"] | None = None,
    ) -> Float[Array, "B N D"]:
        c, norm = self.config, norm_layer(self.config, self.dtype, "norm")
        drop = nn.Dropout(c.dropout, deterministic=not (c.dropout and self.has_rng("dropout")))
        attention = Attention(c, self.dtype, name="cross")
        if c.norm == "post":
            return norm(x + drop(attention(x, context, mask)[0]))
        return x + drop(attention(norm(x), norm_layer(c, self.dtype, "norm_context")(context), mask)[0])


class CoAttentionEncoder(nn.Module):
    """`config.depth` layers of `CoAttention`, whose fields it has; with norm="pre" a final norm for each stream follows.

    a, b: the tokens of each stream, or of each layer a level of its own: a list of `depth` arrays, the lowest first. From the second on,
    a level enters through a bridge, LayerNorm(level + the stream so far) (BridgeTower, Xu et al. 2023, section 3.2, "Add & Norm"):
    depth - 1 bridges a stream.
    Returns (a, b, out): out["a"] and out["b"] are {"block00": tokens, ...}.
    Raises ConfigError where there are not `depth` levels.
    """

    config: TransformerConfig
    order: Order = "self, cross, mlp"
    shared_cross: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        a: Float[Array, "B N D"] | Sequence[Float[Array, "B N D"]],
        b: Float[Array, "B M D"] | Sequence[Float[Array, "B M D"]],
        valid_a: Bool[Array, "B N"] | None = None,
        valid_b: Bool[Array, "B M"] | None = None,
    ) -> tuple[Float[Array, "B N D"], Float[Array, "B M D"], dict[str, Any]]:
        c, out = self.config, {"a": {}, "b": {}}  # type: tuple[TransformerConfig, dict[str, Any]]
        levels = {"a": a, "b": b}
        for name, given in levels.items():
            if isinstance(given, (list, tuple)) and len(given) != c.depth:
                raise ConfigError(f"stream {name} has {len(given)} levels and depth is {c.depth}; make them equal.")
        layer = nn.remat(CoAttention) if c.remat else CoAttention
        x: dict[str, Array] = {}
        for i in range(c.depth):
            for name, given in levels.items():
                if not isinstance(given, (list, tuple)):
                    x.setdefault(name, jnp.asarray(given, self.dtype))
                elif not i:
                    x[name] = jnp.asarray(given[0], self.dtype)
                else:
                    bridge = norm_layer(c, self.dtype, f"bridge_{name}{i:02d}")
                    x[name] = bridge(jnp.asarray(given[i], self.dtype) + x[name])
            block = layer(c, self.order, self.shared_cross, self.dtype, name=f"block{i:02d}")
            x["a"], x["b"] = block(x["a"], x["b"], valid_a, valid_b)
            for name in levels:
                out[name][f"block{i:02d}"] = x[name]
        if c.norm == "pre":
            x = {name: norm_layer(c, self.dtype, f"norm_{name}")(y) for name, y in x.items()}
        return x["a"], x["b"], out


class PairFusion(nn.Module):
    """Text and image tokens of any widths, or levels of them, fused in two streams to one vector of a pair (METER, Dou et al. 2022).

    Each side has a linear map to the width of `config`, the same for all levels, and an embedding of its type; then CoAttentionEncoder,
    whose fields it has. first_norm: the (first level's) tokens are normed as they enter (BridgeTower).
    Returns (text, image, pooled [B, 2 D], out): pooled is tanh of a linear map of each stream's first token, text before image.
    """

    config: TransformerConfig
    order: Order = "self, cross, mlp"
    first_norm: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        text: Float[Array, "B N E"] | Sequence[Float[Array, "B N E"]],
        image: Float[Array, "B M F"] | Sequence[Float[Array, "B M F"]],
        text_valid: Bool[Array, "B N"] | None = None,
        image_valid: Bool[Array, "B M"] | None = None,
    ) -> tuple[Float[Array, "B N D"], Float[Array, "B M D"], Float[Array, "B E2"], dict[str, Any]]:
        c, sides = self.config, {}
        for name, given in (("text", text), ("image", image)):
            dense = nn.Dense(c.width, dtype=self.dtype, kernel_init=nn.initializers.xavier_uniform(), name=name)
            kind = self.param(f"type_{name}", nn.initializers.normal(0.02), (c.width,), jnp.float32)
            levels = [given] if not isinstance(given, (list, tuple)) else given
            x = [dense(jnp.asarray(level, self.dtype)) + kind.astype(self.dtype) for level in levels]
            if self.first_norm:
                x[0] = norm_layer(c, self.dtype, f"norm_{name}")(x[0])
            sides[name] = x if isinstance(given, (list, tuple)) else x[0]
        fusion = CoAttentionEncoder(c, self.order, dtype=self.dtype, name="layers")
        words, pixels, out = fusion(sides["text"], sides["image"], text_valid, image_valid)
        pooled = [
            nn.tanh(nn.Dense(c.width, dtype=self.dtype, name=f"pool_{name}")(x[:, 0]))
            for name, x in (("text", words), ("image", pixels))
        ]
        return words, pixels, jnp.concatenate(pooled, axis=-1), out
