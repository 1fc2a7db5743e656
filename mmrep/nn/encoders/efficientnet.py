"""EfficientNet-Lite (Tan and Le 2019, arXiv 1905.11946; the "Lite" form without squeeze-and-excitation, with ReLU6). Images are [B,H,W,C] in [0,1]."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from mmrep.errors import ConfigError
from mmrep.nn.patches import Images

STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320))  # fmt: skip


@dataclass(frozen=True)
class EfficientNetLite:
    """Inverted residual blocks over images in [0, 1], standardised to (x - mean) / std.

    stages: (blocks, kernel size, stride of the first, expansion, channels) of each; the default is B0's.
    stem, width: channels of the first and of the last convolution.
    Batch normalisation has no statistics here: trained ones are a part of the convolutions' kernels and biases.
    Raises ConfigError without a stage.
    """

    stages: tuple[tuple[int, int, int, int, int], ...] = STAGES
    stem: int = 32
    width: int = 1280
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.5,)

    def __post_init__(self) -> None:
        if not self.stages:
            raise ConfigError("stages is empty; give at least one (blocks, kernel, stride, expansion, channels).")

    def blocks(self) -> list[tuple[int, int, int, int]]:
        """(kernel size, stride, expansion, channels) of each block."""
        return [(k, s if not i else 1, e, c) for n, k, s, e, c in self.stages for i in range(n)]

    def module(self, dtype: Any, name: str | None = None, pooled_only: bool = False) -> "EfficientNet":
        return EfficientNet(self, dtype, name=name)


class EfficientNet(nn.Module):
    """The module of EfficientNetLite.

    Returns (pooled [B,width], out); out["tokens"] is the last feature map, flattened, out["stage00"], ... are the blocks' maps.
    """

    config: EfficientNetLite
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Images) -> tuple[Float[Array, "B D"], dict[str, Array]]:
        c = self.config

        def conv(x, width, size, stride, name):
            return nn.Conv(width, (size, size), (stride, stride), "SAME", dtype=self.dtype, name=name)(x)

        x = (jnp.asarray(images) - jnp.asarray(c.mean)) / jnp.asarray(c.std)
        x = nn.relu6(conv(x.astype(self.dtype), c.stem, 3, 2, "stem"))
        out = {}
        for i, (size, stride, expansion, width) in enumerate(c.blocks()):
            name, channels, y = f"block{i:02d}", x.shape[-1], x
            if expansion > 1:
                y = nn.relu6(conv(y, channels * expansion, 1, 1, f"{name}_expand"))
            y = nn.relu6(Depthwise(size, stride, self.dtype, name=f"{name}_depthwise")(y))
            y = conv(y, width, 1, 1, f"{name}_project")
            x = x + y if stride == 1 and width == channels else y
            out[f"stage{i:02d}"] = x
        x = nn.relu6(conv(x, c.width, 1, 1, "head"))
        out["tokens"] = x.reshape(x.shape[0], -1, x.shape[-1])
        out["pooled"] = pooled = out["tokens"].mean(axis=1)
        return pooled, out


class Depthwise(nn.Module):
    """A convolution of each channel by itself, with padding as in "SAME".

    On a CPU it is a sum of shifted products, which XLA computes there about 25 times as fast as a grouped convolution: the same numbers.
    """

    size: int
    stride: int
    dtype: Any = jnp.float32
    shifted: bool | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B _ _ C"]:
        k, s, channels = self.size, self.stride, x.shape[-1]
        init = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal", in_axis=(0, 1, 2))
        kernel = jnp.asarray(self.param("kernel", init, (k, k, 1, channels), jnp.float32), self.dtype)
        bias = jnp.asarray(self.param("bias", nn.initializers.zeros_init(), (channels,), jnp.float32), self.dtype)
        shifted = jax.default_backend() == "cpu" if self.shifted is None else self.shifted
        if not shifted:
            layout = ("NHWC", "HWIO", "NHWC")
            found = jax.lax.conv_general_dilated(
                x, kernel, (s, s), "SAME", dimension_numbers=layout, feature_group_count=channels
            )
            return found + bias
        rows, columns = (-(-n // s) for n in x.shape[1:3])
        pads = [max((out - 1) * s + k - n, 0) for out, n in zip((rows, columns), x.shape[1:3])]
        x = jnp.pad(x, ((0, 0), *((p // 2, p - p // 2) for p in pads), (0, 0)))
        ends = (rows - 1) * s + 1, (columns - 1) * s + 1
        parts = (x[:, i : i + ends[0] : s, j : j + ends[1] : s] * kernel[i, j, 0] for i in range(k) for j in range(k))
        return sum(parts, start=bias)
