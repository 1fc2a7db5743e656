"""CROMA's modules, and the whole model as functions over nested dicts of parameters.

Positions are indices of patches in reading order. With positions="alibi" only distances between them are used, as attention biases, so that
images may have any size; "sincos2d" adds fixed sines and cosines to the tokens instead.
"""

from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int, PRNGKeyArray

from mmrep.errors import ConfigError
from mmrep.masking.budgets import Visible, all_visible
from mmrep.nn.adapters import place, take
from mmrep.nn.config import TransformerConfig
from mmrep.nn.heads import LogScale, Projection
from mmrep.nn.maps import DenseModality
from mmrep.nn.norms import layer_norm
from mmrep.nn.patches import patchify
from mmrep.nn.positions import alibi_2d, sincos_2d
from mmrep.nn.transformer import Mlp, Transformer
from mmrep.system import Batch, Params

Grid = tuple[int, int]
SENSORS = ("optical", "radar")


class SensorEncoder(nn.Module):
    """f_O or f_R: a ViT over the patches `ids_keep` without a class token; all patches where it is None. Returns (tokens, out).

    trained: for positions="sincos2d", the grid of training, to which those of a larger grid are interpolated.
    Raises ConfigError where `patch` does not divide the image.
    """

    config: TransformerConfig
    patch: int
    positions: str = "alibi"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        images: Float[Array | np.ndarray, "B H W C"],
        ids_keep: Int[Array | np.ndarray, "#B K"] | None = None,
        trained: Grid | None = None,
    ) -> tuple[Float[Array, "B K D"], dict[str, Array]]:
        patches = patchify(images, self.patch)
        rows, columns = images.shape[1] // self.patch, images.shape[2] // self.patch
        at = jnp.arange(rows * columns)[None] if ids_keep is None else ids_keep
        patches = patches if ids_keep is None else take(patches, jnp.asarray(ids_keep))
        init = nn.initializers.xavier_uniform()
        embed = nn.Dense(self.config.width, dtype=self.dtype, kernel_init=init, name="embed")
        x = embed(patches.reshape(-1, patches.shape[-1]).astype(self.dtype)).reshape(*patches.shape[:2], -1)
        bias = None
        if self.positions == "alibi":
            bias = alibi_2d(at, at, columns, self.config.heads)
        else:
            x = x + sincos_2d(rows, columns, self.config.width, trained)[at].astype(self.dtype)
        return Transformer(self.config, dtype=self.dtype, name="transformer")(x, bias=bias)


class FusionEncoder(nn.Module):
    """f_RO: self-attention of the radar's tokens, then cross-attention to the optical ones, in each block; one LayerNorm for queries and context.

    at, context_at: positions of the tokens on one grid with so many `columns`.
    share_cross_bias: self-attention uses the bias of the cross-attention, as in the authors' pre-training code, although its keys are radar
    tokens. It makes no difference where nothing is masked, and needs equally many tokens of both.
    """

    config: TransformerConfig
    positions: str = "alibi"
    share_cross_bias: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        tokens: Float[Array, "B N D"],
        context: Float[Array, "B M D"],
        at: Int[Array | np.ndarray, "#B N"],
        context_at: Int[Array | np.ndarray, "#B M"],
        columns: int,
    ) -> tuple[Float[Array, "B N D"], dict[str, Array]]:
        own, across = None, None
        if self.positions == "alibi":
            across = alibi_2d(at, context_at, columns, self.config.heads)
            own = across if self.share_cross_bias else alibi_2d(at, at, columns, self.config.heads)
        blocks = Transformer(self.config, cross=True, norm_context="shared", dtype=self.dtype, name="transformer")
        return blocks(tokens, context=context, bias=own, context_bias=across)


class MaeDecoder(nn.Module):
    """The decoder of He et al. 2022 (MAE): `values` numbers for every patch of the grid, from the visible tokens and a learned mask token."""

    config: TransformerConfig
    values: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "B K D"], ids_keep: Int[Array, "B K"], ids_restore: Int[Array, "B N"], grid: Grid
    ) -> Float[Array, "B N P"]:
        width, init = self.config.width, nn.initializers.xavier_uniform()
        x = nn.Dense(width, dtype=self.dtype, kernel_init=init, name="embed")(tokens)
        fill = self.param("mask_token", nn.initializers.normal(0.02), (width,), jnp.float32).astype(self.dtype)
        x = place(x, jnp.asarray(fill), ids_keep, ids_restore, jnp.int32(0))
        x = x + sincos_2d(*grid, width).astype(self.dtype)
        x, _ = Transformer(self.config, dtype=self.dtype, name="transformer")(x)
        return nn.Dense(self.values, dtype=self.dtype, kernel_init=init, name="out")(x).astype(jnp.float32)


class GapFfn(nn.Module):
    """Global average pooling, then LayerNorm and an MLP: one vector per sensor."""

    mlp_ratio: float = 4.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, tokens: Float[Array, "B N D"]) -> Float[Array, "B D"]:
        x = layer_norm(self.dtype, "norm")(tokens.mean(axis=1))
        return Mlp(int(x.shape[-1] * self.mlp_ratio), self.dtype, name="mlp")(x)


class CromaModel(NamedTuple):
    """Two encoders, their fusion and its decoder; `name` is "optical" or "radar"."""

    maps: dict[str, DenseModality]
    modules: dict[str, Any]
    width: int

    def standardised(self, batch: Batch, name: str) -> Float[Array, "B H W C"]:
        m = self.maps[name]
        if m.name not in batch:
            raise ConfigError(f"the batch has no {m.name!r}: give it, or ask for the other sensor alone")
        return m.standard(batch[m.name])

    def apply(self, params: Params, name: str, *inputs: Any, drop: PRNGKeyArray | None = None) -> Any:
        """drop: a key for stochastic depth."""
        rngs = None if drop is None else {"drop": drop}
        return self.modules[name].apply({"params": params[name]}, *inputs, rngs=rngs)

    def init(self, rng: PRNGKeyArray, images: Batch) -> Params:
        (rows, columns), b = self.maps["radar"].grid, len(images["radar"])
        tokens, at = jnp.zeros((b, rows * columns, self.width), jnp.float32), jnp.arange(rows * columns)[None]
        inputs: dict[str, tuple] = {"scale": (), "fusion": (tokens, tokens, at, at, columns)}
        for k in SENSORS:
            inputs |= {k: (images[k],), f"gap_{k}": (tokens,), f"project_{k}": (tokens[:, 0],)}
        inputs["decoder"] = tokens, *all_visible(b, [rows * columns]), (rows, columns)
        keys = jax.random.split(rng, len(self.modules))
        return {k: m.init(key, *inputs[k])["params"] for key, (k, m) in zip(keys, self.modules.items())}

    def encode(
        self,
        params: Params,
        name: str,
        images: Float[Array, "B H W C"],
        ids_keep: Int[Array, "B K"] | None = None,
        trained: Grid | None = None,
        drop: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "B K D"], dict[str, Array]]:
        return self.apply(params, name, images, ids_keep, trained, drop=drop)

    def fuse(self, params: Params, *inputs: Any, drop: PRNGKeyArray | None = None) -> tuple[Array, dict[str, Array]]:
        """(tokens at the radar's positions, out) of radar tokens, optical tokens, both positions, and the columns of their grid."""
        return self.apply(params, "fusion", *inputs, drop=drop)

    def decode(self, params: Params, fused: Array, visible: Visible, grid: Grid) -> dict[str, Float[Array, "B N _"]]:
        """Both sensors' patches from the fused tokens of the radar's visible ones."""
        both, n = self.apply(params, "decoder", fused, *visible, grid), self.maps["optical"].values
        return {"optical": both[..., :n], "radar": both[..., n:]}

    def pool(self, params: Params, name: str, tokens: Float[Array, "B N D"]) -> Float[Array, "B D"]:
        return self.apply(params, f"gap_{name}", tokens)

    def project(self, params: Params, name: str, pooled: Float[Array, "B D"]) -> Float[Array, "B D"]:
        """Unit vectors, float32."""
        return self.apply(params, f"project_{name}", pooled).astype(jnp.float32)

    def scale(self, params: Params) -> Float[Array, ""]:
        """The inverse temperature of the contrastive loss."""
        return self.apply(params, "scale")


def croma_model(
    optical: DenseModality,
    radar: DenseModality,
    encoder: TransformerConfig,
    decoder: TransformerConfig,
    *,
    parts: tuple[str, ...] = ("gap", "project", "fusion", "decoder"),
    positions: str = "alibi",
    share_cross_bias: bool = False,
    max_scale: float | None = 100.0,
    dtype: str = "float32",
) -> CromaModel:
    """The optical encoder has encoder.depth blocks, radar and fusion half as many.   parts: those that the model has beside the two encoders."""
    kind, maps, half = (
        jnp.dtype(dtype),
        {"optical": optical, "radar": radar},
        replace(encoder, depth=encoder.depth // 2),
    )
    modules: dict[str, Any] = {
        name: SensorEncoder(size, maps[name].patch, positions, kind)
        for name, size in (("optical", encoder), ("radar", half))
    }
    if "fusion" in parts:
        modules["fusion"] = FusionEncoder(half, positions, share_cross_bias, kind)
    if "decoder" in parts:
        modules["decoder"] = MaeDecoder(decoder, optical.values + radar.values, kind)
    if "gap" in parts:
        modules |= {f"gap_{name}": GapFfn(dtype=kind) for name in maps}
    if "project" in parts:
        modules |= {f"project_{name}": Projection(encoder.width, use_bias=True, dtype=kind) for name in maps}
        modules["scale"] = LogScale(max=max_scale)
    return CromaModel(maps, modules, encoder.width)
