"""Mod-X's distillation of similarity matrices, and the two it is compared with; no gradient reaches the teacher (Ni et al. 2023)."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from mmrep.losses.blocks import Blocks, Distilled, Side, contrast, side
from mmrep.losses.contrastive import Scalar, similarity

Pair = tuple[Float[Array, "B D"], Float[Array, "B D"]]
"""Unit image and text embeddings of one batch."""

TOLERANCE = 1e-6


def kl_divergence(
    teacher: Float[Array, "*b N"], student: Float[Array, "*b N"], temperature: Scalar = 1.0
) -> Float[Array, "*b"]:
    """KL(softmax(teacher / T) || softmax(student / T)) of each row, in float32.

    Multiply by T^2 for a gradient whose size does not depend on T (Hinton et al. 2015).
    """
    log_p, log_q = (
        jax.nn.log_softmax(x.astype(jnp.float32) / temperature) for x in (jax.lax.stop_gradient(teacher), student)
    )
    return optax.losses.kl_divergence_with_log_targets(log_q, log_p)


def right_rows(similarities: Float[Array, "B B"], tolerance: float = TOLERANCE) -> Bool[Array, " B"]:
    """Rows whose diagonal entry is the largest, by value, so that a row with duplicate columns is right."""
    similarities = similarities.astype(jnp.float32)
    return jnp.diagonal(similarities) >= similarities.max(-1) - tolerance


def similarity_distillation(
    teacher: Float[Array, "B B"], student: Float[Array, "B B"], temperature: Scalar = 1.0, screen: bool = True
) -> Float[Array, " B"]:
    """Half of KL(teacher's row || student's row) plus the same of column i (equations 5 to 7).

    teacher, student: similarity matrices of one batch; Mod-X takes raw cosines, temperature 1, and the SUM of the values.
    screen: rows, and separately columns, in which the teacher does not rank the true pair first are 0 ("cognition align").
    """
    teacher = jax.lax.stop_gradient(teacher)

    def of_rows(old: Float[Array, "B B"], new: Float[Array, "B B"]) -> Float[Array, " B"]:
        values = kl_divergence(old, new, temperature)
        return jnp.where(right_rows(old), values, 0.0) if screen else values

    return 0.5 * (of_rows(teacher, student) + of_rows(teacher.T, student.T))


def modx_loss(
    teacher: Pair, student: Pair, temperature: Scalar = 1.0, screen: bool = True, blocks: Blocks | None = None
) -> tuple[Float[Array, " B"], Float[Array, ""]]:
    """(`similarity_distillation` of the two models' cosines; the share of rows and columns in which the teacher is right).

    blocks: None keeps both similarity matrices.
    """
    teacher = jax.lax.stop_gradient(teacher)
    if blocks is None:
        old, new = similarity(*teacher), similarity(*student)
        share = [right_rows(m).mean(dtype=jnp.float32) for m in (old, old.T)]
        return similarity_distillation(old, new, temperature, screen), 0.5 * (share[0] + share[1])

    def student_scores(shared: Any, rows: Side, columns: Side, own: Array) -> tuple[Array, Array]:
        s = similarity(rows.vectors, columns.vectors) / temperature
        return s, s

    def teacher_scores(shared: Any, rows: Side, columns: Side, own: Array) -> tuple[Array, Array]:
        s = similarity(rows.aux, columns.aux) / temperature
        return s, s

    rows, columns = (side(new, aux=old) for new, old in zip(student, teacher))
    found = contrast(student_scores, Distilled(), (), rows, columns, blocks, targets=teacher_scores)
    right = [of["own"] >= of["max"] - TOLERANCE / temperature for of in found]
    values = [jnp.where(r, of["kl"], 0.0) if screen else of["kl"] for r, of in zip(right, found)]
    return 0.5 * (values[0] + values[1]), 0.5 * sum(r.mean(dtype=jnp.float32) for r in right)


def feature_distillation(teacher: Float[Array, "*b D"], student: Float[Array, "*b D"]) -> Float[Array, "*b"]:
    """1 - cosine of each row, in [0, 2] (as in LwF); a zero vector has cosine 0."""
    t, s = jax.lax.stop_gradient(teacher).astype(jnp.float32), student.astype(jnp.float32)
    return optax.losses.cosine_distance(s, t, epsilon=1e-12)


def diagonal_distillation(teacher: Pair, student: Pair) -> Float[Array, " B"]:
    """Squared difference of the true pairs' cosines: Mod-X without the off-diagonal."""
    old, new = (jnp.sum(x.astype(jnp.float32) * y, -1) for x, y in (jax.lax.stop_gradient(teacher), student))
    return optax.losses.squared_error(new, old)
