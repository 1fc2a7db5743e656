"""Spans of time as (start, end) with start < end, in any unit: overlaps, the grid of proposals, non-maximum suppression."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mmrep.errors import ConfigError

Spans = Float[Array | np.ndarray, "... 2"]


def to_ends(spans: Float[Array, "... 2"]) -> Float[Array, "... 2"]:
    """(centre, width) as (start, end)."""
    centre, half = spans[..., 0], 0.5 * spans[..., 1]
    return jnp.stack([centre - half, centre + half], -1)


def to_centre_width(spans: Float[Array, "... 2"]) -> Float[Array, "... 2"]:
    """(start, end) as (centre, width)."""
    return jnp.stack([0.5 * (spans[..., 0] + spans[..., 1]), spans[..., 1] - spans[..., 0]], -1)


def _overlap(a: Spans, b: Spans) -> tuple[Any, Any, Any]:
    shared = jnp.maximum(jnp.minimum(a[..., 1], b[..., 1]) - jnp.maximum(a[..., 0], b[..., 0]), 0.0)
    union = (a[..., 1] - a[..., 0]) + (b[..., 1] - b[..., 0]) - shared
    hull = jnp.maximum(a[..., 1], b[..., 1]) - jnp.minimum(a[..., 0], b[..., 0])
    return shared, union, hull


def iou(a: Spans, b: Spans) -> Float[Array, "..."]:
    """Intersection over union of spans, element by element (leading axes broadcast): `iou(a[:, None], b)` is the table of all pairs.

    Two spans without length have 0.
    """
    shared, union, _ = _overlap(a, b)
    return jnp.where(union > 0, shared / jnp.where(union > 0, union, 1.0), 0.0)


def generalised_iou(a: Spans, b: Spans) -> Float[Array, "..."]:
    """IoU minus the share of the common hull that neither span covers, in [-1, 1] (Rezatofighi et al. 2019, in one dimension)."""
    _, union, hull = _overlap(a, b)
    gap = jnp.where(hull > 0, (hull - union) / jnp.where(hull > 0, hull, 1.0), 0.0)
    return iou(a, b) - gap


def proposals(clips: int, counts: Sequence[int] = ()) -> Int[np.ndarray, "P 2"]:
    """First and last clip (inclusive) of the proposals of a sparse 2-D map (Zhang et al. 2020, 2D-TAN), sorted by first clip.

    counts: level k adds counts[k] lengths in steps of 2^k clips, starting at multiples of 2^k: (16, 8, 8) of 64 clips are strides 1, 2, 4.
    Empty: all of them. Proposal (i, j) is the span (i, j + 1) in clips.
    Raises ConfigError where clips or a count is below 1.
    """
    if clips < 1 or any(n < 1 for n in counts):
        raise ConfigError(f"proposals: clips is {clips} and counts {tuple(counts)}; they must be at least 1")
    found, length = set(), 0
    for k, n in enumerate(counts or (clips,)):
        stride = 2**k
        for _ in range(n):
            length += stride
            found |= {(i, i + length - 1) for i in range(0, clips - length + 1, stride)}
    return np.array(sorted(found), np.int32)


def nms(
    spans: Float[Array, "P 2"], scores: Float[Array, " P"], threshold: float = 0.5, keep: int = 5
) -> tuple[Int[Array, " K"], Bool[Array, " K"]]:
    """Indices of the `keep` best spans, none of which overlaps a better one by more than `threshold`, and which of them exist.

    Fixed shapes: it runs under jit and vmap. An index that does not exist is 0.
    """
    table = iou(spans[:, None], spans[None])

    def step(left: Bool[Array, " P"], _: None) -> tuple[Bool[Array, " P"], tuple[Array, Array]]:
        best = jnp.argmax(jnp.where(left, scores, -jnp.inf))
        found = left.any()
        left = left & (table[best] <= threshold) & (jnp.arange(len(scores)) != best)
        return left, (jnp.where(found, best, 0), found)

    return jax.lax.scan(step, jnp.ones(len(scores), bool), None, length=keep)[1]
