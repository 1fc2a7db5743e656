"""Where activations live on a mesh: rows of the batch over its "data" (and "fsdp") axes, whatever the parameters' sharding would suggest."""

import math
from typing import Any

import jax
from jax.sharding import AxisType, PartitionSpec
from jaxtyping import Array, Shaped


def row_axes(mesh: Any) -> tuple[str, ...]:
    """The axes of a mesh that split the batch, those it has of "data" and "fsdp"."""
    return tuple(axis for axis in ("data", "fsdp") if axis in mesh.shape)


def by_rows(x: Shaped[Array, "B ..."]) -> Shaped[Array, "B ..."]:
    """`x` with its first axis kept split over `row_axes`; the other axes are the compiler's choice.

    Parameters split over "data" (fsdp) would otherwise spread their own split to the activations, which are far larger.
    Does nothing without a mesh (jax.set_mesh), inside jax.shard_map, or where the rows do not divide.
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
