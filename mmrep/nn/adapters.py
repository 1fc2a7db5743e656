"""Between pixel-aligned maps and one encoder: adapters in (maps to tokens) and decoders out (tokens to maps). MultiMAE, arXiv 2204.01678.

Maps are [B,H,W,C] of numbers or [B,H,W] of class ids; every map of a model has the same grid of patches. Where tokens are chosen
(`at` [B,K] places in the grid), only they are embedded.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int

from mmrep.errors import ConfigError
from mmrep.nn.attention import Attention
from mmrep.nn.config import TransformerConfig
from mmrep.nn.patches import patchify
from mmrep.nn.positions import sincos_2d
from mmrep.nn.transformer import Block, Mlp, norm_layer


def grid_positions(rows: int, columns: int, width: int, base: float = 10_000.0) -> Float[Array, "N D"]:
    """Fixed sines and cosines of a grid in reading order, the row's half first."""
    column_first = sincos_2d(rows, columns, width, base=base)
    return jnp.concatenate([column_first[:, width // 2 :], column_first[:, : width // 2]], axis=1)


def take(rows: Array, at: Int[Array, "B K"]) -> Array:
    """rows[b, at[b, k]] of [B, N, ...]."""
    return jnp.take_along_axis(rows, at.reshape(*at.shape, *(1,) * (rows.ndim - 2)), axis=1)


class PatchAdapter(nn.Module):
    """Linear patches of a map of numbers, with fixed 2-D positions. Raises ConfigError where `patch` does not divide the map."""

    width: int
    patch: int
    dtype: Any = jnp.float32
    base: float = 10_000.0

    @nn.compact
    def __call__(
        self, x: Float[Array | np.ndarray, "B H W C"], at: Int[Array, "B K"] | None = None
    ) -> Float[Array, "B _ D"]:
        patches = patchify(x, self.patch)
        positions = grid_positions(x.shape[1] // self.patch, x.shape[2] // self.patch, self.width, self.base)
        if at is not None:
            patches, positions = take(patches, at), positions[at]
        embed = nn.Dense(self.width, dtype=self.dtype, kernel_init=nn.initializers.xavier_uniform(), name="embed")
        flat = embed(patches.reshape(-1, patches.shape[-1]).astype(self.dtype))
        return flat.reshape(*patches.shape[:2], self.width) + positions.astype(self.dtype)


class ClassAdapter(nn.Module):
    """Linear patches over learnt vectors of class ids, with fixed 2-D positions. An id outside [0, classes) stands for nothing (zero).

    fused: table and projection are multiplied first, [pixels * classes, width], and one-hot patches select from that: the same numbers,
    without a vector for every pixel.
    """

    width: int
    patch: int
    classes: int
    class_dim: int = 64
    fused: bool = True
    dtype: Any = jnp.float32
    base: float = 10_000.0

    @nn.compact
    def __call__(
        self, x: Int[Array | np.ndarray, "B H W"], at: Int[Array, "B K"] | None = None
    ) -> Float[Array, "B _ D"]:
        labels = patchify(jnp.asarray(x)[..., None], self.patch)
        positions = grid_positions(x.shape[1] // self.patch, x.shape[2] // self.patch, self.width, self.base)
        if at is not None:
            labels, positions = take(labels, at), positions[at]
        b, n, pixels = labels.shape
        table = self.param("table", nn.initializers.truncated_normal(0.02), (self.classes, self.class_dim), jnp.float32)
        init = nn.initializers.xavier_uniform()
        kernel = self.param("kernel", init, (pixels * self.class_dim, self.width), jnp.float32).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.width,), jnp.float32).astype(self.dtype)
        one_hot = jax.nn.one_hot(labels, self.classes, dtype=self.dtype)
        if self.fused:
            whole = jnp.einsum("cd,pde->pce", table.astype(self.dtype), kernel.reshape(pixels, self.class_dim, -1))
            y = one_hot.reshape(b * n, -1) @ whole.reshape(-1, self.width)
        else:
            y = (one_hot @ table.astype(self.dtype)).reshape(b * n, -1) @ kernel
        return (y + bias).reshape(b, n, self.width) + positions.astype(self.dtype)


@jax.custom_vjp
def place(
    tokens: Float[Array, "B V D"],
    fill: Float[Array, " D"],
    keep: Int[Array, "B V"],
    restore: Int[Array, "B M"],
    start: Int[Array, ""],
) -> Float[Array, "B M D"]:
    """The places start .. start + M of the full row: visible tokens where they belong, `fill` elsewhere.

    keep, restore: as in masking.budgets.Visible, `restore` cut to these places. The backward pass gathers too, through `keep`.
    """
    with_fill = jnp.concatenate([tokens, jnp.broadcast_to(fill, (tokens.shape[0], 1, tokens.shape[2]))], axis=1)
    return take(with_fill, jnp.minimum(restore, tokens.shape[1]))


def _place_forward(tokens, fill, keep, restore, start):
    return place(tokens, fill, keep, restore, start), (keep, restore, start)


def _place_backward(saved, g):
    keep, restore, start = saved
    here = keep - start
    inside = (here >= 0) & (here < g.shape[1])
    to_tokens = jnp.where(inside[..., None], take(g, jnp.clip(here, 0, g.shape[1] - 1)), 0)
    hidden = restore >= keep.shape[1]
    to_fill = jnp.where(hidden[..., None], g, 0).sum((0, 1))
    return to_tokens, to_fill, None, None, None


place.defvjp(_place_forward, _place_backward)


class MapDecoder(nn.Module):
    """One task's decoder (MultiMAE, section 3.3): [B, N_t, values of a patch] from the encoder's visible tokens.

    The queries are the task's own places, those that were visible with what the encoder said of them; they attend once to all visible
    tokens (no residual around it: a masked query knows only what it attends to), then `depth` blocks of self-attention.

    maps: number of modalities that may go in.   own: index of this decoder's among them; None: it never goes in.
    """

    config: TransformerConfig
    values: int
    maps: int
    own: int | None
    grid: tuple[int, int]
    dtype: Any = jnp.float32
    base: float = 10_000.0

    @nn.compact
    def __call__(
        self,
        encoded: Float[Array, "B W D"],
        keep: Int[Array, "B V"],
        restore: Int[Array, "B N"],
        order: tuple[int, ...],
        blind: bool = False,
    ) -> Float[Array, "B M P"]:
        """encoded: the V visible tokens, then the global ones.   order: the modalities in the row of tokens, now.

        blind: hide the other modalities' tokens from the queries (an ablation).
        """
        c, (b, v) = self.config, keep.shape
        n = self.grid[0] * self.grid[1]
        if restore.shape[1] != n * len(order):
            raise ConfigError(
                f"decoder grid {self.grid} does not fit {restore.shape[1]} tokens of {len(order)} maps: give all maps one grid"
            )
        dense = nn.Dense(c.width, dtype=self.dtype, kernel_init=nn.initializers.xavier_uniform(), name="context")
        context = dense(encoded.reshape(-1, encoded.shape[-1])).reshape(b, -1, c.width)
        tokens, extra = context[:, :v], context[:, v:]
        fill = self.param("mask_token", nn.initializers.zeros_init(), (c.width,), jnp.float32).astype(self.dtype)
        names = self.param("map", nn.initializers.truncated_normal(0.02), (self.maps, c.width), jnp.float32)
        names = names.astype(self.dtype)
        positions = grid_positions(*self.grid, c.width, self.base).astype(self.dtype)
        which = jnp.asarray(order)[keep // n]
        # A product with one-hot rows: the gradient of a look-up is a scatter, many times slower on a CPU.
        where = positions[keep % n] + jax.nn.one_hot(which, self.maps, dtype=self.dtype) @ names
        if self.own in order:
            start = order.index(self.own) * n
            queries = place(tokens, jnp.asarray(fill), keep, restore[:, start : start + n], jnp.int32(start))
        else:
            queries = jnp.broadcast_to(fill, (b, n, c.width))
        queries = queries + (positions if self.own is None else positions + names[self.own])
        context = jnp.concatenate([tokens + where, extra], axis=1)
        mask = None
        if blind:
            seen = jnp.concatenate([which == self.own, jnp.ones((b, extra.shape[1]), bool)], axis=1)
            mask = seen[:, None, None, :]

        def norm(name: str) -> nn.Module:
            return norm_layer(c, self.dtype, name)

        attend = Attention(c, self.dtype, name="cross")
        x = attend(norm("norm_query")(queries), norm("norm_context")(context), mask=mask)
        x = x + Mlp(c.hidden, self.dtype, c.activation, c.use_bias, name="mlp")(norm("norm_out")(x))
        for i in range(c.depth):
            x = Block(c, dtype=self.dtype, name=f"block{i:02d}")(x)
        out = nn.Dense(self.values, dtype=self.dtype, kernel_init=nn.initializers.xavier_uniform(), name="out")
        return out(x.reshape(-1, c.width)).reshape(b, n, self.values)


class GlobalTokens(nn.Module):
    """`count` learnt tokens behind those that come in."""

    count: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, tokens: Float[Array, "B N D"]) -> Float[Array, "B _ D"]:
        shape = (self.count, tokens.shape[-1])
        rows = self.param("tokens", nn.initializers.truncated_normal(0.02), shape, jnp.float32).astype(self.dtype)
        return jnp.concatenate([tokens, jnp.broadcast_to(rows, (tokens.shape[0], *shape))], axis=1)
