"""The DPT head: numbers for every pixel from four layers of an encoder (Ranftl et al. 2021, arXiv 2103.13413)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from mmrep.errors import ConfigError
from mmrep.nn.patches import unpatchify
from mmrep.systems.recipes.finetune.heads import resize


@dataclass(frozen=True)
class Dpt:
    """hooks: four encoder layers, from early to late, counted from 0.   dims: channels of each.   features: channels after fusion."""

    hooks: tuple[int, int, int, int] = (2, 5, 8, 11)
    dims: tuple[int, int, int, int] = (96, 192, 384, 768)
    features: int = 256


def resize_aligned(x: Float[Array, "B H W C"], size: tuple[int, int]) -> Float[Array, "B _ _ C"]:
    """Bilinear with corner pixels on corner pixels (align_corners), as in DPT."""

    def weights(old: int, new: int) -> Array:
        at = np.linspace(0, old - 1, new)
        return jnp.asarray(np.maximum(0, 1 - np.abs(at[:, None] - np.arange(old))), x.dtype)

    return jnp.einsum("rh,bhwc,sw->brsc", weights(x.shape[1], size[0]), x, weights(x.shape[2], size[1]))


class Refine(nn.Module):
    """x + conv(relu(conv(relu(x)))), convolutions 3x3."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        y = x
        for name in ("conv1", "conv2"):
            y = nn.Conv(x.shape[-1], (3, 3), padding=1, dtype=self.dtype, name=name)(nn.relu(y))
        return x + y


class DPTHead(nn.Module):
    """`channels` numbers for every pixel from four layers of an encoder, from early to late (Ranftl et al. 2021, arXiv 2103.13413).

    The layers are resized to 4, 2, 1 and 1/2 times the grid with `dims` channels, projected to `features`, and fused from the coarsest to the
    finest, doubling each time; the result has 16 times the grid's sides (8 times where `size` is no more) and is resized to `size`.
    """

    config: Dpt
    channels: int
    grid: tuple[int, int]
    size: tuple[int, int]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, layers: Sequence[Float[Array, "B N D"]]) -> Float[Array, "B H W C"]:
        if len(layers) != 4:
            raise ConfigError(f"hooks name {len(layers)} layers: a DPT head takes four, from early to late")

        def conv(width: int, kernel: int, name: str, **options: Any) -> nn.Conv:
            return nn.Conv(width, (kernel, kernel), padding=kernel // 2, dtype=self.dtype, name=name, **options)

        laid = []
        for i, (tokens, width) in enumerate(zip(layers, self.config.dims)):
            x = conv(width, 1, f"project{i}")(unpatchify(tokens, 1, self.grid).astype(self.dtype))
            if i < 2:
                sides = 4 >> i, 4 >> i
                x = nn.ConvTranspose(width, sides, sides, "VALID", dtype=self.dtype, name=f"lay{i}")(x)
            if i == 3:
                x = conv(width, 3, f"lay{i}", strides=(2, 2))(x)
            laid.append(conv(self.config.features, 3, f"bring{i}", use_bias=False)(x))
        fused: Array | None = None
        for i in (3, 2, 1, 0):
            x = laid[i] if fused is None else fused + Refine(self.dtype, name=f"take{i}")(laid[i])
            x = Refine(self.dtype, name=f"refine{i}")(x)
            # The next layer's sides: twice these, or one less where the grid is odd.
            sides = laid[i - 1].shape[1:3] if i else (2 * x.shape[1], 2 * x.shape[2])
            fused = conv(self.config.features, 1, f"fuse{i}")(resize_aligned(x, (sides[0], sides[1])))
        x = conv(self.config.features // 2, 3, "head1")(jnp.asarray(fused))
        if x.shape[1] < self.size[0] or x.shape[2] < self.size[1]:
            x = resize_aligned(x, (2 * x.shape[1], 2 * x.shape[2]))
        x = nn.relu(conv(32, 3, "head2")(x))
        x = conv(self.channels, 1, "out")(x).astype(jnp.float32)
        return x if x.shape[1:3] == self.size else resize(x, self.size)
