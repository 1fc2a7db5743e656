"""Contrastive batches larger than memory: block-wise losses and micro-batched encoders."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from mmrep.errors import ConfigError, near
from mmrep.losses.blocks import Blocks

LOSSES = ("plain", "chunked", "ring")


@dataclass(frozen=True)
class LargeBatch:
    """How much of a contrastive batch is in memory at once. Loss and gradient depend on it by rounding alone.

    loss:  plain: all pairs at once, B^2 scores.   chunked: block by block on one device, recomputed in the backward pass.
           ring: the same over the devices of the mesh axis "data": each keeps its rows and passes the other side's on.
    chunk: rows and columns of a block; None: the system's own number.
    micro_batches: the encoders process the batch in this many parts, and again in the backward pass, while the loss covers the whole
           batch (a gradient cache; `train.accumulate` splits the loss as well).
    """

    loss: str = "plain"
    chunk: int | None = None
    micro_batches: int = 1

    def check(self) -> None:
        """Raises ConfigError for a value that cannot work."""
        if self.loss not in LOSSES:
            raise ConfigError(f"system.large_batch.loss is {self.loss!r}{near(self.loss, LOSSES)}")
        if self.chunk is not None and self.chunk < 1:
            raise ConfigError(f"system.large_batch.chunk is {self.chunk}: a block has at least one row")
        if self.micro_batches < 1:
            raise ConfigError(f"system.large_batch.micro_batches is {self.micro_batches}: give 1 or more")

    def blocks(self, chunk: int = 1024) -> Blocks | None:
        """The `blocks` argument of a loss, None for the plain one. `chunk` applies where the config has none."""
        if self.loss == "plain":
            return None
        return Blocks(self.chunk or chunk, "data" if self.loss == "ring" else None)


def in_micro_batches(f: Callable[..., Any], batch: Any, parts: int, rng: Any = None) -> Any:
    """f(batch), or f(batch, rng), in `parts` micro-batches: the same rows, with the activations of one micro-batch in memory at a time.

    The gradient cache of Gao et al. 2021 (arXiv 2101.06983): the loss that follows covers the rows of the whole batch; the backward pass
    runs `f` once more on each micro-batch. Exact.
    f: tree of [b, ...] -> tree of [b, ...]; no row may depend on another. With `rng` each micro-batch has a key, the same both times.
    Raises ConfigError where the batch does not divide.
    """
    if parts == 1:
        return f(batch) if rng is None else f(batch, rng)
    size = jax.tree.leaves(batch)[0].shape[0]
    if size % parts:
        raise ConfigError(
            f"data.batch_size {size} does not divide into system.large_batch.micro_batches {parts} equal parts"
        )
    micro = split_rows(batch, parts)
    args = (micro,) if rng is None else (micro, jax.random.split(rng, parts))
    remat = jax.checkpoint(f, prevent_cse=False)  # inside a loop there is nothing to merge it with
    return merge_rows(jax.lax.map(lambda part: remat(*part), args))


def split_rows(tree: Any, parts: int) -> Any:
    """Every leaf [B, ...] as [parts, B / parts, ...]; part j has the rows j, j + parts, j + 2 parts, ...

    Strided, so that every device holds its share of every part where rows are sharded: contiguous parts would move the batch.
    """
    return jax.tree.map(lambda x: x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1), tree)


def merge_rows(tree: Any) -> Any:
    """The inverse of `split_rows`."""
    return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), tree)
