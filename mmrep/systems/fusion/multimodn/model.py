"""MultiModN's encoders and decoders, the walk of the state through them, and the loss over all steps."""

from collections.abc import Callable, Mapping
from typing import Literal

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

Encode = Callable[[int, Float[Array, "B S"], PRNGKeyArray | None], tuple[Float[Array, "B S"], Bool[Array, " B"]]]
"""(number of the encoder, state, key) -> (its new state, whether the row has its modality)"""


class StateEncoder(nn.Module):
    """e_m(s, x) [B, state]: a perceptron over x and the state. "late" joins the state to the input of the last layer, which is linear;
    "early" to that of the first, and every layer ends in ReLU (the authors' MLPEncoder and MIMIC_MLPEncoder)."""

    state: int
    hidden: tuple[int, ...]
    kind: Literal["late", "early"] = "late"
    dropout: float = 0.0

    @nn.compact
    def __call__(self, s: Float[Array, "B S"], x: Float[Array, "B N"]) -> Float[Array, "B S"]:
        if self.kind == "early":
            x = jnp.concatenate([x, s], 1)
            x = nn.Dropout(self.dropout, deterministic=not self.has_rng("dropout"))(x)
        for i, width in enumerate(self.hidden):
            x = nn.relu(nn.Dense(width, name=f"dense{i}")(x))
        last = nn.Dense(self.state, name="out")
        return nn.relu(last(x)) if self.kind == "early" else last(jnp.concatenate([x, s], 1))


class Decoder(nn.Module):
    """A perceptron with ReLU between its layers: logits [..., classes]; with classes=0 the last hidden layer, after its ReLU."""

    hidden: tuple[int, ...]
    classes: int

    @nn.compact
    def __call__(self, x: Float[Array, "... S"]) -> Float[Array, "... C"]:
        for i, width in enumerate(self.hidden):
            x = nn.relu(nn.Dense(width, name=f"dense{i}")(x))
        return nn.Dense(self.classes, name="out")(x) if self.classes else x


def observed(x: Float[Array, "B ..."]) -> tuple[Float[Array, "B N"], Bool[Array, " B"]]:
    """(numbers with 0 for NaN, whether the row has none): NaN is taken out first, since its gradient is NaN even where it is masked."""
    flat = jnp.asarray(x, jnp.float32).reshape(len(x), -1)
    absent = jnp.isnan(flat)
    return jnp.where(absent, 0.0, flat), ~absent.any(1)


def walk(
    state: Float[Array, "B S"], encode: Encode, encoders: int, key: PRNGKeyArray | None, shuffled: PRNGKeyArray | None
) -> tuple[Float[Array, "K B S"], Bool[Array, "K B"]]:
    """(the state before the first encoder and after each, whether the row took that step): a row without the modality keeps its state.

    key: of the encoders' dropout, None where there is none.   shuffled: a key draws one order of the encoders for the whole batch.
    """
    order = None if shuffled is None else jax.random.permutation(shuffled, encoders)
    states, taken = [state], [jnp.ones(len(state), bool)]
    for k in range(encoders):
        if order is None:
            new, present = encode(k, state, key)
        else:
            branches = [lambda s, m=m: encode(m, s, key) for m in range(encoders)]
            new, present = jax.lax.switch(order[k], branches, state)
        state = jnp.where(present[:, None], new, state)
        states.append(state)
        taken.append(present)
    return jnp.stack(states), jnp.stack(taken)


def joined(
    values: Mapping[str, Float[Array, "B _"]], present: Mapping[str, Bool[Array, " B"]], fill: float, flags: bool
) -> Float[Array, "B N"]:
    """All vectors side by side, those of missing modalities filled; with `flags` a 1 for each missing one beside them."""
    parts = [jnp.where(present[n][:, None], x, fill) for n, x in values.items()]
    return jnp.concatenate(parts + [1.0 - p[:, None] for p in present.values()] * flags, 1)


def cross_entropy(logits: Float[Array, "K B C"], labels: Int[Array, " B"], squash: bool) -> Float[Array, "K B"]:
    """Of every step. squash: of the outputs' sigmoids, taken as logits again (the authors' criterion)."""
    scores = nn.sigmoid(logits) if squash else logits
    return optax.softmax_cross_entropy_with_integer_labels(scores, jnp.broadcast_to(labels, scores.shape[:2]))


def probabilities(logits: Float[Array, "... C"], squash: bool) -> Float[Array, "... C"]:
    """Of the classes: softmax, or with `squash` the authors' sigmoids over their sum."""
    if not squash:
        return nn.softmax(logits)
    scores = nn.sigmoid(logits)
    return scores / scores.sum(-1, keepdims=True)


def multimodn_loss(
    errors: Float[Array, "K T B"],
    changes: Float[Array, "M B"],
    taken: Bool[Array, "K B"],
    *,
    error: float,
    change: float,
) -> Float[Array, " B"]:
    """error / (T K) sum_kt errors + 0.01 change / M sum_m changes, over the steps that were taken; both divisors count skipped steps, too.

    K = M + 1 steps: before the first encoder and after each of M.   changes: mean squared change of the state by each encoder.
    """
    steps, tasks, _ = errors.shape
    total = error / (tasks * steps) * jnp.where(taken[:, None], errors, 0.0).sum((0, 1))
    return total + 0.01 * change / max(len(changes), 1) * jnp.where(taken[1:], changes, 0.0).sum(0)
