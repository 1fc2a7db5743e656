"""Similarities of two sets of tokens from their token-wise maxima: MaxSim (Khattab and Zaharia 2020), FILIP (Yao et al. 2022), WTI (Wang et al. 2022)."""

from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mmrep.errors import ConfigError
from mmrep.losses.blocks import MASKED, in_blocks

TokenSet: TypeAlias = tuple[Float[Array, "_ _ _"], Bool[Array, "_ _"]]
"""(unit vectors [B, n, D], mask of the valid ones [B, n])."""

Weights: TypeAlias = Float[Array, "_ _"]
"""A weight for each token [B, n]; a row's weights of valid tokens sum to 1."""

Padding: TypeAlias = Literal["exclude", "zero"]


def products(x: Float[Array, "B n D"], y: Float[Array, "C m D"]) -> Float[Array, "B C n m"]:
    """Dot products of all tokens of all pairs, in float32."""
    return jnp.einsum("bnd,cmd->bcnm", x, y, precision=jax.lax.Precision.HIGHEST, preferred_element_type=jnp.float32)


def weighted_maxima(
    s: Float[Array, "*p n m"],
    valid: Bool[Array, "*#p n"],
    other: Bool[Array, "*#p m"],
    weights: Float[Array, "*#p n"] | None = None,
    padding: Padding = "exclude",
) -> Float[Array, "*p"]:
    """The mean (or the sum with `weights`) over valid rows of s of the maximum over the columns that `other` keeps.

    0 where one side has no valid token. padding: "exclude", or "zero": a masked entry of s is 0 and takes part in the maxima, as in the
    code of HBI and VALOR; it wins where all similarities are negative.
    """
    fill = MASKED if padding == "exclude" else 0.0
    best = jnp.max(jnp.where(other[..., None, :], s, fill), axis=-1)
    kept = valid & jnp.any(other, axis=-1, keepdims=True)
    best = jnp.where(kept, best, 0.0)
    if weights is not None:
        return jnp.sum(jnp.where(kept, weights, 0.0) * best, axis=-1)
    return jnp.sum(best, axis=-1) / jnp.maximum(kept.sum(-1, dtype=jnp.float32), 1.0)


def _all_pairs(
    x: TokenSet, y: TokenSet, weights_x: Weights | None, weights_y: Weights | None, padding: Padding
) -> tuple[Float[Array, "B C"], Float[Array, "B C"]]:
    s = products(x[0], y[0])
    rows, columns = x[1][:, None], y[1][None]
    of_x = None if weights_x is None else weights_x[:, None]
    of_y = None if weights_y is None else weights_y[None]
    return (
        weighted_maxima(s, rows, columns, of_x, padding),
        weighted_maxima(s.swapaxes(-1, -2), columns, rows, of_y, padding),
    )


def late_similarity(
    x: TokenSet,
    y: TokenSet,
    chunk: int | None = None,
    weights_x: Weights | None = None,
    weights_y: Weights | None = None,
    padding: Padding = "exclude",
) -> tuple[Float[Array, "B C"], Float[Array, "B C"]]:
    """(s_xy, s_yx), both with rows x: the mean over x's tokens of the maximum similarity to a token of y, and the reverse.

    Of images x and texts y these are FILIP's s^I and s^T. They differ in general: retrieval from y uses the columns of s_yx. A pair in
    which one side has no valid token has similarity 0. Ties share the gradient equally.
    weights_x, weights_y: a weighted sum over the side's tokens instead of the mean.   padding: see `weighted_maxima`.
    chunk: y is processed that many at a time, and again in the backward pass: B x chunk x n x m products in memory, not B x C x n x m.
    Raises ConfigError for a chunk below 1.
    """
    if chunk is None or chunk >= len(y[0]):
        return _all_pairs(x, y, weights_x, weights_y, padding)
    if chunk < 1:
        raise ConfigError(f"late_similarity: chunk is {chunk}; it must be positive, or None for all at once")
    columns = len(y[0])

    @jax.checkpoint
    def step(carry: None, part: tuple[TokenSet, Weights | None]) -> tuple[None, tuple[Array, Array]]:
        return carry, _all_pairs(x, part[0], weights_x, part[1], padding)

    _, both = jax.lax.scan(step, None, in_blocks((y, weights_y), chunk))
    s_xy, s_yx = (jnp.moveaxis(s, 0, 1).reshape(len(x[0]), -1)[:, :columns] for s in both)
    return s_xy, s_yx
