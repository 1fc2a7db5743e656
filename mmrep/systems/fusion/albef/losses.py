"""ALBEF's three losses: contrast (ITC), matching (ITM) and masked language modelling (MLM) (Li et al. 2021, section 3)."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mmrep.errors import ConfigError
from mmrep.losses.blocks import Blocks, Distilled, Side, contrast, ring_size, side
from mmrep.losses.contrastive import Scalar, info_nce, same_id, similarity, targets_from_positives
from mmrep.systems.fusion.albef.model import Encoded

Features = tuple[Float[Array, "B D"], Float[Array, "B D"]]
"""Unit image and text features of one batch."""


def itc_loss(
    student: Features,
    teacher: Features,
    scale: Scalar,
    alpha: Scalar,
    ids: Int[Array, " B"] | None = None,
    queue: Mapping[str, Array] | None = None,
    blocks: Blocks | None = None,
) -> Float[Array, " B"]:
    """L_itc of each pair with momentum distillation (equations 2 and 6): student features against the teacher's keys, both ways.

    scale: 1 / temperature.   alpha: weight of the teacher's distribution in the targets.
    ids:   rows, and entries of the queue, of equal id are positives; None: the pair alone.
    queue: {"image": [Q, D], "text": [Q, D], with ids also "id": [Q]}, keys of earlier batches.   blocks: None: all scores at once.
    """
    queue = {} if queue is None else queue

    def one_way(own: Array, momentum: Array, new: Array, stored: Array | None) -> Array:
        keys = new if stored is None else jnp.concatenate([new, stored])
        if blocks is None:
            positives = jnp.eye(len(own), len(keys), dtype=bool)
            if ids is not None:
                positives = same_id(ids, ids if stored is None else jnp.concatenate([ids, queue["id"]]))
            targets = soft_targets(positives, scale * similarity(momentum, keys), alpha)
            return info_nce(scale * similarity(own, keys), targets=targets)
        rows, columns = side(own, ids, momentum), _key_columns(new, stored, ids, queue.get("id"), blocks)
        found, _ = contrast(
            lambda shared, row, key, own: (shared["scale"] * similarity(row.vectors, key.aux), None),
            Distilled(), {"scale": scale}, rows, columns, blocks, both=False, multi_positive=ids is not None,
            targets=lambda shared, row, key, own: (shared["scale"] * similarity(row.aux, key.aux), None),
        )  # fmt: skip
        return (1 - alpha) * found["hard"] + alpha * (found["kl"] + found["entropy"])

    (f, g), (f_m, g_m) = student, jax.lax.stop_gradient(teacher)
    return 0.5 * (one_way(f, f_m, g_m, queue.get("text")) + one_way(g, g_m, f_m, queue.get("image")))


def _key_columns(new: Array, stored: Array | None, ids: Array | None, queue_ids: Array | None, blocks: Blocks) -> Side:
    """The teacher's keys as columns without gradient: on a ring every device holds its own rows' and its share of the queue."""
    index = jnp.arange(len(new), dtype=jnp.int32)
    new_columns = side((), index if ids is None else ids, new, index)
    if stored is None or not len(stored):
        return new_columns
    later = len(new) + jnp.arange(len(stored), dtype=jnp.int32)
    stored_columns = side((), later if queue_ids is None else queue_ids, stored, later)
    devices = 1 if blocks.axis is None else ring_size(blocks.axis)
    if len(new) % devices or len(stored) % devices:
        raise ConfigError(
            f"data.batch_size {len(new)} and system.queue {len(stored)} do not divide over the {devices} devices of a ring"
        )

    def both(x: Array, y: Array) -> Array:
        parts = [v.reshape(devices, -1, *v.shape[1:]) for v in (x, y)]
        return jnp.concatenate(parts, axis=1).reshape(-1, *x.shape[1:])

    return jax.tree.map(both, new_columns, stored_columns)


def soft_targets(
    positives: Bool[Array, "B N"], teacher_logits: Float[Array, "B N"], alpha: Scalar
) -> Float[Array, "B N"]:
    """alpha softmax(teacher_logits) + (1 - alpha) * (positives, in equal shares): the targets of equation 6, without gradient."""
    soft = jax.nn.softmax(jax.lax.stop_gradient(teacher_logits), axis=-1)
    return alpha * soft + (1 - alpha) * targets_from_positives(positives)


def enqueue(queue: Any, pointer: Int[Array, ""], new: Any) -> Array:
    """The rows `new` [B, ...] in place of the oldest of `queue` [Q, ...], from `pointer` on and around its end; Q = 0 stores nothing."""
    size, rows = queue.shape[0], new.shape[0]
    return queue.at[(pointer + jnp.arange(rows)) % size].set(new) if size else queue


def itm_pairs(
    encoded: Encoded, negative_image_idx: Int[Array, " B"], negative_text_idx: Int[Array, " B"]
) -> tuple[tuple[Array, Array, Array], Bool[Array, " N"]]:
    """((text tokens, text mask, image tokens), is_match) of 3B pairs: the true ones, each text with a wrong image, each image with a wrong text."""
    tokens, valid, pixels = encoded.text_tokens, encoded.text_valid, encoded.image_tokens
    pairs = (
        jnp.concatenate([tokens, tokens, tokens[negative_text_idx]]),
        jnp.concatenate([valid, valid, valid[negative_text_idx]]),
        jnp.concatenate([pixels, pixels[negative_image_idx], pixels]),
    )
    return pairs, jnp.arange(3 * len(tokens)) < len(tokens)


def mlm_loss(
    logits: Float[Array, "*batch L V"],
    labels: Int[Array, "*batch L"],
    target: Bool[Array, "*batch L"],
    soft: Float[Array, "*batch L V"] | None = None,
    alpha: Scalar = 0.0,
) -> Float[Array, "*batch L"]:
    """L_mlm of each token (equations 3 and 7): (1 - alpha) * cross-entropy against labels + alpha * against `soft`; 0 off target.

    labels: the unmasked ids.   soft: the teacher's probabilities, without gradient.
    Reduce with `masked_mean(values, target)`, the mean over all targets of the batch: 0 where nothing is masked.
    """
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    # Off target the label may be anything, also out of range.
    safe = jnp.where(target, labels, 0)
    values = -jnp.take_along_axis(log_p, safe[..., None], axis=-1)[..., 0]
    if soft is not None:
        teacher = jax.lax.stop_gradient(soft).astype(jnp.float32)
        values = (1.0 - alpha) * values - alpha * jnp.sum(teacher * log_p, axis=-1)
    return jnp.where(target, values, 0.0)
