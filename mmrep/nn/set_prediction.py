"""Prediction of sets (Carion et al. 2020, DETR): the matching of predictions with targets, and a decoder of spans of time."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from mmrep.errors import ConfigError
from mmrep.nn.attention import attend
from mmrep.nn.config import TransformerConfig
from mmrep.nn.norms import layer_norm
from mmrep.nn.transformer import Mlp


def match(cost: Float[Array, "B Q T"], valid: Bool[Array, "B T"]) -> tuple[Int[Array, "B T"], Bool[Array, "B Q"]]:
    """(prediction of each target, predictions that have a target) of the assignment with the least total cost; no gradient.

    A padded target costs 0 and counts for nothing: its prediction is 0, and no prediction is marked by it.
    Raises ConfigError for fewer predictions than targets, padding included.
    """
    if cost.shape[1] < cost.shape[2]:
        raise ConfigError(f"match: {cost.shape[1]} predictions cannot take {cost.shape[2]} targets; use more queries")
    cost = jax.lax.stop_gradient(jnp.where(valid[:, None], cost.astype(jnp.float32), 0.0))

    def one(cost: Float[Array, "Q T"], valid: Bool[Array, " T"]) -> tuple[Array, Array]:
        rows, columns = optax.assignment.hungarian_algorithm(cost)
        chosen = jnp.zeros(cost.shape[1], jnp.int32).at[columns].set(rows.astype(jnp.int32))
        chosen = jnp.where(valid, chosen, 0)
        taken = (jax.nn.one_hot(chosen, cost.shape[0], dtype=bool) & valid[:, None]).any(0)
        return chosen, taken

    return jax.vmap(one)(cost, valid)


def sines(x: Float[Array, "..."], dim: int) -> Float[Array, "... {dim}"]:
    """Sines and cosines in turn of 2 pi x / 10000^(2k/dim), for x in [0, 1]."""
    angles = 2 * np.pi * x[..., None] / 10_000 ** (2 * np.arange(dim // 2) / dim)
    return jnp.stack([jnp.sin(angles), jnp.cos(angles)], -1).reshape(*x.shape, 2 * (dim // 2))


def inverse_sigmoid(x: Float[Array, "..."], eps: float = 1e-3) -> Float[Array, "..."]:
    return jnp.log(jnp.maximum(x, eps) / jnp.maximum(1 - x, eps))


class Dropped(nn.Module):
    rate: float

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return nn.Dropout(self.rate, deterministic=not (self.rate and self.has_rng("dropout")))(x)


class Layers(nn.Module):
    """Linear maps with ReLU between them; the last one starts at zero with `zero`."""

    widths: tuple[int, ...]
    zero: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... E"]:
        for i, width in enumerate(self.widths):
            last = i == len(self.widths) - 1
            init = nn.initializers.zeros_init() if last and self.zero else nn.initializers.xavier_uniform()
            x = nn.Dense(width, kernel_init=init, name=f"layer{i}")(x)
            x = x if last else nn.relu(x)
        return x


class Attend(nn.Module):
    """Multi-head attention whose queries, keys and values have inputs of their own. bias: added to the logits."""

    heads: int

    @nn.compact
    def __call__(
        self, q: Float[Array, "B N E"], k: Float[Array, "B M E2"], v: Float[Array, "B M D"],
        mask: Bool[Array, "#B #H #N #M"] | None = None, bias: Float[Array, "#B #H #N #M"] | None = None, scale: float = 1.0,
    ) -> Float[Array, "B N D"]:  # fmt: skip
        d, init = v.shape[-1], nn.initializers.xavier_uniform()
        dense = lambda name, x: nn.Dense(  # noqa: E731
            d, use_bias=name != "key", kernel_init=init, name=name
        )(x).reshape(*x.shape[:2], self.heads, -1)  # fmt: skip
        y = attend(scale * dense("query", q), dense("key", k), dense("value", v), mask, bias)
        return nn.Dense(d, kernel_init=init, name="out")(y.reshape(*q.shape[:2], d))


class SpanLayer(nn.Module):
    """A conditional decoder layer (Liu et al. 2022, DAB-DETR): content and position have logits of their own in cross-attention."""

    config: TransformerConfig
    first: bool

    @nn.compact
    def __call__(
        self, x: Float[Array, "B Q D"], memory: Float[Array, "B T D"], at: Float[Array, "B T D"], query_at: Float[Array, "B Q D"],
        query_sine: Float[Array, "B Q D"], valid: Bool[Array, "B T"],
    ) -> Float[Array, "B Q D"]:  # fmt: skip
        c, drop, d = self.config, Dropped(self.config.dropout), self.config.width
        split = lambda y: y.reshape(*y.shape[:2], c.heads, -1)  # noqa: E731
        both = jnp.concatenate([x, query_at], -1)
        x = layer_norm(jnp.float32, "norm1")(x + drop(Attend(c.heads, name="self")(both, both, x)))
        place = nn.Dense(d, use_bias=False, name="key_at")(at)
        bias = jnp.einsum("bqhk,bthk->bhqt", split(nn.Dense(d, name="sine")(query_sine)), split(place))
        q, k = (jnp.concatenate(pair, -1) if self.first else pair[0] for pair in ((x, query_at), (memory, place)))
        scale = (2 * d // c.heads) ** -0.5
        y = Attend(c.heads, name="cross")(q, k, memory, valid[:, None, None], bias * scale, scale=2**-0.5)
        x = layer_norm(jnp.float32, "norm2")(x + drop(y))
        return layer_norm(jnp.float32, "norm3")(x + drop(Mlp(c.hidden, activation="relu", name="mlp")(x)))


class SpanDecoder(nn.Module):
    """Queries with anchors (centre, width) that each layer refines; the width modulates the positions' attention (DAB-DETR).

    The queries' content starts as learned vectors (in DAB-DETR: 0).

    Returns for each layer (logits [B, Q, 2], class 0 the foreground; spans [B, Q, 2] as (centre, width) in [0, 1]; queries [B, Q, D]).
    """

    config: TransformerConfig
    queries: int

    @nn.compact
    def __call__(
        self, memory: Float[Array, "B T D"], at: Float[Array, "B T D"], valid: Bool[Array, "B T"]
    ) -> list[tuple[Float[Array, "B Q 2"], Float[Array, "B Q 2"], Float[Array, "B Q D"]]]:
        c, d = self.config, self.config.width
        anchors = self.param("anchors", nn.initializers.normal(1.0), (self.queries, 2), jnp.float32)
        ref = jnp.broadcast_to(jax.nn.sigmoid(anchors), (len(memory), self.queries, 2))
        content = self.param("content", nn.initializers.normal(0.02), (self.queries, d), jnp.float32)
        x = jnp.broadcast_to(content, (len(memory), self.queries, d))
        place, scale, width = Layers((d, d), name="place"), Layers((d, d), name="scale"), Layers((d, 1), name="width")
        refine, span = Layers((d, d, 2), True, name="refine"), Layers((d, d, 2), name="span")
        classes, norm = nn.Dense(2, name="classes"), layer_norm(jnp.float32, "norm")
        found, point = [], ref
        for i in range(c.depth):
            sine = jnp.concatenate([sines(point[..., 0], d // 2), sines(point[..., 1], d // 2)], -1)
            modulation = jax.nn.sigmoid(width(x)) / jnp.maximum(point[..., 1:], 1e-3)
            moved = sine * modulation if i == 0 else sine * scale(x) * modulation
            x = SpanLayer(c, i == 0, name=f"layer{i:02d}")(x, memory, at, place(sine), moved, valid)
            h = norm(x)
            found.append((classes(h), jax.nn.sigmoid(span(h) + inverse_sigmoid(ref)), h))
            if i + 1 < c.depth:
                ref = jax.nn.sigmoid(refine(x) + inverse_sigmoid(point))
                point = jax.lax.stop_gradient(ref)
        return found
