"""Between a batch and the ids of token streams, where tokens need no training; and the patches of streams of pixels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mmrep.modality import FIRST_PIECE, PAD
from mmrep.nn.patches import patchify
from mmrep.nn.quantise import patch_ids, patch_majority, patch_values
from mmrep.system import Batch
from mmrep.systems.masked.fourm.masking import Stream


@dataclass(frozen=True)
class Levels:
    """Tokens without training. A map becomes ids by the mean of each patch, rounded to so many levels a channel; a vector by each value.

    low, high: the range of the numbers, [0, 1] of an image; what lies outside counts as its end.
    """

    name: str
    levels: tuple[int, ...]
    low: float = field(default=0.0, metadata={"since": 2})
    high: float = field(default=1.0, metadata={"since": 2})

    def ids(self, x: Array, grid: tuple[int, int]) -> Int[Array, "B N"]:
        """Of a map [B, H, W, C] or of vectors [B, N]."""
        x = (jnp.asarray(x, jnp.float32) - self.low) / (self.high - self.low)
        if x.ndim == 2:
            return patch_ids(x[:, None, :, None], (1, x.shape[1]), self.levels).reshape(len(x), -1)
        return patch_ids(x, grid, self.levels).reshape(len(x), -1)

    def values(self, ids: Int[Array | np.ndarray, "B R C"]) -> Float[Array, "B R C K"]:
        """The middle of what `ids` stand for, in the range of the numbers."""
        return patch_values(jnp.asarray(ids), self.levels) * (self.high - self.low) + self.low


def tokenise(streams: Sequence[Stream], levels: Sequence[Levels], batch: Batch) -> dict[str, Int[Array, "B N"]]:
    """Ids of the streams that the batch holds, images in reading order; of pixels and vectors, which one stands where."""
    by_name = {x.name: x for x in levels}
    found = {}
    for s in streams:
        if s.name in batch:
            x = jnp.asarray(batch[s.name])
            if s.vectors:
                # Embeddings behind the last are zeros.
                x = jnp.where((x != 0).any(-1), FIRST_PIECE + jnp.arange(s.length, dtype=jnp.int32), PAD)
            elif s.patch:
                x = jnp.broadcast_to(jnp.arange(s.size, dtype=jnp.int32), (len(x), s.size))
            elif s.name in by_name:
                x = by_name[s.name].ids(x, s.grid)
            elif not s.length:
                x = x if x.ndim == 2 else patch_majority(x, s.grid, s.vocab)
                x = x.reshape(len(x), -1)
            found[s.name] = x
    return found


def detokenise(streams: Sequence[Stream], levels: Sequence[Levels], ids: Mapping[str, Any]) -> dict[str, Array]:
    """Image ids [B, N] as what they stand for: numbers [B, R, C, K], a patch a pixel, or class ids [B, R, C]. Texts are left out."""
    by_name = {x.name: x for x in levels}
    found = {}
    for s in streams:
        if s.name in ids and not s.length and not s.patch:
            grid = jnp.asarray(ids[s.name]).reshape(-1, *s.grid)
            found[s.name] = by_name[s.name].values(grid) if s.name in by_name else grid
    return found


def patches(streams: Sequence[Stream], batch: Batch) -> dict[str, Float[Array, "B N P"]]:
    """The patches of the pixel streams that the batch holds, in [-1, 1], and its vectors as they are."""
    held = [s for s in streams if s.only_input and s.name in batch]
    read = {s.name: jnp.asarray(batch[s.name]) for s in held}
    return {s.name: patchify(read[s.name] * 2 - 1, s.patch) if s.patch else read[s.name] for s in held}
