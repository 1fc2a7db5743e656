"""OmniBind's projectors, routers and losses."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jaxtyping import Array, Float, Int

from mmrep.losses.contrastive import symmetric_info_nce
from mmrep.nn.heads import l2_normalise
from mmrep.nn.norms import layer_norm

Norm = Literal["layer", "none"]


@dataclass(frozen=True)
class Expert:
    """A space that others trained. name: of the expert, in the fields `<modality>_<name>`.   dim: of its embeddings.   modalities: that it embeds."""

    name: str
    dim: int
    modalities: tuple[str, ...]


def field(modality: str, expert: str) -> str:
    """The batch entry of a modality's embeddings by an expert."""
    return f"{modality}_{expert}"


def normed(norm: Norm, name: str) -> Any:
    """A LayerNorm; nothing for published weights, whose BatchNorm statistics are folded into the linear maps."""
    return layer_norm(jnp.float32, name) if norm == "layer" else (lambda x: x)


class Projector(nn.Module):
    """Linear, norm, ReLU, Linear, norm, L2: an expert's embeddings in the base space."""

    hidden: int
    dim: int
    norm: Norm = "layer"

    @nn.compact
    def __call__(self, x: Float[Array, "B I"]) -> Float[Array, "B D"]:
        init = nn.initializers.xavier_uniform()
        x = normed(self.norm, "norm0")(nn.Dense(self.hidden, kernel_init=init, name="dense0")(x))
        x = normed(self.norm, "norm1")(nn.Dense(self.dim, kernel_init=init, name="dense1")(nn.relu(x)))
        return l2_normalise(x)


class Router(nn.Module):
    """A score in (0, 1) for each expert: MLP with ReLU and tanh, then a sigmoid."""

    widths: tuple[int, int]
    experts: int
    norm: Norm = "layer"

    @nn.compact
    def __call__(self, x: Float[Array, "B I"]) -> Float[Array, "B E"]:
        init = nn.initializers.xavier_uniform()
        x = nn.relu(normed(self.norm, "norm0")(nn.Dense(self.widths[0], kernel_init=init, name="dense0")(x)))
        x = jnp.tanh(normed(self.norm, "norm1")(nn.Dense(self.widths[1], kernel_init=init, name="dense1")(x)))
        return jax.nn.sigmoid(nn.Dense(self.experts, kernel_init=init, name="dense2")(x))


def route_weights(scores: Float[Array, "B E"], sharpness: float = 1.0) -> Float[Array, "B E"]:
    """softmax(sharpness * scores): for scores in (0, 1) no two weights differ by more than the factor e^sharpness."""
    return jax.nn.softmax(sharpness * scores)


def bind(experts: Float[Array, "B E D"], weights: Float[Array, "#B E"]) -> Float[Array, "B D"]:
    """norm(sum_e w_e expert_e). An expert is the mean of its copies' unit vectors, shorter than 1 where they disagree, and stays so."""
    return l2_normalise(jnp.einsum("bed,be->bd", experts, jnp.broadcast_to(weights, experts.shape[:2])))


def projection_loss(
    copies: Mapping[str, Float[Array, "K B D"]], base: Mapping[str, Float[Array, "B D"]], temperature: float
) -> Float[Array, " B"]:
    """InfoNCE between every modality of an expert and every one of the base space, the mean over these pairs and over copies."""
    one = jax.vmap(lambda x, y: symmetric_info_nce(x, y, 1 / temperature), (0, None))
    return jnp.stack([one(x, y).mean(0) for x in copies.values() for y in base.values()]).mean(0)


def alignment_loss(bound: Mapping[str, Float[Array, "B D"]], temperature: float) -> Float[Array, " B"]:
    """L_align: the sum over all pairs of modalities of symmetric InfoNCE between the routed embeddings."""
    return sum(symmetric_info_nce(bound[a], bound[b], 1 / temperature) for a, b in combinations(bound, 2))  # type: ignore[return-value]


def decoupling_loss(
    scores: Float[Array, "B E"],
    start: Int[Array, " B"],
    experts: Sequence[Expert],
    modalities: Sequence[str],
    text: str,
) -> Float[Array, " B"]:
    """L_dec: binary cross-entropy of the text router's scores; 1 for the experts of the modality that the tuple started from, 0 for others.

    0 for tuples that started from a text. Reconstructed: the authors publish no training code.
    """
    group = jnp.array([[m in e.modalities for e in experts] for m in modalities], jnp.float32)[start]
    scores = jnp.clip(scores.astype(jnp.float32), 1e-6, 1 - 1e-6)
    value = optax.losses.sigmoid_binary_cross_entropy(jnp.log(scores) - jnp.log1p(-scores), group).mean(1)
    return jnp.where(start == list(modalities).index(text), 0.0, value)
