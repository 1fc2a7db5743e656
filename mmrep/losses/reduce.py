"""From unreduced values to a scalar."""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def masked_mean(
    values: Float[Array, "..."] | Bool[Array, "..."],
    where: Bool[Array, "..."] | None = None,
    axis: int | Sequence[int] | None = None,
) -> Float[Array, "..."]:
    """Mean in float32 of the values that `where` keeps (it broadcasts against `values`); 0 where it keeps none; of booleans it is the share.

    A value that is dropped may be NaN or infinite: it is replaced before the sum.
    """
    values = values.astype(jnp.float32)
    if where is None:
        return jnp.mean(values, axis=axis)
    where = jnp.broadcast_to(where, values.shape)
    total = jnp.sum(jnp.where(where, values, 0.0), axis=axis)
    return total / jnp.maximum(jnp.sum(where, axis=axis, dtype=jnp.float32), 1.0)
