"""A perceptron over a vector modality (frozen features of another model, tabular data)."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float


@dataclass(frozen=True)
class VectorEncoder:
    """A Dense layer with GELU for each width of `hidden`; hidden=() is the identity, so that the encoder is its projection alone."""

    hidden: tuple[int, ...] = ()

    def module(self, dtype: Any, name: str | None = None, pooled_only: bool = False) -> "Perceptron":
        return Perceptron(self, dtype, name=name)


class Perceptron(nn.Module):
    """The module of VectorEncoder. Returns (pooled [B,E], {"pooled": pooled})."""

    config: VectorEncoder
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B D"]) -> tuple[Float[Array, "B E"], dict[str, Array]]:
        for i, width in enumerate(self.config.hidden):
            x = nn.gelu(nn.Dense(width, dtype=self.dtype, name=f"dense{i}")(x), approximate=False)
        return x, {"pooled": x}
