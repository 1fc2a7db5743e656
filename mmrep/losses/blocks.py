"""Losses over all pairs of a batch, in blocks: memory grows with the batch, not with its square.

The similarity matrix of rows and columns is processed block by block. The forward pass accumulates a few statistics of every row and
column (of a softmax: maximum, sum of exponentials, score of the positive); the backward pass recomputes each block and takes its gradient
from them. Nothing of the size of the matrix is kept.

With a ring, every device keeps its rows and sends its columns, with their statistics and gradients, to its neighbour until all pairs have
been seen: the ring attention of Liu et al. 2023 (arXiv 2310.01889), for contrastive losses Cheng et al. 2024 (Inf-CL, arXiv 2410.17243),
here with both directions of the loss from one pass.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mmrep.errors import ConfigError

# A finite stand-in for -inf: an all-masked row stays finite, in value and in gradient.
MASKED = -1e30


@dataclass(frozen=True)
class Blocks:
    """chunk: rows and columns of a block (chunk x chunk scores are alive at once).

    axis: mesh axis over which rows and columns are sharded, processed as a ring inside the mesh of `jax.set_mesh`. None processes the
    whole batch on every device.
    """

    chunk: int = 1024
    axis: str | None = None


class Side(NamedTuple):
    """The rows or the columns of a similarity matrix; every array is [B, ...].

    vectors: tree of floats that the gradient reaches.   position: int32, 0..B-1; -1 is padding.
    ids:     int32; equal ids at different positions are no negatives.   aux: tree of other inputs of the scores, without gradient.
    """

    vectors: Any
    position: Array
    ids: Array
    aux: Any = None


class Cells(NamedTuple):
    """One block in one direction: float32 scores [r,c], positive and kept bool [r,c], and what `targets` gave for it, else None."""

    scores: Float[Array, "r c"]
    positive: Bool[Array, "r c"]
    kept: Bool[Array, "r c"]
    target: Any = None


# (shared, rows, columns, own [r,c]: same position) -> float32 scores [r,c] for the rows' loss and for the columns'; None: no loss of columns.
Scores = Callable[[Any, Side, Side, Array], tuple[Array, Array | None]]
# The same arguments -> `Cells.target` for the rows' loss and for the columns'; no gradient flows into either.
Targets = Callable[[Any, Side, Side, Array], tuple[Any, Any]]
# (number of the pass, (columns, their statistics), their gradients) -> both for the next pass; after the last one in their first order.
Advance = Callable[[Array, tuple[Any, ...], Any], tuple[Any, Any]]


@runtime_checkable
class Loss(Protocol):
    """A loss of every row, from statistics that blocks add to. `axis` is the block's axis of the other side: 1 for rows, 0 for columns."""

    def start(self, like: Int[Array, " *b"]) -> Any:
        """The statistics before the first block."""

    def merge(self, stats: Any, cells: Cells, axis: int) -> Any:
        """The statistics with one more block."""

    def value(self, stats: Any) -> Any:
        """The loss, or a tree of losses, of every row."""

    def grad(self, stats: Any, cells: Cells, axis: int, cotangent: Any) -> Float[Array, "r c"]:
        """The gradient of sum(cotangent * value) with respect to the scores of a block; `stats` are complete."""


def side(
    vectors: Any, ids: Int[Array, " B"] | None = None, aux: Any = None, position: Int[Array, " B"] | None = None
) -> Side:
    """A Side whose position is 0..B-1 and whose ids are its position, unless given."""
    if position is None:
        position = jnp.arange(jax.tree.leaves(vectors)[0].shape[0], dtype=jnp.int32)
    return Side(vectors, position, position if ids is None else ids, aux)


def nonzero_or_one(x: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """`x`, or 1 where it is 0 (rows of padding). A maximum with 1 would bias denominators that rounding took below 1."""
    return jnp.where(x > 0, x, 1.0)


@dataclass(frozen=True)
class Softmax:
    """lse_i - sum_j t_ij s_ij, the cross-entropy of `contrastive.info_nce`: t shares 1 among a row's positives.

    `Cells.target`, where given, holds weights instead of the positives (any non-negative floats, divided by their sum).
    """

    smoothing: float = 0.0

    def start(self, like: Int[Array, " *b"]) -> dict[str, Array]:
        """max: top score. mass: sum of exponentials relative to it. hits, hit_sum: weight and weighted sum of positives; kept: of all."""
        zero = jnp.zeros_like(like, jnp.float32)
        names = ("mass", "hits", "hit_sum", "kept", "kept_sum")
        return {"max": zero + MASKED} | {k: zero for k in (names if self.smoothing else names[:3])}

    def merge(self, stats: dict[str, Array], cells: Cells, axis: int) -> dict[str, Array]:
        s, kept = cells.scores, cells.kept
        top, mass, _ = _exponentials(stats["max"], stats["mass"], s, kept, axis)
        new = {"max": top, "mass": mass}
        for weights, count, total in ((_weights(cells), "hits", "hit_sum"), (kept, "kept", "kept_sum")):
            if count in stats:
                weights = weights.astype(jnp.float32)
                new[count] = stats[count] + weights.sum(axis)
                new[total] = stats[total] + jnp.where(weights > 0, weights * s, 0.0).sum(axis)
        return new

    def value(self, stats: dict[str, Array]) -> Array:
        t = stats
        # Differences of scores first: at a scale of 100, max + log(mass) would round away a small loss.
        value = (1.0 - self.smoothing) * (t["max"] - t["hit_sum"] / nonzero_or_one(t["hits"]))
        if self.smoothing:
            value += self.smoothing * (t["max"] - t["kept_sum"] / nonzero_or_one(t["kept"]))
        return value + jnp.log(nonzero_or_one(t["mass"]))

    def grad(self, stats: dict[str, Array], cells: Cells, axis: int, cotangent: Array) -> Array:
        t = {k: jnp.expand_dims(v, axis) for k, v in stats.items()}
        p = jnp.exp(cells.scores - t["max"]) / nonzero_or_one(t["mass"])
        target = (1.0 - self.smoothing) * _weights(cells) / nonzero_or_one(t["hits"])
        if self.smoothing:
            target += self.smoothing / nonzero_or_one(t["kept"])
        return jnp.expand_dims(cotangent, axis) * jnp.where(cells.kept, p - target, 0.0)


@dataclass(frozen=True)
class Sigmoid:
    """sum_j softplus(-+ s_ij): `contrastive.sigmoid_loss`."""

    def start(self, like: Int[Array, " *b"]) -> Array:
        return jnp.zeros_like(like, jnp.float32)

    def merge(self, stats: Array, cells: Cells, axis: int) -> Array:
        s = jnp.where(cells.positive, -cells.scores, cells.scores)
        return stats + jnp.where(cells.kept, jax.nn.softplus(s), 0.0).sum(axis)

    def value(self, stats: Array) -> Array:
        return stats

    def grad(self, stats: Array, cells: Cells, axis: int, cotangent: Array) -> Array:
        s = cells.scores
        slope = jnp.where(cells.positive, -jax.nn.sigmoid(-s), jax.nn.sigmoid(s))
        return jnp.expand_dims(cotangent, axis) * jnp.where(cells.kept, slope, 0.0)


@dataclass(frozen=True)
class Distilled:
    """Of every row, with q the softmax of its scores and p that of the teacher's scores (`Cells.target`, float32 [r,c]):

    hard: the cross-entropy of q against the positives, as `Softmax`.   kl: KL(p || q).   entropy: that of p.
    own:  the teacher's mean score of the positives.   max: its highest score. The gradient of all but hard and kl is zero.
    """

    def start(self, like: Int[Array, " *b"]) -> dict[str, Array]:
        zero = jnp.zeros_like(like, jnp.float32)
        names = ("mass", "hits", "hit_sum", "teacher_mass", "teacher_gap", "teacher_sum", "own")
        return {"max": zero + MASKED, "teacher_max": zero + MASKED} | {k: zero for k in names}

    def merge(self, stats: dict[str, Array], cells: Cells, axis: int) -> dict[str, Array]:
        s, teacher, kept = cells.scores, cells.target, cells.kept
        top, mass, _ = _exponentials(stats["max"], stats["mass"], s, kept, axis)
        teacher_top, teacher_mass, exp = _exponentials(stats["teacher_max"], stats["teacher_mass"], teacher, kept, axis)
        shrunk = jnp.exp(stats["teacher_max"] - teacher_top)
        gap = jnp.where(kept, teacher - s, 0.0)
        return {
            "max": top, "mass": mass, "teacher_max": teacher_top, "teacher_mass": teacher_mass,
            "hits": stats["hits"] + cells.positive.sum(axis, dtype=jnp.float32),
            "hit_sum": stats["hit_sum"] + jnp.where(cells.positive, s, 0.0).sum(axis),
            "own": stats["own"] + jnp.where(cells.positive, teacher, 0.0).sum(axis),
            "teacher_gap": stats["teacher_gap"] * shrunk + (exp * gap).sum(axis),
            "teacher_sum": stats["teacher_sum"] * shrunk + (exp * jnp.where(kept, teacher, 0.0)).sum(axis),
        }  # fmt: skip

    def value(self, stats: dict[str, Array]) -> dict[str, Array]:
        t, hits, mass = stats, nonzero_or_one(stats["hits"]), nonzero_or_one(stats["teacher_mass"])
        log_mass, teacher_log_mass = jnp.log(nonzero_or_one(t["mass"])), jnp.log(mass)
        return {
            "hard": t["max"] - t["hit_sum"] / hits + log_mass,
            "kl": t["teacher_gap"] / mass - (t["teacher_max"] - t["max"]) + (log_mass - teacher_log_mass),
            "entropy": t["teacher_max"] - t["teacher_sum"] / mass + teacher_log_mass,
            "own": t["own"] / hits,
            "max": t["teacher_max"],
        }

    def grad(self, stats: dict[str, Array], cells: Cells, axis: int, cotangent: dict[str, Array]) -> Array:
        t = {k: jnp.expand_dims(v, axis) for k, v in stats.items()}
        hard, kl = (jnp.expand_dims(cotangent[k], axis) for k in ("hard", "kl"))
        q = jnp.exp(cells.scores - t["max"]) / nonzero_or_one(t["mass"])
        p = jnp.exp(cells.target - t["teacher_max"]) / nonzero_or_one(t["teacher_mass"])
        slope = hard * (q - cells.positive / nonzero_or_one(t["hits"])) + kl * (q - p)
        return jnp.where(cells.kept, slope, 0.0)


def _weights(cells: Cells) -> Array:
    return cells.positive if cells.target is None else jnp.where(cells.kept, cells.target, 0.0)


def _exponentials(top: Array, mass: Array, s: Array, kept: Array, axis: int) -> tuple[Array, Array, Array]:
    """(the new maximum, the sum of exponentials relative to it, the block's own exponentials)."""
    new = jnp.maximum(top, jnp.where(kept, s, MASKED).max(axis))
    exp = jnp.where(kept, jnp.exp(s - jnp.expand_dims(new, axis)), 0.0)
    return new, mass * jnp.exp(top - new) + exp.sum(axis), exp


class _Plan(NamedTuple):
    scores: Scores
    targets: Targets | None
    loss: Loss
    both: bool
    multi_positive: bool
    chunk: int
    advance: Advance | None
    passes: int


def contrast(
    scores: Scores,
    loss: Loss,
    shared: Any,
    rows: Side,
    columns: Side,
    blocks: Blocks,
    *,
    targets: Targets | None = None,
    both: bool = True,
    multi_positive: bool = False,
    advance: Advance | None = None,
    passes: int = 1,
) -> tuple[Any, Any]:
    """(`loss.value` of every row over the columns, with `both` of every column over the rows, else None): trees of [B].

    scores, shared:  the scores of a block and their other inputs (scale, bias), a tree of float scalars.
    targets:         per-cell inputs of the loss, recomputed like the scores.
    multi_positive:  cells of equal id are positives; without it, the cell of equal position is one, and others of equal id are left out.
    advance, passes: on one device only: all columns are seen `passes` times, changed by `advance` in between.
    Differentiable in `shared` and both sides' vectors, in reverse mode. Raises ConfigError for a chunk below 1, a missing mesh axis, a
    batch that does not divide over it, or `advance` with a ring.
    """
    if blocks.chunk < 1:
        raise ConfigError(f"chunk is {blocks.chunk}: a block needs at least one row")
    shared = jax.tree.map(lambda s: jnp.asarray(s, jnp.float32), shared)
    plan = _Plan(scores, targets, loss, both, multi_positive, blocks.chunk, advance, passes)
    if blocks.axis is None:
        return _contrast(plan, shared, rows, columns)
    if advance is not None:
        raise ConfigError("a ring moves the columns itself: take this loss plain or chunked")
    axis, devices = blocks.axis, ring_size(blocks.axis)
    if len(rows.position) % devices or len(columns.position) % devices:
        raise ConfigError(
            f"a batch of {len(rows.position)} rows and {len(columns.position)} columns does not divide over the {devices} devices of axis {axis!r}"
        )
    plan = plan._replace(advance=lambda _, *columns: ring_permute(columns, axis, devices), passes=devices)

    def local(shared: Any, rows: Side, columns: Side) -> Any:
        # Varying from here on: its gradient is the sum over the devices' own.
        return _contrast(plan, jax.lax.pcast(shared, axis, to="varying"), rows, columns)

    spec = jax.sharding.PartitionSpec(axis)
    return jax.shard_map(local, in_specs=(jax.sharding.PartitionSpec(), spec, spec), out_specs=spec)(
        shared, rows, columns
    )


def ring_size(axis: str) -> int:
    """Devices of a mesh axis. Raises ConfigError outside `jax.set_mesh` or for a mesh without the axis."""
    mesh = jax.sharding.get_abstract_mesh()
    if axis not in mesh.shape:
        raise ConfigError(f"a ring over {axis!r} needs a mesh with that axis: call it inside jax.set_mesh(mesh)")
    return mesh.shape[axis]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _contrast(plan: _Plan, shared: Any, rows: Side, columns: Side) -> Any:
    return _forward(plan, shared, rows, columns)[0]


def _forward(plan: _Plan, shared: Any, rows: Side, columns: Side) -> Any:
    loss = plan.loss

    def step(_: None, row: Side, row_stats: Any, column: tuple[Side], column_stats: Any) -> Any:
        own, positive, kept = _masks(plan, row, column[0])
        target = _targets(plan, shared, row, column[0], own)
        by_row, by_column = plan.scores(shared, row, column[0], own)
        row_stats = loss.merge(row_stats, Cells(by_row, positive, kept, target[0]), 1)
        if by_column is not None:
            column_stats = loss.merge(column_stats, Cells(by_column, positive, kept, target[1]), 0)
        return None, row_stats, column_stats

    start = (loss.start(rows.position), loss.start(columns.position) if plan.both else None)
    _, row_stats, column_stats = _scan_blocks(plan, step, None, rows, start[0], (columns,), start[1])
    values = loss.value(row_stats), loss.value(column_stats) if plan.both else None
    return values, (shared, rows, row_stats, columns, column_stats)


def _backward(plan: _Plan, residuals: Any, cotangents: Any) -> Any:
    shared, rows, row_stats, columns, column_stats = residuals

    def step(d_shared: Any, row: Any, d_row: Any, column: Any, d_column: Any) -> Any:
        (row, *of_row), (column, *of_column) = row, column
        own, positive, kept = _masks(plan, row, column)
        target = _targets(plan, shared, row, column, own)

        def scores(shared: Any, row_vectors: Any, column_vectors: Any) -> Any:
            return plan.scores(
                shared, row._replace(vectors=row_vectors), column._replace(vectors=column_vectors), own
            )  # fmt: skip

        def grad(s: Array | None, target: Any, stats: Any, axis: int) -> Array | None:
            if s is None:
                return None
            stats, cotangent = stats
            return plan.loss.grad(stats, Cells(s, positive, kept, target), axis, cotangent)

        (by_row, by_column), pull = jax.vjp(scores, shared, row.vectors, column.vectors)
        found = pull((grad(by_row, target[0], of_row, 1), grad(by_column, target[1], of_column, 0)))
        return jax.tree.map(jnp.add, (d_shared, d_row, d_column), found)

    def zeros(tree: Any) -> Any:
        return jax.tree.map(lambda x: jnp.zeros_like(x, jnp.float32), tree)

    row_side, column_side = (rows, row_stats, cotangents[0]), (columns, column_stats, cotangents[1])
    found = _scan_blocks(
        plan, step, zeros(shared), row_side, zeros(rows.vectors), column_side, zeros(columns.vectors)
    )  # fmt: skip
    d_shared, d_rows, d_columns = jax.tree.map(
        lambda d, x: d.astype(x.dtype), found, (shared, rows.vectors, columns.vectors)
    )
    nothing: Any = None
    return d_shared, Side(d_rows, nothing, nothing), Side(d_columns, nothing, nothing)


_contrast.defvjp(_forward, _backward)


def _masks(plan: _Plan, row: Side, column: Side) -> tuple[Bool[Array, "r c"], Bool[Array, "r c"], Bool[Array, "r c"]]:
    """(the row's own column, positives, cells that count) of a block."""
    real = (row.position >= 0)[:, None] & (column.position >= 0)
    own = real & (row.position[:, None] == column.position)
    alike = real & (row.ids[:, None] == column.ids)
    positive = alike if plan.multi_positive else own
    return own, positive, real & (positive | ~alike)


def _targets(plan: _Plan, shared: Any, row: Side, column: Side, own: Array) -> tuple[Any, Any]:
    return (None, None) if plan.targets is None else plan.targets(shared, row, column, own)


def _scan_blocks(plan: _Plan, step: Any, shared: Any, rows: Any, of_rows: Any, columns: Any, of_columns: Any) -> Any:
    """step(shared, row, of_row, column, of_column) -> (shared, of_row, of_column), carried through every pair of blocks, pass after pass."""
    n, m = (jax.tree.leaves(x)[0].shape[0] for x in (rows, columns))
    rows, of_rows = (in_blocks(x, plan.chunk) for x in (rows, of_rows))

    def one_pass(carry: Any, number: Array | int) -> Any:
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
        if plan.advance is not None:
            columns, of_columns = plan.advance(jnp.asarray(number), columns, of_columns)
        return (shared, of_rows, columns, of_columns), None

    carry = (shared, of_rows, columns, of_columns)
    if plan.advance is None:
        carry, _ = one_pass(carry, 0)
    else:
        carry, _ = jax.lax.scan(one_pass, carry, jnp.arange(plan.passes))
    shared, of_rows, _, of_columns = carry
    return shared, _whole(of_rows, n), of_columns


def in_blocks(tree: Any, chunk: int) -> Any:
    """Every leaf [B, ...] as [blocks, min(chunk, B), ...], padded: integers (position, ids) by -1, all else by 0 or False."""

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


def ring_permute(tree: Any, axis: str, devices: int) -> Any:
    """Every leaf [B, ...] from the previous device of the ring, in one message of 32-bit words: many small ones would each wait for the slowest."""

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
