"""CROMA's modules, and the whole model over nested dicts of parameters.

Positions are indices of patches in reading order. With positions="alibi" only distances between them are used, as attention biases, so that
images may have any size; "sincos2d" adds fixed sines and cosines to the tokens instead.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int, PRNGKeyArray

from mmrep.errors import ConfigError
from mmrep.masking import budgets
from mmrep.nn.adapters import take
from mmrep.nn.config import TransformerConfig
from mmrep.nn.maps import DenseModality
from mmrep.nn.norms import layer_norm
from mmrep.nn.patches import patchify
from mmrep.nn.positions import alibi_2d, sincos_2d
from mmrep.nn.transformer import Mlp, Transformer
from mmrep.system import Batch, Params

Grid = tuple[int, int]
SENSORS = ("optical", "radar")
XAVIER = nn.initializers.xavier_uniform()


class SensorEncoder(nn.Module):
    """f_O or f_R: a ViT without class token over the patches `ids_keep`, or over all. trained: the grid to which positions are interpolated."""

    config: TransformerConfig
    patch: int
    positions: str = "alibi"
    dtype: Any = jnp.float32
    position_base: float = 10_000.0

    @nn.compact
    def __call__(
        self,
        images: Float[Array | np.ndarray, "B H W C"],
        ids_keep: Int[Array | np.ndarray, "#B K"] | None = None,
        trained: Grid | None = None,
    ) -> tuple[Float[Array, "B K D"], dict[str, Array]]:
        patches, columns = patchify(images, self.patch), images.shape[2] // self.patch
        at = jnp.arange(patches.shape[1])[None] if ids_keep is None else ids_keep
        patches = patches if ids_keep is None else take(patches, jnp.asarray(ids_keep))
        embed = nn.Dense(self.config.width, dtype=self.dtype, kernel_init=XAVIER, name="embed")
        x = embed(patches.reshape(-1, patches.shape[-1]).astype(self.dtype)).reshape(*patches.shape[:2], -1)
        blocks = Transformer(self.config, dtype=self.dtype, name="transformer")
        if self.positions == "alibi":
            return blocks(x, bias=alibi_2d(at, at, columns, self.config.heads))
        table = sincos_2d(images.shape[1] // self.patch, columns, self.config.width, trained, self.position_base)
        return blocks(x + table[at].astype(self.dtype))


class GapFfn(nn.Module):
    """Global average pooling, then LayerNorm and an MLP: one vector per sensor."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, tokens: Float[Array, "B N D"]) -> Float[Array, "B D"]:
        x = layer_norm(self.dtype, "norm")(tokens.mean(axis=1))
        return Mlp(4 * x.shape[-1], self.dtype, name="mlp")(x)


class CromaModel(NamedTuple):
    """modules: "optical", "radar", and of "fusion", "decoder", "gap_<sensor>", "project_<sensor>", "scale" those that the config has."""

    maps: dict[str, DenseModality]
    modules: dict[str, Any]
    positions: str = "alibi"
    share_cross_bias: bool = False

    def apply(self, params: Params, name: str, *inputs: Any, drop: PRNGKeyArray | None = None, **options: Any) -> Any:
        """drop: a key for stochastic depth."""
        rngs = None if drop is None else {"drop": drop}
        return self.modules[name].apply({"params": params[name]}, *inputs, rngs=rngs, **options)

    def fuse(
        self, params: Params, radar: Array, optical: Array, at: Array, optical_at: Array, columns: int, drop: Any = None
    ) -> tuple[Float[Array, "B N D"], dict[str, Any]]:
        """f_RO: self-attention of the radar's tokens, then cross-attention to the optical ones. at, optical_at: positions on one grid."""
        own, across, heads = None, None, self.modules["fusion"].config.heads
        if self.positions == "alibi":
            across = alibi_2d(at, optical_at, columns, heads)
            own = across if self.share_cross_bias else alibi_2d(at, at, columns, heads)
        return self.apply(params, "fusion", radar, context=optical, bias=own, context_bias=across, drop=drop)

    def standardised(self, batch: Batch, name: str) -> Float[Array, "B H W C"]:
        m = self.maps[name]
        if m.name not in batch:
            raise ConfigError(f"the batch has no {m.name!r}: give it, or ask for the other sensor alone")
        return m.standard(batch[m.name])

    def init(self, rng: PRNGKeyArray, images: Batch) -> Params:
        (rows, columns), b, width = self.maps["radar"].grid, len(images["radar"]), self.modules["radar"].config.width
        tokens = jnp.zeros((b, rows * columns, width), jnp.float32)
        inputs: dict[str, tuple] = {"scale": (), "fusion": (tokens, None, tokens)}
        for k in SENSORS:
            inputs |= {k: (images[k],), f"gap_{k}": (tokens,), f"project_{k}": (tokens[:, 0],)}
        inputs["decoder"] = tokens, *budgets.all_visible(b, [rows * columns]), (rows, columns)
        keys = jax.random.split(rng, len(self.modules))
        return {k: m.init(key, *inputs[k])["params"] for key, (k, m) in zip(keys, self.modules.items())}

    def decode(
        self, params: Params, fused: Array, visible: budgets.Visible, grid: Grid
    ) -> dict[str, Float[Array, "B N _"]]:
        """Both sensors' patches from the fused tokens of the radar's visible ones."""
        both, n = self.apply(params, "decoder", fused, *visible, grid), self.maps["optical"].values
        return {"optical": both[..., :n], "radar": both[..., n:]}
