"""From dense modalities to tokens: patch embeddings of numbers and of class ids (MultiMAE, arXiv 2204.01678).

Maps are [B,H,W,C] of numbers or [B,H,W] of class ids. Where indices of patches are given (`at` [B,K]), only those are embedded.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int

from mmrep.nn.patches import patchify
from mmrep.nn.positions import grid_positions


def take(rows: Array, at: Int[Array, "B K"]) -> Array:
    """rows[b, at[b, k]] of [B, N, ...]."""
    return jnp.take_along_axis(rows, at.reshape(*at.shape, *(1,) * (rows.ndim - 2)), axis=1)


class PatchAdapter(nn.Module):
    """Linear patches of a map of numbers, with fixed 2-D positions. Raises ConfigError where `patch` does not divide the map.

    positions: without them equal patches have equal embeddings, wherever they are.
    """

    width: int
    patch: int
    dtype: Any = jnp.float32
    base: float = 10_000.0
    positions: bool = True

    @nn.compact
    def __call__(
        self, x: Float[Array | np.ndarray, "B H W C"], at: Int[Array, "B K"] | None = None
    ) -> Float[Array, "B _ D"]:
        patches = patchify(x, self.patch)
        positions = grid_positions(x.shape[1] // self.patch, x.shape[2] // self.patch, self.width, self.base)
        if at is not None:
            patches, positions = take(patches, at), positions[at]
        embed = nn.Dense(self.width, dtype=self.dtype, kernel_init=nn.initializers.xavier_uniform(), name="embed")
        flat = embed(patches.reshape(-1, patches.shape[-1]).astype(self.dtype)).reshape(*patches.shape[:2], self.width)
        return flat + positions.astype(self.dtype) if self.positions else flat


class ClassAdapter(nn.Module):
    """Linear patches over learned class embeddings, with fixed 2-D positions. An id outside [0, classes) has a zero embedding.

    fused: table and projection are multiplied first, [pixels * classes, width], and one-hot patches select rows of the product: the same
    numbers, without an embedding for every pixel.   positions: as in PatchAdapter.
    """

    width: int
    patch: int
    classes: int
    class_dim: int = 64
    fused: bool = True
    dtype: Any = jnp.float32
    base: float = 10_000.0
    positions: bool = True

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
        flat = (y + bias).reshape(b, n, self.width)
        return flat + positions.astype(self.dtype) if self.positions else flat


@jax.custom_vjp
def place(
    tokens: Float[Array, "B V D"],
    fill: Float[Array, " D"],
    ids_keep: Int[Array, "B V"],
    ids_restore: Int[Array, "B M"],
    start: Int[Array, ""],
) -> Float[Array, "B M D"]:
    """Tokens start .. start + M of the full row: the visible ones at their own positions, `fill` (a mask token) elsewhere.

    ids_keep, ids_restore: as in masking.budgets.Visible, `ids_restore` for these M tokens alone. The backward pass is a gather too.
    """
    with_fill = jnp.concatenate([tokens, jnp.broadcast_to(fill, (tokens.shape[0], 1, tokens.shape[2]))], axis=1)
    return take(with_fill, jnp.minimum(ids_restore, tokens.shape[1]))


def _place_forward(tokens, fill, ids_keep, ids_restore, start):
    return place(tokens, fill, ids_keep, ids_restore, start), (ids_keep, ids_restore, start)


def _place_backward(saved, g):
    ids_keep, ids_restore, start = saved
    here = ids_keep - start
    inside = (here >= 0) & (here < g.shape[1])
    to_tokens = jnp.where(inside[..., None], take(g, jnp.clip(here, 0, g.shape[1] - 1)), 0)
    masked = ids_restore >= ids_keep.shape[1]
    to_fill = jnp.where(masked[..., None], g, 0).sum((0, 1))
    return to_tokens, to_fill, None, None, None


place.defvjp(_place_forward, _place_backward)
