"""A small residual convolutional net (He et al. 2016). Images are [B,H,W,C] in [0,1]."""

from dataclasses import dataclass
from typing import Any, Literal

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from mmrep.errors import ConfigError
from mmrep.nn.patches import Images


@dataclass(frozen=True)
class ConvEncoder:
    """A pre-activation residual net with GroupNorm: a stage of `blocks` residual blocks for each of `widths`, each after the first at half the size.

    stem_stride: of the first convolution, 3x3 or as large as its stride.   groups: of GroupNorm; they divide each width.
    pool: the "mean" of the last feature map, or all of it ("flat", [B, N * widths[-1]]), which keeps where things are.
    Raises ConfigError where `groups` does not divide the widths or `pool` is unknown.
    """

    widths: tuple[int, ...] = (32, 64, 128, 256)
    blocks: int = 1
    stem_stride: int = 2
    groups: int = 8
    pool: Literal["mean", "flat"] = "mean"

    def __post_init__(self) -> None:
        if self.pool not in ("mean", "flat"):
            raise ConfigError(f"pool is {self.pool!r}; choose 'mean' or 'flat'.")
        if not self.widths or self.groups < 1 or any(width % self.groups for width in self.widths):
            raise ConfigError(
                f"widths is {self.widths} and groups is {self.groups}; choose groups that divide each width."
            )

    def module(self, dtype: Any, name: str | None = None, pooled_only: bool = False) -> "ConvNet":
        return ConvNet(self, dtype, name=name)


class ConvNet(nn.Module):
    """The module of ConvEncoder. GroupNorm needs no running statistics, so all state is parameters.

    Returns (pooled [B,D], out); out["tokens"] is the last feature map, normed and flattened, out["stage0"], ... each stage's map.
    """

    config: ConvEncoder
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Images) -> tuple[Float[Array, "B D"], dict[str, Array]]:
        c = self.config

        def norm(x, name):
            return nn.relu(nn.GroupNorm(c.groups, dtype=self.dtype, name=name)(x))

        def conv(x, width, size, stride, name):
            return nn.Conv(width, (size, size), (stride, stride), use_bias=False, dtype=self.dtype, name=name)(x)

        # At least as wide as its stride, or it would skip pixels.
        x = conv(jnp.asarray(images) * 2 - 1, c.widths[0], max(3, c.stem_stride), c.stem_stride, "stem")
        out = {}
        for stage, width in enumerate(c.widths):
            for i in range(c.blocks):
                name, stride = f"stage{stage}_{i}", 2 if stage and not i else 1
                y = norm(x, f"{name}_norm1")
                skip = conv(y, width, 1, stride, f"{name}_skip") if stride > 1 or x.shape[-1] != width else x
                y = norm(conv(y, width, 3, stride, f"{name}_conv1"), f"{name}_norm2")
                x = skip + conv(y, width, 3, 1, f"{name}_conv2")
            out[f"stage{stage}"] = x
        x = norm(x, "norm")
        out["tokens"] = x.reshape(x.shape[0], -1, x.shape[-1])
        pooled = x.reshape(x.shape[0], -1) if c.pool == "flat" else out["tokens"].mean(axis=1)
        out["pooled"] = pooled
        return pooled, out
