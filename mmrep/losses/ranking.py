"""Hinge losses over a square matrix of scores whose diagonal holds the true pairs: rows are queries of one side, columns of the other.

As in `mmrep.losses.contrastive` the matrix is that of the whole batch, and values are unreduced, in float32.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

Square = Float[Array, "B B"]
Flag = bool | Bool[Array, ""]


def over_negatives(
    rows: Square, columns: Square, hardest: Flag = True, ids: Int[Array, " B"] | None = None
) -> tuple[Float[Array, " B"], Float[Array, " B"]]:
    """(of each row of `rows`, of each column of `columns`): the largest cost of a negative, at least 0, or the sum over all of them.

    hardest: largest or sum; a traced flag may change in training (sums first, since the hardest negative of an untrained model can collapse).
    ids:     pairs that share an id are no negatives of each other. The diagonal never is one.
    """
    own = jnp.eye(len(rows), dtype=bool) if ids is None else ids[:, None] == ids[None, :]
    rows, columns = (jnp.where(own, 0.0, c.astype(jnp.float32)) for c in (rows, columns))
    if isinstance(hardest, bool):
        return (rows.max(1), columns.max(0)) if hardest else (rows.sum(1), columns.sum(0))
    return jnp.where(hardest, rows.max(1), rows.sum(1)), jnp.where(hardest, columns.max(0), columns.sum(0))


def hinge(
    scores: Square, margin: float | Float[Array, ""], hardest: Flag = True, ids: Int[Array, " B"] | None = None
) -> tuple[Float[Array, " B"], Float[Array, " B"]]:
    """[margin + s_ij - s_ii]_+ over a row's negatives and [margin + s_ij - s_jj]_+ over a column's, see `over_negatives`.

    `hardest` is VSE++ (Faghri et al. 2018, equation 6), the sum is VSE (Kiros et al. 2014).
    """
    scores = scores.astype(jnp.float32)
    true = jnp.diagonal(scores)
    rows, columns = (jnp.maximum(margin + scores - t, 0.0) for t in (true[:, None], true[None, :]))
    return over_negatives(rows, columns, hardest, ids)


def hinge_rows(
    scores: Square, margin: float | Float[Array, ""], ids: Int[Array, " B"] | None = None
) -> Float[Array, " B"]:
    """1/B sum_j [margin + s_ij - s_ii]_+ over a row's negatives (eSSPR; grounded sentences average rows and columns)."""
    return hinge(scores, margin, False, ids)[0] / len(scores)
