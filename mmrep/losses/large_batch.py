"""Contrastive batches larger than memory: how the pairs are compared, and how the encoders run."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from mmrep.errors import ConfigError, near
from mmrep.losses.blocks import Blocks

LOSSES = ("plain", "chunked", "ring")


@dataclass(frozen=True)
class LargeBatch:
    """What may be alive at once. Beyond rounding, no loss and no gradient depends on it.

    loss:  plain: all pairs at once, B^2 scores.   chunked: block by block, each computed anew in the backward pass, on one device.
           ring: the same over the devices of the mesh axis "data": each keeps its rows, the other side goes round.
    chunk: rows and columns of a block; None leaves it to the system.
    micro_batches: the encoders run on this many parts of the batch in turn and again in the backward pass, while the loss sees all of
           the batch (a gradient cache; `train.accumulate` also splits the loss).
    """

    loss: str = "plain"
    chunk: int | None = None
    micro_batches: int = 1

    def check(self) -> None:
        if self.loss not in LOSSES:
            raise ConfigError(f"system.large_batch.loss is {self.loss!r}{near(self.loss, LOSSES)}")
        if self.chunk is not None and self.chunk < 1:
            raise ConfigError(f"system.large_batch.chunk is {self.chunk}: a block has at least one row")
        if self.micro_batches < 1:
            raise ConfigError(f"system.large_batch.micro_batches is {self.micro_batches}: give 1 or more")

    def blocks(self, chunk: int = 1024) -> Blocks | None:
        """What the losses take; None is the plain loss. `chunk` holds where the config names none."""
        if self.loss == "plain":
            return None
        return Blocks(self.chunk or chunk, "data" if self.loss == "ring" else None)


def in_micro_batches(f: Callable[..., Any], batch: Any, parts: int, rng: Any = None) -> Any:
    """f(batch), or f(batch, rng), in `parts` micro-batches: the same rows, with the activations of one micro-batch alive at a time.

    The gradient cache of Gao et al. 2021 (arXiv 2101.06983): whatever loss follows sees the rows of the whole batch; the backward pass
    takes its gradient with respect to each row through `f` once more, micro-batch by micro-batch. Exact.
    f: tree of [b, ...] -> tree of [b, ...], no row depending on another. With `rng` each micro-batch has its own key, the same both times.
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
    of = (micro,) if rng is None else (micro, jax.random.split(rng, parts))
    again = jax.checkpoint(f, prevent_cse=False)  # inside a loop there is nothing to merge it with
    found = jax.lax.map(lambda part: again(*part), of)
    return merge_rows(found)


def split_rows(tree: Any, parts: int) -> Any:
    """Every leaf [B, ...] as [parts, B / parts, ...]; part j takes the rows j, j + parts, j + 2 parts, ...

    Strided, so that where rows are sharded every device holds its share of every part: contiguous parts would move the batch.
    """
    return jax.tree.map(lambda x: x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1), tree)


def merge_rows(tree: Any) -> Any:
    """The inverse of `split_rows`."""
    return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), tree)
