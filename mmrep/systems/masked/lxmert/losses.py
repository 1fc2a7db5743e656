"""LXMERT's masks and losses (Tan and Bansal 2019, section 3.1; sums and means as in the authors' code)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from mmrep.losses.masked import token_loss
from mmrep.losses.reduce import masked_mean
from mmrep.systems.masked.lxmert.model import BOX


def mask_objects(
    rng: PRNGKeyArray, image: Float[Array, "B K D"], valid: Bool[Array, "B K"], rate: float = 0.15
) -> tuple[Float[Array, "B K D"], Bool[Array, "B K"]]:
    """(corrupted, target): each valid object is a target with probability `rate`. Boxes stay.

    Of the targets the feature becomes zero for 80 %, that of a random valid object of the batch for 10 %, and stays for 10 %.
    """
    for_target, for_kind, for_object = jax.random.split(rng, 3)
    target = valid & (jax.random.uniform(for_target, valid.shape) < rate)
    kind = jax.random.uniform(for_kind, valid.shape)[..., None]
    # Without any valid object all are equally likely, and none is a target.
    at = jax.random.categorical(for_object, jnp.where(valid.reshape(-1), 0.0, -1e9), shape=valid.shape)
    features, box = image[..., :-BOX], image[..., -BOX:]
    other = features.reshape(-1, features.shape[-1])[at]
    corrupted = jnp.where(kind < 0.8, 0.0, jnp.where(kind < 0.9, other, features))
    return jnp.concatenate([jnp.where(target[..., None], corrupted, features), box], axis=-1), target


def smooth_l1(predicted: Float[Array, "B K D"], target: Float[Array, "B K D"]) -> Float[Array, "B K"]:
    """Mean over the numbers of an object: half the square of an error below 1, else the error minus a half."""
    error = jnp.abs(predicted.astype(jnp.float32) - target.astype(jnp.float32))
    return jnp.where(error < 1, 0.5 * error**2, error - 0.5).mean(-1)


def object_loss(
    values: Float[Array, "B K"], weight: Float[Array, "B K"], valid: Bool[Array, "B K"], rate: float = 0.15
) -> Float[Array, ""]:
    """The weighted values' mean over all valid objects, masked or not, divided by the masking rate."""
    return masked_mean(values * weight, valid) / rate


def word_loss(logits: Float[Array, "B L V"], ids: Int[Array, "B L"], target: Bool[Array, "B L"]) -> Float[Array, ""]:
    """Mean cross-entropy of the masked words; 0 where none is."""
    return masked_mean(token_loss(logits, ids, target), target)


def choice_loss(logits: Float[Array, "B C"], choice: Int[Array, " B"], counts: Bool[Array, " B"]) -> Float[Array, ""]:
    """Mean cross-entropy of rows that count (matching: all; answers: matched questions with an answer); 0 where none does."""
    return masked_mean(token_loss(logits[:, None], choice[:, None], counts[:, None])[:, 0], counts)
