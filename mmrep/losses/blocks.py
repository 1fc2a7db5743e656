"""Losses over all pairs of a batch, block by block: memory grows with the batch, not with its square.

A contrast is a grid: rows are one side, columns the other, every cell a score. What a loss needs of a row (or column) are a few running
totals; what its gradient needs are the same totals and the cell again. So the grid is walked twice, block by block: once for the totals,
once, in the backward pass, to compute each block anew and send its slope on. Nothing of the size of the grid is ever kept.

The columns may travel between walks. On a ring of devices each keeps its rows, while columns, their totals and gradients go round
until they are home again: the ring attention of Liu et al. 2023 (arXiv 2310.01889), for contrastive losses Cheng et al. 2024 (Inf-CL,
arXiv 2410.17243), here with both directions of the loss from one walk.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mmrep.errors import ConfigError

# A finite stand-in for -inf: an all-masked row stays finite, in value and in gradient.
MASKED = -1e30


@dataclass(frozen=True)
class Blocks:
    """chunk: rows and columns of a block (alive at once: chunk x chunk scores).

    axis: mesh axis that rows and columns are sharded over, walked as a ring inside the mesh of `jax.set_mesh`. None walks the batch as one,
    which on several devices means that each of them walks all of it.
    """

    chunk: int = 1024
    axis: str | None = None


class Side(NamedTuple):
    """The rows or the columns of a contrast, [B, ...] throughout.

    vectors: tree of floats, what gradients flow into.   facts: tree of anything else that scores read.
    place:   int32, 0..B-1; -1 is padding.   ids: int32; equal ids in different places are no negatives.
    """

    vectors: Any
    place: Array
    ids: Array
    facts: Any = None


# (shared, rows, columns, same [r,c]: is it the row's own column) -> float32 scores [r,c] as rows and as columns see them; None: no such loss.
Scores = Callable[[Any, Side, Side, Array], tuple[Array, Array | None]]
# (number of the walk, (columns, what else is known of each), what is gathered for each) -> both moved on; home after the last walk.
Travel = Callable[[Array, tuple[Any, ...], Any], tuple[Any, Any]]


def side(vectors: Any, ids: Int[Array, " B"] | None = None, facts: Any = None) -> Side:
    place = jnp.arange(jax.tree.leaves(vectors)[0].shape[0], dtype=jnp.int32)
    return Side(vectors, place, place if ids is None else ids, facts)


def _some(x: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """`x`, or 1 where a row of padding has none. A maximum with 1 would bias denominators that rounding took below 1."""
    return jnp.where(x > 0, x, 1.0)


@dataclass(frozen=True)
class Softmax:
    """lse_i - sum_j t_ij s_ij: the cross-entropy of `contrastive.info_nce`; every row has a positive."""

    smoothing: float = 0.0

    def start(self, like: Int[Array, " *b"]) -> dict[str, Array]:
        """The top score so far, the denominator relative to it, number and sum of the positive and, if read, of all kept scores."""
        zero = jnp.zeros_like(like, jnp.float32)
        names = ("mass", "hits", "hit_sum", "kept", "kept_sum")
        return {"top": zero + MASKED} | {k: zero for k in (names if self.smoothing else names[:3])}

    def fold(self, totals: dict[str, Array], s: Array, positive: Array, kept: Array, axis: int) -> dict[str, Array]:
        top = jnp.maximum(totals["top"], jnp.where(kept, s, MASKED).max(axis))
        exp = jnp.where(kept, jnp.exp(s - jnp.expand_dims(top, axis)), 0.0)
        new = {"mass": totals["mass"] * jnp.exp(totals["top"] - top) + exp.sum(axis), "top": top}
        for cells, count, total in ((positive, "hits", "hit_sum"), (kept, "kept", "kept_sum")):
            if count in totals:
                new[count] = totals[count] + cells.sum(axis, dtype=jnp.float32)
                new[total] = totals[total] + jnp.where(cells, s, 0.0).sum(axis)
        return new

    def value(self, t: dict[str, Array]) -> Array:
        # Differences of scores first: at a scale of 100, top + log(mass) would round away a small loss.
        value = (1.0 - self.smoothing) * (t["top"] - t["hit_sum"] / _some(t["hits"]))
        if self.smoothing:
            value += self.smoothing * (t["top"] - t["kept_sum"] / _some(t["kept"]))
        return value + jnp.log(_some(t["mass"]))

    def slope(self, t: dict[str, Array], s: Array, positive: Array, kept: Array, axis: int) -> Array:
        t = {k: jnp.expand_dims(v, axis) for k, v in t.items()}
        p = jnp.exp(s - t["top"]) / _some(t["mass"])
        target = (1.0 - self.smoothing) * positive / _some(t["hits"])
        if self.smoothing:
            target += self.smoothing / _some(t["kept"])
        return jnp.where(kept, p - target, 0.0)


@dataclass(frozen=True)
class Sigmoid:
    """sum_j softplus(-+ s_ij): `contrastive.sigmoid_loss`."""

    def start(self, like: Int[Array, " *b"]) -> Array:
        return jnp.zeros_like(like, jnp.float32)

    def fold(self, totals: Array, s: Array, positive: Array, kept: Array, axis: int) -> Array:
        return totals + jnp.where(kept, jax.nn.softplus(jnp.where(positive, -s, s)), 0.0).sum(axis)

    def value(self, totals: Array) -> Array:
        return totals

    def slope(self, totals: Array, s: Array, positive: Array, kept: Array, axis: int) -> Array:
        return jnp.where(kept, jnp.where(positive, -jax.nn.sigmoid(-s), jax.nn.sigmoid(s)), 0.0)


class _Plan(NamedTuple):
    scores: Scores
    loss: Softmax | Sigmoid
    both: bool
    multi_positive: bool
    chunk: int
    travel: Travel | None
    walks: int


def contrast(
    scores: Scores,
    loss: Softmax | Sigmoid,
    shared: Any,
    rows: Side,
    columns: Side,
    blocks: Blocks,
    *,
    both: bool = True,
    multi_positive: bool = False,
    travel: Travel | None = None,
    walks: int = 1,
) -> tuple[Float[Array, " B"], Any]:
    """(the loss of every row over the columns, with `both` that of every column over the rows, else None).

    scores, shared: the scores of a block and what they read beside its sides (scale, bias), a tree of float scalars.
    multi_positive: cells of equal id are positives; without, the cell of equal place is, and others of equal id are left out.
    travel, walks:  one device only: the columns are walked `walks` times and moved in between (see `Travel`).
    Differentiable in `shared` and both sides' vectors, in reverse mode. Raises ConfigError for a chunk below 1, a missing mesh axis or a
    batch that does not divide over it, or travelling columns on a ring.
    """
    if blocks.chunk < 1:
        raise ConfigError(f"chunk is {blocks.chunk}: a block needs at least one row")
    shared = jax.tree.map(lambda s: jnp.asarray(s, jnp.float32), shared)
    plan = _Plan(scores, loss, both, multi_positive, blocks.chunk, travel, walks)
    if blocks.axis is None:
        return _contrast(plan, shared, rows, columns)
    if travel is not None:
        raise ConfigError("a ring moves the columns itself: take this loss plain or chunked")
    axis, mesh = blocks.axis, jax.sharding.get_abstract_mesh()
    if axis not in mesh.shape:
        raise ConfigError(f"a ring over {axis!r} needs a mesh with that axis: call it inside jax.set_mesh(mesh)")
    devices = mesh.shape[axis]
    if len(rows.place) % devices or len(columns.place) % devices:
        raise ConfigError(f"a batch of {len(rows.place)} does not divide over the {devices} devices of axis {axis!r}")
    plan = plan._replace(travel=lambda _, *moved: _pass_on(moved, axis, devices), walks=devices)

    def local(shared: Any, rows: Side, columns: Side) -> Any:
        # Varying from here on: its gradient is the sum over the devices' own.
        return _contrast(plan, jax.lax.pcast(shared, axis, to="varying"), rows, columns)

    spec = jax.sharding.PartitionSpec(axis)
    return jax.shard_map(local, in_specs=(jax.sharding.PartitionSpec(), spec, spec), out_specs=spec)(
        shared, rows, columns
    )


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _contrast(plan: _Plan, shared: Any, rows: Side, columns: Side) -> Any:
    return _forward(plan, shared, rows, columns)[0]


def _forward(plan: _Plan, shared: Any, rows: Side, columns: Side) -> Any:
    loss = plan.loss

    def step(_: None, row: Side, row_totals: Any, column: tuple[Side], column_totals: Any) -> Any:
        same, positive, kept = _cells(plan, row, column[0])
        by_row, by_column = plan.scores(shared, row, column[0], same)
        row_totals = loss.fold(row_totals, by_row, positive, kept, 1)
        if by_column is not None:
            column_totals = loss.fold(column_totals, by_column, positive, kept, 0)
        return None, row_totals, column_totals

    start = (loss.start(rows.place), loss.start(columns.place) if plan.both else None)
    _, row_totals, column_totals = _walk(plan, step, None, rows, start[0], (columns,), start[1])
    values = loss.value(row_totals), loss.value(column_totals) if plan.both else None
    return values, (shared, rows, row_totals, columns, column_totals)


def _backward(plan: _Plan, kept_for_it: Any, gradients: Any) -> Any:
    shared, rows, row_totals, columns, column_totals = kept_for_it

    def step(d_shared: Any, row: Any, d_row: Any, column: Any, d_column: Any) -> Any:
        (row, *of_row), (column, *of_column) = row, column
        same, positive, kept = _cells(plan, row, column)

        def scores(shared: Any, row_vectors: Any, column_vectors: Any) -> Any:
            return plan.scores(
                shared, row._replace(vectors=row_vectors), column._replace(vectors=column_vectors), same
            )  # fmt: skip

        def slope(s: Array | None, known: Any, axis: int) -> Array | None:
            if s is None:
                return None
            totals, gradient = known
            return jnp.expand_dims(gradient, axis) * plan.loss.slope(totals, s, positive, kept, axis)

        (by_row, by_column), pull = jax.vjp(scores, shared, row.vectors, column.vectors)
        found = pull((slope(by_row, of_row, 1), slope(by_column, of_column, 0)))
        return jax.tree.map(jnp.add, (d_shared, d_row, d_column), found)

    def zeros(tree: Any) -> Any:
        return jax.tree.map(lambda x: jnp.zeros_like(x, jnp.float32), tree)

    row_side, column_side = (rows, row_totals, gradients[0]), (columns, column_totals, gradients[1])
    found = _walk(
        plan, step, zeros(shared), row_side, zeros(rows.vectors), column_side, zeros(columns.vectors)
    )  # fmt: skip
    d_shared, d_rows, d_columns = jax.tree.map(
        lambda d, x: d.astype(x.dtype), found, (shared, rows.vectors, columns.vectors)
    )
    nothing: Any = None
    return d_shared, Side(d_rows, nothing, nothing), Side(d_columns, nothing, nothing)


_contrast.defvjp(_forward, _backward)


def _cells(plan: _Plan, row: Side, column: Side) -> tuple[Bool[Array, "r c"], Bool[Array, "r c"], Bool[Array, "r c"]]:
    """(the row's own column, positives, cells that count) of a block."""
    real = (row.place >= 0)[:, None] & (column.place >= 0)
    same = real & (row.place[:, None] == column.place)
    alike = real & (row.ids[:, None] == column.ids)
    positive = alike if plan.multi_positive else same
    return same, positive, real & (positive | ~alike)


def _walk(plan: _Plan, step: Any, shared: Any, rows: Any, of_rows: Any, columns: Any, of_columns: Any) -> Any:
    """step(shared, row, of_row, column, of_column) -> (shared, of_row, of_column), carried through every pair of blocks, walk after walk."""
    n, m = (jax.tree.leaves(x)[0].shape[0] for x in (rows, columns))
    rows, of_rows = (in_blocks(x, plan.chunk) for x in (rows, of_rows))

    def walk(carry: Any, number: Array | int) -> Any:
        shared, of_rows, columns, of_columns = carry
        column_blocks = in_blocks(columns, plan.chunk)

        def over_rows(carry: Any, block: Any) -> Any:
            (shared, of_columns), (row, of_row) = carry, block

            def over_columns(carry: Any, block: Any) -> Any:
                (shared, of_row), (column, of_column) = carry, block
                shared, of_row, of_column = step(shared, row, of_row, column, of_column)
                return (shared, of_row), of_column

            (shared, of_row), of_columns = jax.lax.scan(over_columns, (shared, of_row), (column_blocks, of_columns))
            return (shared, of_columns), of_row

        start = (shared, in_blocks(of_columns, plan.chunk))
        (shared, of_columns), of_rows = jax.lax.scan(over_rows, start, (rows, of_rows))
        of_columns = _whole(of_columns, m)
        if plan.travel is not None:
            columns, of_columns = plan.travel(jnp.asarray(number), columns, of_columns)
        return (shared, of_rows, columns, of_columns), None

    carry = (shared, of_rows, columns, of_columns)
    if plan.travel is None:
        carry, _ = walk(carry, 0)
    else:
        carry, _ = jax.lax.scan(walk, carry, jnp.arange(plan.walks))
    shared, of_rows, _, of_columns = carry
    return shared, _whole(of_rows, n), of_columns


def in_blocks(tree: Any, chunk: int) -> Any:
    """Every leaf [B, ...] as [blocks, min(chunk, B), ...], padded: integers (place, ids) by -1, all else by 0 or False."""

    def one(x: Array) -> Array:
        rows = min(chunk, x.shape[0])
        pad = -x.shape[0] % rows
        if pad:
            fill = -1 if jnp.issubdtype(x.dtype, jnp.integer) else 0
            x = jnp.pad(x, ((0, pad), *((0, 0),) * (x.ndim - 1)), constant_values=fill)
        return x.reshape(-1, rows, *x.shape[1:])

    return jax.tree.map(one, tree)


def _whole(tree: Any, n: int) -> Any:
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:n], tree)


def _pass_on(tree: Any, axis: str, devices: int) -> Any:
    """Everything to the next device of the ring, in one message: rows of 32-bit words. Many small ones would each wait for the slowest."""

    def wide(x: Array) -> Array:
        return x if x.dtype.itemsize == 4 else x.astype(jnp.float32)

    leaves, structure = jax.tree.flatten(tree)
    words = [jax.lax.bitcast_convert_type(wide(x), jnp.int32).reshape(x.shape[0], -1) for x in leaves]
    ring = [(i, (i + 1) % devices) for i in range(devices)]
    came = jax.lax.ppermute(jnp.concatenate(words, axis=1), axis, ring)
    parts = jnp.split(came, list(accumulate(w.shape[1] for w in words))[:-1], axis=1)
    found = [
        jax.lax.bitcast_convert_type(part.reshape(x.shape), wide(x).dtype).astype(x.dtype)
        for part, x in zip(parts, leaves)
    ]
    return jax.tree.unflatten(structure, found)
