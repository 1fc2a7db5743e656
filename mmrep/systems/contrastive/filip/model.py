"""Token-wise late interaction, MaxSim (Khattab and Zaharia 2020; both directions: Yao et al. 2022, FILIP, section 3.1)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mmrep.errors import ConfigError
from mmrep.losses.blocks import MASKED, Blocks, Side, Softmax, contrast, in_blocks, side
from mmrep.losses.contrastive import Scalar, symmetric_info_nce_of_logits

Tokens = tuple[Float[Array, "B _ D"], Bool[Array, "B _"]]
"""Unit vectors, any number of them a row, and which of them are real."""


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
    parts = in_blocks((tokens_y, valid_y), chunk)

    @jax.checkpoint
    def step(carry: None, part: tuple[Array, Array]) -> tuple[None, tuple[Array, Array]]:
        return carry, _plain(tokens_x, valid_x, *part)

    _, both = jax.lax.scan(step, None, parts)
    s_xy, s_yx = (jnp.moveaxis(s, 0, 1).reshape(len(tokens_x), -1)[:, :gallery] for s in both)
    return s_xy, s_yx


def _scores(
    shared: dict[str, Array], rows: Side, columns: Side, same: Bool[Array, "r c"]
) -> tuple[Float[Array, "r c"], Float[Array, "r c"]]:
    (x, *few_x), (y, *few_y) = (list(zip(of.vectors, of.facts)) for of in (rows, columns))
    if few_x:
        s_xy, s_yx = _plain(*x, *few_y[0])[0], _plain(*few_x[0], *y)[1]
    else:
        s_xy, s_yx = _plain(*x, *y)
    return shared["scale"] * s_xy, shared["scale"] * s_yx


def late_info_nce(
    x: Tokens,
    y: Tokens,
    scale: Scalar,
    few: tuple[Tokens, Tokens] | None = None,
    blocks: Blocks | None = None,
) -> tuple[Float[Array, " B"], Float[Array, " B"]]:
    """(FILIP's loss of each pair: half the sum of both directions' InfoNCE on scale * `late_similarity`; the pair's own mean similarity).

    x, y: (tokens, valid), pairs aligned.   few: what the other side looks among, (x's, y's): `select_tokens`; None: all tokens.
    blocks: None keeps all similarities and needs B x B x n x m products at once; with blocks, chunk x chunk x n x m.
    """
    few_x, few_y = few or (x, y)

    def both(x: Tokens, y: Tokens, few_x: Tokens, few_y: Tokens) -> tuple[Array, Array]:
        return (late_similarity(*x, *few_y)[0], late_similarity(*few_x, *y)[1]) if few else late_similarity(*x, *y)

    if blocks is None:
        s_xy, s_yx = both(x, y, few_x, few_y)
        own = 0.5 * (jnp.diagonal(s_xy) + jnp.diagonal(s_yx))
        return symmetric_info_nce_of_logits(scale * s_xy, scale * s_yx.T), own
    sides = [list(zip(all_, few_)) if few else [(part,) for part in all_] for all_, few_ in ((x, few_x), (y, few_y))]
    rows, columns = (side(tokens, facts=valid) for tokens, valid in sides)
    x_to_y, y_to_x = contrast(_scores, Softmax(), {"scale": scale}, rows, columns, blocks)
    one_by_one = jax.tree.map(lambda part: part[:, None], (x, y, few_x, few_y))
    s_xy, s_yx = jax.vmap(both)(*one_by_one)
    return 0.5 * (x_to_y + y_to_x), 0.5 * (s_xy + s_yx)[:, 0, 0]


def select_tokens(
    tokens: Float[Array, "B n D"],
    valid: Bool[Array, "B n"],
    others: Float[Array, "C m D"],
    valid_others: Bool[Array, "C m"],
    keep: int,
    chunk: int | None = None,
) -> tuple[Float[Array, "B k D"], Bool[Array, "B k"]]:
    """The `keep` valid tokens of each row with the best match anywhere in `others` (FILIP, section 3.1: 25 % before communication).

    For training only: a selection by the batch would leak into evaluation. The choice carries no gradient; the tokens do.
    chunk: rows and others compared at a time; None: all with all.
    Raises ConfigError unless 1 <= keep <= n.
    """
    if not 1 <= keep <= tokens.shape[1]:
        raise ConfigError(f"select_tokens: keep is {keep}; it must lie in 1..{tokens.shape[1]}")

    def best_match(rows: Float[Array, "r n D"], others: Float[Array, "c m D"], valid: Bool[Array, "c m"]) -> Array:
        flat = jnp.where(valid.reshape(-1, 1), others.reshape(-1, others.shape[-1]), 0.0)
        s = jnp.einsum("bnd,md->bnm", rows, flat, preferred_element_type=jnp.float32)
        return jnp.max(jnp.where(valid.reshape(-1), s, MASKED), axis=-1)

    fixed, others = jax.lax.stop_gradient((tokens, others))
    if chunk is None:
        best = best_match(fixed, others, valid_others)
    else:
        gallery = in_blocks((others, valid_others), chunk)

        def look(rows: Float[Array, "r n D"]) -> Float[Array, "r n"]:
            nothing = jnp.full(rows.shape[:2], MASKED, jnp.float32)
            return jax.lax.scan(lambda b, of: (jnp.maximum(b, best_match(rows, *of)), None), nothing, gallery)[0]

        best = jax.lax.map(look, in_blocks(fixed, chunk)).reshape(-1, fixed.shape[1])[: len(fixed)]
    _, index = jax.lax.top_k(jnp.where(valid, best, -jnp.inf), keep)
    return jnp.take_along_axis(tokens, index[..., None], axis=1), jnp.take_along_axis(valid, index, axis=1)
