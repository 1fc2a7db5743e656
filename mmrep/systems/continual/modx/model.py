"""Distillation from a teacher: of distributions, of similarity matrices, of features. No gradient flows into the teacher."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mmrep.losses.contrastive import MASKED, Scalar


def _log_softmax(logits: Float[Array, "*b N"], temperature: Scalar, where: Bool[Array, "*b N"] | None) -> Array:
    logits = logits.astype(jnp.float32) / temperature
    return jax.nn.log_softmax(logits if where is None else jnp.where(where, logits, MASKED), axis=-1)


def kl(
    teacher_logits: Float[Array, "*b N"],
    student_logits: Float[Array, "*b N"],
    temperature: Scalar = 1.0,
    where: Bool[Array, "*b N"] | None = None,
) -> Float[Array, "*b"]:
    """KL(softmax(teacher / T) || softmax(student / T)) of each row, over the columns kept by `where`; 0 where none is kept.

    Multiply by T^2 to keep the gradient's size over temperatures (Hinton et al. 2015).
    """
    log_p = _log_softmax(jax.lax.stop_gradient(teacher_logits), temperature, where)
    log_q = _log_softmax(student_logits, temperature, where)
    terms = jnp.exp(log_p) * (log_p - log_q)
    return jnp.sum(terms if where is None else jnp.where(where, terms, 0.0), axis=-1)


def soft_cross_entropy(
    teacher_logits: Float[Array, "*b N"],
    student_logits: Float[Array, "*b N"],
    teacher_temperature: Scalar = 1.0,
    student_temperature: Scalar = 1.0,
    where: Bool[Array, "*b N"] | None = None,
) -> Float[Array, "*b"]:
    """-sum softmax(teacher / T_t) log softmax(student / T_s) of each row, over the columns kept by `where`."""
    p = jnp.exp(_log_softmax(jax.lax.stop_gradient(teacher_logits), teacher_temperature, where))
    terms = -p * _log_softmax(student_logits, student_temperature, where)
    return jnp.sum(terms if where is None else jnp.where(where, terms, 0.0), axis=-1)


def right_rows(similarities: Float[Array, "B B"], tolerance: float = 1e-6) -> Bool[Array, " B"]:
    """Rows whose diagonal entry is the largest, compared by value, so that duplicate columns leave a row right."""
    similarities = similarities.astype(jnp.float32)
    return jnp.diagonal(similarities) >= similarities.max(-1) - tolerance


def similarity_distillation(
    teacher: Float[Array, "B B"],
    student: Float[Array, "B B"],
    temperature: Scalar = 1.0,
    screen: bool = True,
) -> Float[Array, " B"]:
    """Half of KL(teacher row || student row) plus the same of column i (Ni et al. 2023, Mod-X, equations 5 to 7).

    teacher, student: similarity matrices of one batch; Mod-X takes raw cosines, temperature 1, and the SUM of the values.
    `screen` drops the rows, and separately the columns, on which the teacher does not rank the true pair first (0 loss).
    """
    teacher = jax.lax.stop_gradient(teacher)

    def side(old: Float[Array, "B B"], new: Float[Array, "B B"]) -> Float[Array, " B"]:
        values = kl(old, new, temperature)
        return jnp.where(right_rows(old), values, 0.0) if screen else values

    return 0.5 * (side(teacher, student) + side(teacher.T, student.T))


def cosine_distillation(
    teacher: Float[Array, "*b D"], student: Float[Array, "*b D"], eps: float = 1e-6
) -> Float[Array, "*b"]:
    """1 - cosine of each row, in [0, 2]; a zero vector has cosine 0."""
    t, s = jax.lax.stop_gradient(teacher).astype(jnp.float32), student.astype(jnp.float32)
    squares = jnp.maximum(jnp.sum(t * t, -1), eps * eps), jnp.maximum(jnp.sum(s * s, -1), eps * eps)
    return 1.0 - jnp.sum(t * s, -1) * jax.lax.rsqrt(squares[0]) * jax.lax.rsqrt(squares[1])


def mse_distillation(teacher: Float[Array, "*b D"], student: Float[Array, "*b D"]) -> Float[Array, "*b"]:
    """Mean over features of the squared difference."""
    difference = jax.lax.stop_gradient(teacher).astype(jnp.float32) - student.astype(jnp.float32)
    return jnp.mean(difference * difference, axis=-1)
