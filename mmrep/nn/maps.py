"""Dense modalities: pixel-aligned images and class maps as models of patches use them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mmrep.errors import ConfigError
from mmrep.modality import Modality


@dataclass(frozen=True)
class DenseModality:
    """A pixel-aligned modality: its batch entry and its grid of patches. `dense` derives it from a Modality.

    size: (height, width).   patch: side in its own pixels.   channels: of a map of numbers.   classes: above 0 for a map of class ids.
    class_dim: width of a class embedding.   mean, std: numbers are standardised as (x - mean) / std.
    truncated: numbers are standardised by each example's middle 80 % of values instead (depth).
    """

    name: str
    size: tuple[int, int]
    patch: int
    channels: int = 1
    classes: int = 0
    class_dim: int = 64
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.5,)
    truncated: bool = False

    def __post_init__(self) -> None:
        if self.patch < 1:
            raise ConfigError(f"the patch of {self.name!r} is {self.patch}: it must be at least 1")

    @property
    def grid(self) -> tuple[int, int]:
        return self.size[0] // self.patch, self.size[1] // self.patch

    @property
    def values(self) -> int:
        """Values that a decoder predicts per patch."""
        return self.patch**2 * (self.classes or self.channels)

    def spec(self, batch_size: int) -> tuple[tuple[int, ...], Any]:
        """(shape, dtype) of its batch entry."""
        numbers = () if self.classes else (self.channels,)
        return (batch_size, *self.size, *numbers), jnp.int32 if self.classes else jnp.float32

    def standard(self, x: Any) -> Array:
        """[B, H, W, C] standardised numbers, or the class ids [B, H, W] themselves."""
        x = jnp.asarray(x)
        if self.classes:
            return x
        if self.truncated:
            return truncated_standard(x)
        return (x - jnp.asarray(self.mean, jnp.float32)) / jnp.asarray(self.std, jnp.float32)


def dense(m: Modality, *, class_dim: int = 64, truncated: bool = False) -> DenseModality:
    """The dense modality of an image or a class map: its size, patch, channels or classes, mean and std.

    Raises ConfigError for a modality of another kind.
    """
    if m.kind not in ("image", "map"):
        raise ConfigError(f"modality {m.name!r} has kind {m.kind!r}: a dense modality is an image or a map")
    return DenseModality(
        m.name, m.size, m.patch, m.channels, m.classes, class_dim, mean=m.mean, std=m.std, truncated=truncated
    )  # fmt: skip


def truncated_standard(x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
    """Standardised by the mean and variance of each example's middle 80 % of values, which are robust to outliers of a depth map."""
    flat = jnp.sort(x.reshape(x.shape[0], -1), axis=1)
    n = flat.shape[1]
    middle = flat[:, int(0.1 * n) : int(0.9 * n)]
    shape = (-1, 1, 1, 1)
    return (x - middle.mean(1).reshape(shape)) * jax.lax.rsqrt(middle.var(axis=1, ddof=1) + 1e-6).reshape(shape)


def check_maps(maps: Sequence[DenseModality], targets: Sequence[DenseModality] = ()) -> None:
    """Raises ConfigError unless all maps have different names and one grid of whole patches."""
    every = (*maps, *targets)
    names = [m.name for m in every]
    if not maps or len({*names}) < len(names):
        raise ConfigError(f"system.maps and targets are named {names}: give at least one map, each name once")
    for m in every:
        if m.patch < 1 or m.size[0] % m.patch or m.size[1] % m.patch:
            raise ConfigError(f"map {m.name!r}: patch {m.patch} does not divide its size {m.size}")
        if m.grid != maps[0].grid:
            raise ConfigError(f"map {m.name!r} has grid {m.grid}, {maps[0].name!r} {maps[0].grid}: change its patch")
