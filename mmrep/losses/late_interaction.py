"""Token-wise late interaction, MaxSim (Khattab and Zaharia 2020; both directions: Yao et al. 2022, FILIP, section 3.1)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mmrep.errors import ConfigError
from mmrep.losses.contrastive import MASKED


def _mean_of_max(
    s: Float[Array, "B C n m"], valid: Bool[Array, "*b n"], other: Bool[Array, "*c m"]
) -> Float[Array, "B C"]:
    best = jnp.max(jnp.where(other[..., None, :], s, MASKED), axis=-1)
    kept = valid & jnp.any(other, axis=-1, keepdims=True)
    return jnp.sum(jnp.where(kept, best, 0.0), axis=-1) / jnp.maximum(kept.sum(-1, dtype=jnp.float32), 1.0)


def _plain(
    x: Float[Array, "B n D"], valid_x: Bool[Array, "B n"], y: Float[Array, "C m D"], valid_y: Bool[Array, "C m"]
) -> tuple[Float[Array, "B C"], Float[Array, "B C"]]:
    s = jnp.einsum(
        "bnd,cmd->bcnm", x, y, precision=jax.lax.Precision.HIGHEST, preferred_element_type=jnp.float32
    )  # fmt: skip
    rows, columns = valid_x[:, None], valid_y[None]
    return _mean_of_max(s, rows, columns), _mean_of_max(s.swapaxes(-1, -2), columns, rows)


def late_similarity(
    tokens_x: Float[Array, "B n D"],
    valid_x: Bool[Array, "B n"],
    tokens_y: Float[Array, "C m D"],
    valid_y: Bool[Array, "C m"],
    chunk: int | None = None,
) -> tuple[Float[Array, "B C"], Float[Array, "B C"]]:
    """(s_xy, s_yx), both with rows x: the mean over x's valid tokens of the best match among y's valid tokens, and the other way round.

    Tokens are unit vectors; the two matrices differ in general, and y -> x retrieval reads the columns of s_yx. Where one side has
    no valid token the similarity is 0. With `chunk` the gallery y is walked that many at a time and rebuilt in the backward pass, so
    that B x chunk x n x m products are alive at once, instead of B x C x n x m. Ties send the gradient to all tied tokens equally.
    """
    if chunk is None or chunk >= tokens_y.shape[0]:
        return _plain(tokens_x, valid_x, tokens_y, valid_y)
    if chunk < 1:
        raise ConfigError(f"late_similarity: chunk is {chunk}; it must be positive, or None for all at once")
    gallery = tokens_y.shape[0]
    chunks = -(-gallery // chunk)
    pad = chunks * chunk - gallery
    y = jnp.pad(tokens_y, ((0, pad), (0, 0), (0, 0))).reshape(chunks, chunk, *tokens_y.shape[1:])
    valid = jnp.pad(valid_y, ((0, pad), (0, 0))).reshape(chunks, chunk, -1)

    @jax.checkpoint
    def step(carry: None, part: tuple[Array, Array]) -> tuple[None, tuple[Array, Array]]:
        return carry, _plain(tokens_x, valid_x, *part)

    _, both = jax.lax.scan(step, None, (y, valid))
    s_xy, s_yx = (jnp.moveaxis(s, 0, 1).reshape(-1, chunks * chunk)[:, :gallery] for s in both)
    return s_xy, s_yx


def select_tokens(
    tokens: Float[Array, "B n D"],
    valid: Bool[Array, "B n"],
    others: Float[Array, "C m D"],
    valid_others: Bool[Array, "C m"],
    keep: int,
) -> tuple[Float[Array, "B k D"], Bool[Array, "B k"]]:
    """The `keep` valid tokens of each row with the best match anywhere in `others` (FILIP, section 3.1: 25 % before communication).

    For training only: a selection by the batch would leak into evaluation. The choice carries no gradient; the tokens do.
    Raises ConfigError unless 1 <= keep <= n.
    """
    if not 1 <= keep <= tokens.shape[1]:
        raise ConfigError(f"select_tokens: keep is {keep}; it must lie in 1..{tokens.shape[1]}")
    flat = jnp.where(valid_others.reshape(-1, 1), others.reshape(-1, others.shape[-1]), 0.0)
    s = jnp.einsum("bnd,md->bnm", jax.lax.stop_gradient(tokens), flat, preferred_element_type=jnp.float32)
    best = jnp.max(jnp.where(valid_others.reshape(-1), s, MASKED), axis=-1)
    _, index = jax.lax.top_k(jnp.where(valid, best, -jnp.inf), keep)
    return jnp.take_along_axis(tokens, index[..., None], axis=1), jnp.take_along_axis(valid, index, axis=1)
