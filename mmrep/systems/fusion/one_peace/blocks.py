"""Blocks with one attention for all modalities and a feed-forward network (FFN) for each."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from mmrep.nn.attention import Attention, padding_mask
from mmrep.nn.config import TransformerConfig
from mmrep.nn.norms import norm_layer
from mmrep.nn.placement import by_rows
from mmrep.nn.transformer import gelu

Spans = tuple[tuple[str, int], ...]
"""(modality, number of its tokens) of a row of tokens, in order."""


class FFN(nn.Module):
    """down(norm(GELU(W0 x) * W1 x)), W0 and W1 without bias."""

    hidden: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
        settings = {"dtype": self.dtype, "kernel_init": nn.initializers.xavier_uniform()}
        y = gelu(nn.Dense(self.hidden, use_bias=False, **settings, name="up")(x))
        y = y * nn.Dense(self.hidden, use_bias=False, **settings, name="gate")(x)
        y = nn.LayerNorm(epsilon=1e-5, dtype=self.dtype, name="norm")(y)
        return nn.Dense(x.shape[-1], **settings, name="down")(y)


class MultiwayBlock(nn.Module):
    """x + gamma1 * attention over all tokens, then + gamma2 * each modality's own FFN (section 3.1).

    tables: (modality, rows of its table of relative positions).   layer_scale: initial gamma.
    buckets: {modality: [#B, n, n]}, the table's row for each pair of its tokens; pairs across modalities have no bias.
    """

    config: TransformerConfig
    layer_scale: float
    tables: Spans = ()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B N D"], spans: Spans, mask: Bool[Array, "B 1 N N"], buckets: Mapping[str, Array]
    ) -> Float[Array, "B N D"]:
        c, bias, start = self.config, None, 0
        gammas = (self.param(f"gamma{i}", nn.initializers.constant(self.layer_scale), (c.width,)) for i in (1, 2))
        for name, n in spans:
            if name in buckets:
                shape = dict(self.tables)[name], c.heads
                table = self.param(f"{name}_bias", nn.initializers.zeros, shape, jnp.float32)
                around = (start, x.shape[1] - start - n)
                own = jnp.pad(jnp.moveaxis(table[buckets[name]], -1, 1), ((0, 0), (0, 0), around, around))
                bias = own if bias is None else bias + own
            start += n
        y = Attention(c, self.dtype, name="attn")(norm_layer(c, self.dtype, "norm_attn")(x), None, mask, bias)[0]
        x = by_rows(x + next(gammas).astype(self.dtype) * y)
        y, start, parts = norm_layer(c, self.dtype, "norm_ffn")(x), 0, []
        for name, n in spans:
            parts.append(FFN(c.hidden, self.dtype, name=f"{name}_ffn")(y[:, start : start + n]))
            start += n
        return by_rows(x + next(gammas).astype(self.dtype) * jnp.concatenate(parts, axis=1))


class Stack(nn.Module):
    """Blocks, with their parameters stacked under "blocks".

    together: for each of a row's copies, which are side by side, whether modalities attend to each other; else each attends to itself alone.
    """

    config: TransformerConfig
    layer_scale: float
    tables: Spans = ()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, parts: Mapping[str, Array], valid: Mapping[str, Array], buckets: Mapping[str, Array], together: tuple[bool, ...]
    ) -> dict[str, Array]:  # fmt: skip
        spans = tuple((name, x.shape[1]) for name, x in parts.items())
        x = by_rows(jnp.concatenate([*parts.values()], axis=1))
        kind = np.repeat(np.arange(len(spans)), [n for _, n in spans])
        joint = jnp.tile(jnp.asarray(together), len(x) // len(together))[:, None, None, None]
        mask = padding_mask(jnp.concatenate([*valid.values()], axis=1)) & (joint | (kind[:, None] == kind))
        block = nn.remat(MultiwayBlock, prevent_cse=False, static_argnums=(2,)) if self.config.remat else MultiwayBlock
        layers = nn.scan(
            lambda module, x, _: (module(x, spans, mask, buckets), None), variable_axes={"params": 0},
            split_rngs={"params": True}, length=self.config.depth,
        )  # fmt: skip
        x = layers(block(self.config, self.layer_scale, self.tables, self.dtype, name="blocks"), x, None)[0]
        return dict(zip(parts, jnp.split(x, np.cumsum([n for _, n in spans])[:-1], axis=1)))
