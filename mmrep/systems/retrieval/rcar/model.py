"""RCAR's similarity of a picture's regions and a caption's words: attention that its own result corrects, and alignments weighed again."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from mmrep.nn.heads import l2_normalise
from mmrep.nn.norms import layer_norm

HIDDEN = -1e30
Regulate = Literal["rcr", "rar", "rcar"]


def dense(features: int, name: str, bias: bool = True) -> nn.Dense:
    return nn.Dense(features, use_bias=bias, kernel_init=nn.initializers.xavier_uniform(), name=name)


class RegionProjection(nn.Module):
    """Linear(x) + MLP(x), normalised: regions in the shared space."""

    dim: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B R D"]) -> Float[Array, "B R E"]:
        hidden = nn.Dense(max(self.dim // 2, 1), dtype=self.dtype, name="hidden")(x)
        hidden = nn.relu(layer_norm(self.dtype, "norm")(hidden))
        x = nn.Dense(self.dim, dtype=self.dtype, name="linear")(x) + nn.Dense(self.dim, dtype=self.dtype, name="out")(
            hidden
        )
        return l2_normalise(x.astype(jnp.float32))


def cross_attention(
    queries: Float[Array, "Q D"], context: Float[Array, "C D"], channels: Float[Array, "#Q D"],
    temperature: Float[Array, "#Q 1"], query_valid: Bool[Array, " Q"], context_valid: Bool[Array, " C"],
) -> tuple[Float[Array, "Q D"], Float[Array, "Q C"]]:  # fmt: skip
    """(each query's unit mean of the context, its attention): raw scores are normalised over the valid queries, then temperature and softmax.

    channels: factors of the queries' dimensions (M).   temperature: an inverse one (lambda); 0 is the plain mean.
    """
    scores = nn.leaky_relu(jnp.einsum("qd,cd->cq", queries * channels, context), 0.1)
    scores = l2_normalise(jnp.where(query_valid, scores, 0.0)).T
    attention = jax.nn.softmax(jnp.where(context_valid, temperature * scores, HIDDEN))
    return l2_normalise(attention @ context), attention


class Alignment(nn.Module):
    """s = unit(Linear((Q - W)^2)) of each query and its attended context."""

    dim: int

    @nn.compact
    def __call__(self, queries: Float[Array, "Q D"], attended: Float[Array, "Q D"]) -> Float[Array, "Q K"]:
        return l2_normalise(dense(self.dim, "linear")(jnp.square(queries - attended)))


class CorrespondenceRegulator(nn.Module):
    """The next round's channels, in [-1, 1], and temperature, at least 0, of each query, from its alignment (RCR)."""

    @nn.compact
    def __call__(
        self, s: Float[Array, "Q K"], channels: Float[Array, "#Q D"], temperature: Float[Array, "#Q 1"]
    ) -> tuple[Float[Array, "Q D"], Float[Array, "Q 1"]]:
        k, d = s.shape[-1], channels.shape[-1]
        factor = dense(d, "channels_out")(jnp.tanh(dense(2 * k, "channels_in")(s)))
        step = dense(1, "temperature_out")(jnp.tanh(dense(max(k // 2, 1), "temperature_in")(s)))
        return jnp.clip(jnp.tanh(factor) + channels, -1.0, 1.0), nn.relu(step + temperature)


class AggregationRegulator(nn.Module):
    """(the alignments' weighted mean, of unit length, their weights): weights by the last aggregate as the query (RAR)."""

    dropout: float = 0.0

    @nn.compact
    def __call__(
        self, s: Float[Array, "Q K"], last: Float[Array, " K"], valid: Bool[Array, " Q"]
    ) -> tuple[Float[Array, " K"], Float[Array, " Q"]]:
        drop = nn.Dropout(self.dropout, deterministic=not self.has_rng("dropout"))
        keys = drop(jnp.tanh(dense(s.shape[-1], "key")(s)))
        query = drop(jnp.tanh(dense(s.shape[-1], "query")(last)))
        logits = dense(1, "weight", bias=False)(keys * query)[:, 0]
        weights = jax.nn.softmax(jnp.where(valid, logits, HIDDEN))
        return l2_normalise(weights @ s), weights


class Matcher(nn.Module):
    """The score of one pair, in [-1, 1] for "rcr" and in (0, 1) otherwise, and what led to it.

    out: attention [T,Q,C] and temperature [T,Q] of each round, weights [S,Q] of each aggregation: the mean first; attended [Q,D].
    """

    regulate: Regulate
    steps: int
    dim: int
    temperature: float
    dropout: float = 0.0

    @nn.compact
    def __call__(
        self, queries: Float[Array, "Q D"], context: Float[Array, "C D"], query_valid: Bool[Array, " Q"],
        context_valid: Bool[Array, " C"],
    ) -> tuple[Float[Array, ""], dict[str, Array]]:  # fmt: skip
        channels, lam = jnp.ones((1, queries.shape[-1])), jnp.full((1, 1), self.temperature)
        mean = query_valid / jnp.maximum(query_valid.sum(), 1)
        attention, temperatures, weights = [], [], [mean]

        def attend() -> Array:
            attended, found = cross_attention(queries, context, channels, lam, query_valid, context_valid)
            attention.append(found)
            temperatures.append(jnp.broadcast_to(lam[:, 0], (len(queries),)))
            return attended

        attended = attend()
        if self.regulate == "rcr":
            for t in range(self.steps):
                s = Alignment(self.dim, name=f"alignment{t}")(queries, attended)
                channels, lam = CorrespondenceRegulator(name=f"correspondence{t}")(s, channels, lam)
                attended = attend()
            score = mean @ jnp.sum(l2_normalise(queries) * attended, -1)
        else:
            s = Alignment(self.dim, name="alignment0")(queries, attended)
            h = mean @ s
            for t in range(self.steps):
                if t and self.regulate == "rcar":
                    channels, lam = CorrespondenceRegulator(name=f"correspondence{t - 1}")(s, channels, lam)
                    attended = attend()
                    s = Alignment(self.dim, name=f"alignment{t}")(queries, attended)
                h, w = AggregationRegulator(self.dropout, name=f"aggregation{t}")(s, h, query_valid)
                weights.append(w)
            score = jax.nn.sigmoid(dense(1, "score")(h)[0])
        out = {"attention": jnp.stack(attention), "temperature": jnp.stack(temperatures), "weights": jnp.stack(weights)}
        return score, out | {"attended": attended}
