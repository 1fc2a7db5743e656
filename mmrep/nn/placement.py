"""Sharding of activations on a mesh: rows of the batch over its "data" and "fsdp" axes, independent of the sharding of parameters."""

import math
from typing import Any

import jax
from jax.sharding import AxisType, PartitionSpec
from jaxtyping import Array, Shaped


def row_axes(mesh: Any) -> tuple[str, ...]:
    """The axes of a mesh that split the batch: "data" and "fsdp", as far as it has them."""
    return tuple(axis for axis in ("data", "fsdp") if axis in mesh.shape)


def by_rows(x: Shaped[Array, "B ..."]) -> Shaped[Array, "B ..."]:
    """`x` with its first axis constrained to be split over `row_axes`; the compiler chooses the sharding of the other axes.

    Otherwise the sharding of parameters over "data" (fsdp) would propagate to the activations, which are far larger.
    Returns `x` itself without a mesh (jax.set_mesh), inside jax.shard_map, or where the number of rows is no multiple.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if "data" not in mesh.shape or dict(zip(mesh.axis_names, mesh.axis_types))["data"] != AxisType.Auto:
        return x
    axes = row_axes(mesh)
    parts = math.prod(mesh.shape[axis] for axis in axes)
    if parts == 1 or x.ndim == 0 or x.shape[0] % parts:
        return x
    free = (PartitionSpec.UNCONSTRAINED,) * (x.ndim - 1)
    return jax.lax.with_sharding_constraint(x, PartitionSpec(axes, *free))
