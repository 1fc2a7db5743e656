"""UniEmoX's fusion of scene and person, and its losses against a frozen teacher (reconstructed: the authors' files are empty)."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from mmrep.losses.contrastive import similarity
from mmrep.losses.masked import normalise_patches, patch_mse
from mmrep.losses.reduce import masked_mean
from mmrep.nn.heads import l2_normalise


class AttentionFusion(nn.Module):
    """sum_m a_m c_m with a = softmax_m(w^T tanh(W c_m)): one vector of a scene's and a person's."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, parts: Float[Array, "B M D"]) -> Float[Array, "B D"]:
        hidden = jnp.tanh(nn.Dense(parts.shape[-1], dtype=self.dtype, name="hidden")(parts))
        weights = jax.nn.softmax(nn.Dense(1, use_bias=False, dtype=self.dtype, name="weight")(hidden), axis=1)
        return (weights * parts).sum(1)


def mae_loss(
    predicted: Float[Array, "B N P"], patches: Float[Array, "B N P"], hidden: Bool[Array, "B N"]
) -> Float[Array, " B"]:
    """Mean squared error over the hidden patches, whose targets have mean 0 and variance 1 each (MAE)."""
    return masked_mean(patch_mse(predicted, normalise_patches(patches)), hidden, axis=1)


def alignment_loss(f: Float[Array, "B D"], g: Float[Array, "B D"]) -> Float[Array, " B"]:
    """1 - cosine of the fused vector and the teacher's of the same picture."""
    return 1 - (l2_normalise(f) * l2_normalise(g)).sum(-1)


def structure_loss(
    f: Float[Array, "B D"],
    g: Float[Array, "B D"],
    texts: Float[Array, "B D"],
    temperature: float,
    teacher_texts: Float[Array, "B D"] | None = None,
) -> Float[Array, " B"]:
    """KL(softmax(S_t) || softmax(S_s)) of rows and of columns, averaged: the similarities of the fused vectors to paired and unpaired texts
    equal the teacher's.

    teacher_texts: other texts of the teacher's similarities (a control).
    """
    f, g, texts = l2_normalise(f), l2_normalise(g), l2_normalise(texts)
    student = similarity(f, texts) / temperature
    teacher = similarity(g, texts if teacher_texts is None else l2_normalise(teacher_texts)) / temperature

    def one_way(s: Array, t: Array) -> Float[Array, " B"]:
        return optax.losses.kl_divergence_with_log_targets(jax.nn.log_softmax(s), jax.nn.log_softmax(t))

    return 0.5 * (one_way(student, teacher) + one_way(student.T, teacher.T))
