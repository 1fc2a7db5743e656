"""Prediction of sets (Carion et al. 2020, DETR): the matching of predictions with targets."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from mmrep.errors import ConfigError


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
