"""Image encoders: the Vision Transformer and a small residual convolutional net. Images are [B,H,W,C] in [0,1]."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int, Num

from mmrep.errors import ConfigError
from mmrep.nn.attention import Attention, check_heads
from mmrep.nn.positions import LearnedPositions, sincos_2d
from mmrep.nn.transformer import Mlp, Transformer, layer_norm

Images = Float[Array | np.ndarray, "B H W C"]


def patchify(images: Num[Array | np.ndarray, "B H W C"], patch: int) -> Num[Array, "B N P"]:
    """Cuts images into patches in reading order, each flattened as (row, column, channel); P = patch * patch * C.

    Raises ConfigError where `patch` does not divide height and width.
    """
    b, h, w, c = images.shape
    if patch <= 0 or h % patch or w % patch:
        raise ConfigError(f"patch is {patch} and the image is {h}x{w}; choose a patch that divides both sides.")
    x = jnp.asarray(images).reshape(b, h // patch, patch, w // patch, patch, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, (h // patch) * (w // patch), patch * patch * c)


def unpatchify(patches: Num[Array, "B N P"], patch: int, grid: tuple[int, int] | None = None) -> Num[Array, "B H W C"]:
    """The inverse of `patchify`; `grid` is (rows, columns) of patches, square where None.

    Raises ConfigError where the patches fill no such grid or hold no whole pixels.
    """
    b, n, p = patches.shape
    rows, columns = grid or (round(n**0.5),) * 2
    if rows * columns != n or p % (patch * patch):
        raise ConfigError(f"{n} patches of {p} values do not make a {rows}x{columns} grid of patch {patch}; give grid.")
    x = patches.reshape(b, rows, columns, patch, patch, -1)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, rows * patch, columns * patch, -1)


def oriented_gradients(images: Images, cells: int = 8, bins: int = 9) -> Float[Array, "B D"]:
    """Histograms of oriented gradients (Dalal and Triggs 2005): cells x cells, `bins` angles in [0, pi), D = cells * cells * bins.

    The channel that changes most counts; votes are shared by the two nearest angles, divided by the energy of 2 x 2 cells, cut at 0.4.
    Raises ConfigError where the image is smaller than its cells.
    """
    b, h, w, _ = images.shape
    if cells < 1 or min(h, w) < cells:
        raise ConfigError(f"cells is {cells} and the image is {h}x{w}; choose fewer cells, at least 1.")
    x = jnp.asarray(images, jnp.float32)
    dy, dx = jnp.gradient(x, axis=(1, 2))
    strongest = jnp.argmax(dx**2 + dy**2, axis=-1)[..., None]
    dy, dx = (jnp.take_along_axis(d, strongest, axis=-1)[..., 0] for d in (dy, dx))
    angle = jnp.mod(jnp.arctan2(dy, dx), jnp.pi) / jnp.pi * bins
    away = jnp.abs(angle[..., None] - jnp.arange(bins))
    votes = jnp.hypot(dx, dy)[..., None] * jnp.maximum(0.0, 1.0 - jnp.minimum(away, bins - away))
    rows, columns = h // cells, w // cells
    votes = votes[:, : cells * rows, : cells * columns].reshape(b, cells, rows, cells, columns, bins).sum((2, 4))
    energy = jnp.pad((votes**2).sum(-1), ((0, 0), (0, 1), (0, 1)), mode="edge")
    around = energy[:, :-1, :-1] + energy[:, 1:, :-1] + energy[:, :-1, 1:] + energy[:, 1:, 1:]
    return jnp.minimum(votes / jnp.sqrt(around + 1e-3)[..., None], 0.4).reshape(b, -1)


class AttentionPool(nn.Module):
    """One learnt query attends to all tokens, then a residual MLP (Zhai et al. 2022, "MAP" head)."""

    heads: int
    mlp_ratio: float = 4.0
    dtype: Any = jnp.float32
    implementation: str | None = None

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "B N D"], mask: Bool[Array, "#B 1 1 N"] | None = None
    ) -> Float[Array, "B D"]:
        b, _, d = tokens.shape
        probe = self.param("probe", nn.initializers.xavier_uniform(), (1, 1, d), jnp.float32)
        probe = jnp.broadcast_to(probe, (b, 1, d)).astype(self.dtype)
        x = Attention(self.heads, self.dtype, self.implementation, name="attn")(probe, tokens, mask=mask)
        x = x + Mlp(int(d * self.mlp_ratio), self.dtype, name="mlp")(layer_norm(self.dtype, "norm")(x))
        return x[:, 0]


class ViT(nn.Module):
    """Vision Transformer (Dosovitskiy et al. 2021).

    Returns (pooled [B,width], out). out["tokens"] are the final normed tokens, with pool="cls" the class token first; out["patches"] are
    the patch tokens alone. `keep` [B,K] are the patches that go in, in that order (MAE); None takes all.
    pool: "cls", "mean" of the patches, or "map" (AttentionPool). `pre_norm` normalises the embeddings before the first block (CLIP).
    `pooled_only` (pool="cls") lets the last block work for the class token alone: the same pooled numbers; out has no tokens.
    Raises ConfigError where `patch` does not divide the image or `heads` the width.
    """

    width: int
    depth: int
    heads: int
    patch: int
    pool: str = "cls"
    mlp_ratio: float = 4.0
    posemb: str = "learned"
    pre_norm: bool = False
    pooled_only: bool = False
    scan: bool = False
    remat: bool = False
    dtype: Any = jnp.float32
    activation: str = "gelu"
    implementation: str | None = None

    @nn.compact
    def __call__(
        self, images: Images, keep: Int[Array | np.ndarray, "B K"] | None = None
    ) -> tuple[Float[Array, "B D"], dict[str, Array]]:
        check_heads(self.width, self.heads)
        if self.pool not in ("cls", "mean", "map"):
            raise ConfigError(f"pool is {self.pool!r}; choose 'cls', 'mean' or 'map'.")
        if self.pooled_only and self.pool != "cls":
            raise ConfigError(
                f"pooled_only is True and pool is {self.pool!r}, which needs all tokens; choose pool='cls'."
            )
        if self.posemb not in ("learned", "sincos2d"):
            raise ConfigError(f"posemb is {self.posemb!r}; choose 'learned' or 'sincos2d'.")
        x = patchify(images, self.patch) * 2 - 1
        embed = nn.Dense(self.width, dtype=self.dtype, kernel_init=nn.initializers.xavier_uniform(), name="embed")
        x = embed(x)
        b, n, _ = x.shape
        if self.posemb == "learned":
            x = LearnedPositions(n, dtype=self.dtype, name="positions")(x)
        else:
            grid = images.shape[1] // self.patch, images.shape[2] // self.patch
            x = x + sincos_2d(*grid, self.width).astype(self.dtype)
        if keep is not None:
            x = jnp.take_along_axis(x, keep[..., None], axis=1)
        if self.pool == "cls":
            # Its position is part of it: a learnt vector plus a learnt vector is one learnt vector.
            cls = self.param("cls", nn.initializers.normal(0.02), (1, 1, self.width), jnp.float32)
            x = jnp.concatenate([jnp.broadcast_to(cls.astype(self.dtype), (b, 1, self.width)), x], axis=1)
        if self.pre_norm:
            x = layer_norm(self.dtype, "pre_norm")(x)
        x, out = Transformer(
            self.depth,
            self.heads,
            self.mlp_ratio,
            scan=self.scan,
            remat=self.remat,
            dtype=self.dtype,
            activation=self.activation,
            implementation=self.implementation,
            name="transformer",
        )(x, at=jnp.zeros(b, jnp.int32) if self.pooled_only else None)
        if not self.pooled_only:
            out["patches"] = x[:, 1:] if self.pool == "cls" else x
        if self.pool == "cls":
            pooled = x[:, 0]
        elif self.pool == "mean":
            pooled = x.mean(axis=1)
        else:
            pooled = AttentionPool(self.heads, self.mlp_ratio, self.dtype, self.implementation, name="pool")(x)
        out["pooled"] = pooled
        return pooled, out


class ConvNet(nn.Module):
    """Pre-activation residual net (He et al. 2016) with GroupNorm, so that nothing but parameters is learnt.

    A strided stem (3x3, or as large as its stride), then for each width `blocks` residual blocks; every stage after the first halves the sides.
    Returns (pooled [B,widths[-1]], out); out["tokens"] is the last map, normed and flattened, pooled its mean. pool="flat" takes the
    whole map instead of its mean, [B, N * widths[-1]]: for pictures in which the place of a thing tells what it is.
    """

    widths: tuple[int, ...] = (32, 64, 128, 256)
    blocks: int = 1
    stem_stride: int = 2
    groups: int = 8
    pool: str = "mean"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Images) -> tuple[Float[Array, "B D"], dict[str, Array]]:
        if self.pool not in ("mean", "flat"):
            raise ConfigError(f"pool is {self.pool!r}; choose 'mean' or 'flat'.")
        if not self.widths or any(width % self.groups for width in self.widths):
            raise ConfigError(
                f"widths is {self.widths} and groups is {self.groups}; choose groups that divide each width."
            )

        def norm(x, name):
            return nn.relu(nn.GroupNorm(self.groups, dtype=self.dtype, name=name)(x))

        def conv(x, width, size, stride, name):
            return nn.Conv(width, (size, size), (stride, stride), use_bias=False, dtype=self.dtype, name=name)(x)

        # At least as wide as its stride, or it would skip pixels.
        x = conv(jnp.asarray(images) * 2 - 1, self.widths[0], max(3, self.stem_stride), self.stem_stride, "stem")
        out = {}
        for stage, width in enumerate(self.widths):
            for i in range(self.blocks):
                name, stride = f"stage{stage}_{i}", 2 if stage and not i else 1
                y = norm(x, f"{name}_norm1")
                skip = conv(y, width, 1, stride, f"{name}_skip") if stride > 1 or x.shape[-1] != width else x
                y = norm(conv(y, width, 3, stride, f"{name}_conv1"), f"{name}_norm2")
                x = skip + conv(y, width, 3, 1, f"{name}_conv2")
            out[f"stage{stage}"] = x
        x = norm(x, "norm")
        out["tokens"] = x.reshape(x.shape[0], -1, x.shape[-1])
        pooled = x.reshape(x.shape[0], -1) if self.pool == "flat" else out["tokens"].mean(axis=1)
        out["pooled"] = pooled
        return pooled, out


class SketchNet(nn.Module):
    """A ConvNet's flat map beside what needs no learning: oriented gradients in `cells` x `cells` and 8 x 8 mean colours.

    For a few thousand drawings, where learnt filters alone fit the training pictures before they say much about new ones.
    Returns (pooled [B,D], out) with the ConvNet's `out`; the fixed parts stand behind the map in pooled, each of unit variance.
    """

    widths: tuple[int, ...] = (64, 128)
    blocks: int = 1
    stem_stride: int = 4
    cells: tuple[int, ...] = (4, 8)
    bins: int = 9
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Images) -> tuple[Float[Array, "B D"], dict[str, Array]]:
        net = ConvNet(self.widths, self.blocks, self.stem_stride, pool="flat", dtype=self.dtype, name="net")
        pooled, out = net(images)
        b, h, w, c = images.shape
        if h % 8 or w % 8:
            raise ConfigError(f"the image is {h}x{w}; the sketch tower takes sides that 8 divides.")
        colours = jnp.asarray(images).reshape(b, 8, h // 8, 8, w // 8, c).mean((2, 4)).reshape(b, -1)
        fixed = [oriented_gradients(images, n, self.bins) for n in self.cells] + [colours]
        parts = [pooled] + [_standard(x).astype(self.dtype) for x in fixed]
        pooled = jnp.concatenate(parts, axis=-1)
        return pooled, out | {"pooled": pooled}


def _standard(x: Float[Array, "B D"]) -> Float[Array, "B D"]:
    """Each row with mean 0 and variance 1; a row without variance is 0."""
    x = x - x.mean(-1, keepdims=True)
    return x * jax.lax.rsqrt((x**2).mean(-1, keepdims=True) + 1e-6)
