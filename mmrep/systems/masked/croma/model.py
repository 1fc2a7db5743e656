"""Encoders of two co-registered sensors, and of both together (CROMA, Fuller et al. 2023, arXiv 2311.00566).

Places are those of a grid of patches in reading order. With positions="alibi" only the distances between them go in, as attention
biases, so that images of any size can come; "sincos2d" adds fixed sines and cosines to the tokens instead.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int, PRNGKeyArray

from mmrep.masking.budgets import Visible, everything
from mmrep.nn.adapters import place, take
from mmrep.nn.config import TransformerConfig
from mmrep.nn.heads import LogScale, Projection
from mmrep.nn.maps import Map
from mmrep.nn.patches import patchify
from mmrep.nn.positions import alibi_2d, sincos_2d
from mmrep.nn.transformer import Mlp, Transformer, layer_norm
from mmrep.system import Batch, Params

POSITIONS = ("alibi", "sincos2d")


class SensorEncoder(nn.Module):
    """A ViT over the patches at `keep`, without a class token; all patches where `keep` is None. Returns (tokens, out).

    `trained`, for positions="sincos2d": the grid of training, into which a larger one's positions are squeezed.
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
        keep: Int[Array | np.ndarray, "#B K"] | None = None,
        trained: tuple[int, int] | None = None,
    ) -> tuple[Float[Array, "B K D"], dict[str, Array]]:
        patches = patchify(images, self.patch)
        rows, columns = images.shape[1] // self.patch, images.shape[2] // self.patch
        at = jnp.arange(rows * columns)[None] if keep is None else keep
        # What is hidden is not embedded.
        patches = patches if keep is None else take(patches, jnp.asarray(keep))
        init = nn.initializers.xavier_uniform()
        embed = nn.Dense(self.config.width, dtype=self.dtype, kernel_init=init, name="embed")
        x = embed(patches.reshape(-1, patches.shape[-1]).astype(self.dtype)).reshape(*patches.shape[:2], -1)
        bias = None
        if self.positions == "alibi":
            bias = alibi_2d(at, at, columns, self.config.heads)
        else:
            x = x + sincos_2d(rows, columns, self.config.width, trained)[at].astype(self.dtype)
        return Transformer(self.config, dtype=self.dtype, name="transformer")(x, bias=bias)


class SensorFusion(nn.Module):
    """Tokens of one sensor attend to themselves, then to the other's, block by block; one LayerNorm serves queries and context.

    at, context_at: the places of the tokens on one grid of `columns`. Positions other than "alibi" leave all biases out.
    one_bias: self-attention too takes the biases between the sensors, as the authors' pre-training code does, although its keys are
    tokens of the first sensor; the same where nothing is hidden. It needs equally many tokens of both.
    """

    config: TransformerConfig
    positions: str = "alibi"
    one_bias: bool = False
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
            own = across if self.one_bias else alibi_2d(at, at, columns, self.config.heads)
        blocks = Transformer(self.config, cross=True, norm_context="shared", dtype=self.dtype, name="transformer")
        return blocks(tokens, context=context, bias=own, context_bias=across)


class PatchDecoder(nn.Module):
    """`values` numbers for every place of a grid from the tokens of a few: the others hold one learnt token (He et al. 2022, MAE).

    keep, restore: as in masking.budgets.Visible. Positions are fixed sines and cosines; attention has no bias.
    """

    config: TransformerConfig
    values: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        tokens: Float[Array, "B K D"],
        keep: Int[Array, "B K"],
        restore: Int[Array, "B N"],
        grid: tuple[int, int],
    ) -> Float[Array, "B N P"]:
        init, width = nn.initializers.xavier_uniform(), self.config.width
        x = nn.Dense(width, dtype=self.dtype, kernel_init=init, name="embed")(tokens)
        fill = self.param("mask_token", nn.initializers.normal(0.02), (width,), jnp.float32).astype(self.dtype)
        x = place(x, jnp.asarray(fill), keep, restore, jnp.int32(0)) + sincos_2d(*grid, width).astype(self.dtype)
        x, _ = Transformer(self.config, dtype=self.dtype, name="transformer")(x)
        return nn.Dense(self.values, dtype=self.dtype, kernel_init=init, name="out")(x).astype(jnp.float32)


class Summary(nn.Module):
    """One vector of a sensor: the mean of its tokens through LayerNorm and a perceptron."""

    mlp_ratio: float = 4.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, tokens: Float[Array, "B N D"]) -> Float[Array, "B D"]:
        x = layer_norm(self.dtype, "norm")(tokens.mean(axis=1))
        return Mlp(int(x.shape[-1] * self.mlp_ratio), self.dtype, name="mlp")(x)


class SensorPair(NamedTuple):
    """Two encoders, their fusion and its decoder, as pure functions; `name` is "optical" or "radar".

    init:      (rng, images by name) -> params.
    encode:    (params, name, images, keep | None, trained | None) -> (tokens [B, K, D], out), see SensorEncoder.
    fuse:      (params, radar tokens, optical tokens, radar places, optical places, columns) -> (tokens at the radar's places, out).
    decode:    (params, fused, Visible of the radar, grid) -> {name: values of every patch [B, N, P]}.
    summarise: (params, name, tokens) -> [B, D].   project: (params, name, summary) -> unit [B, D], float32.
    scale:     params -> the learnt positive logit scale [].
    """

    init: Callable[[PRNGKeyArray, Batch], Params]
    encode: Callable[..., tuple[Array, dict[str, Array]]]
    fuse: Callable[..., tuple[Array, dict[str, Array]]]
    decode: Callable[[Params, Array, Visible, tuple[int, int]], dict[str, Array]]
    summarise: Callable[[Params, str, Array], Array]
    project: Callable[[Params, str, Array], Array]
    scale: Callable[[Params], Array]


def sensor_pair(
    optical: Map,
    radar: Map,
    encoder: TransformerConfig,
    decoder: TransformerConfig,
    *,
    contrast: bool = True,
    fusion: bool = True,
    positions: str = "alibi",
    one_bias: bool = False,
    max_scale: float | None = 100.0,
    dtype: str = "float32",
) -> SensorPair:
    """The optical encoder has encoder.depth blocks, radar and fusion half as many; without `contrast` or `fusion` their parts are left out."""
    kind, maps = jnp.dtype(dtype), {"optical": optical, "radar": radar}
    common: dict[str, Any] = {"positions": positions, "dtype": kind}
    half, width = replace(encoder, depth=encoder.depth // 2), encoder.width
    modules: dict[str, nn.Module] = {
        name: SensorEncoder(config, maps[name].patch, **common)
        for name, config in (("optical", encoder), ("radar", half))
    }
    if fusion:
        values = optical.values + radar.values
        modules["fusion"] = SensorFusion(half, one_bias=one_bias, **common)
        modules["decoder"] = PatchDecoder(decoder, values, kind)
    if contrast:
        modules |= {f"summary_{name}": Summary(dtype=kind) for name in maps}
        modules |= {f"project_{name}": Projection(width, use_bias=True, dtype=kind) for name in maps}
        modules["scale"] = LogScale(max=max_scale)

    def run(params: Params, name: str, *inputs: Any) -> Any:
        return modules[name].apply({"params": params[name]}, *inputs)

    def init(rng: PRNGKeyArray, images: Batch) -> Params:
        (rows, columns), b = radar.grid, len(images["radar"])
        tokens, at = jnp.zeros((b, rows * columns, width), jnp.float32), jnp.arange(rows * columns)[None]
        inputs: dict[str, tuple] = {k: (images[k],) for k in maps} | {f"summary_{k}": (tokens,) for k in maps}
        inputs |= {f"project_{k}": (tokens[:, 0],) for k in maps} | {"scale": ()}
        inputs["fusion"] = tokens, tokens, at, at, columns
        inputs["decoder"] = tokens, *everything(b, [rows * columns]), (rows, columns)
        keys = jax.random.split(rng, len(modules))
        return {k: m.init(key, *inputs[k])["params"] for key, (k, m) in zip(keys, modules.items())}

    def decode(params: Params, fused: Array, seen: Visible, grid: tuple[int, int]) -> dict[str, Array]:
        both = run(params, "decoder", fused, *seen, grid)
        return {"optical": both[..., : optical.values], "radar": both[..., optical.values :]}

    return SensorPair(
        init,
        lambda params, name, images, keep=None, trained=None: run(params, name, images, keep, trained),
        lambda params, *inputs: run(params, "fusion", *inputs),
        decode,
        lambda params, name, tokens: run(params, f"summary_{name}", tokens),
        lambda params, name, summary: run(params, f"project_{name}", summary).astype(jnp.float32),
        lambda params: run(params, "scale"),
    )
