"""Where arrays live: a device mesh, and path rules that turn a tree into a tree of shardings."""

import math
import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from mmrep.config import Mesh, Rule
from mmrep.errors import ConfigError
from mmrep.nn.placement import row_axes


def make_mesh(config: Mesh, devices: Sequence[Any] | None = None) -> jax.sharding.Mesh:
    """The ("data", "model") mesh over the first `data * model` of `devices` (default: all there are); with fsdp ("data", "fsdp", "model").

    Raises ConfigError where the axes ask for more devices than there are.
    """
    devices = jax.devices() if devices is None else devices
    hybrid = {"fsdp": config.fsdp} if config.fsdp != 1 else {}
    sizes = {"data": config.data} | hybrid | {"model": config.model}
    free = [k for k, n in sizes.items() if n == -1]
    if len(free) > 1 or any(n < 1 and n != -1 for n in sizes.values()):
        raise ConfigError(f"mesh {sizes}: axes are at least 1, and at most one may be -1")
    known = math.prod(n for n in sizes.values() if n != -1)
    if free:
        sizes[free[0]] = max(1, len(devices) // known)
    used = math.prod(sizes.values())
    if used > len(devices):
        raise ConfigError(
            f"mesh {sizes} asks for {used} devices, here are {len(devices)}: change mesh.data or mesh.model"
        )
    # Auto axes: with explicit ones, flax's embedding look-up is refused.
    return jax.make_mesh(
        tuple(sizes.values()), tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes), devices=devices[:used]
    )


def by_rules(tree: Any, rules: Sequence[Rule], mesh: jax.sharding.Mesh) -> Any:
    """A sharding for every leaf of `tree` (arrays or shapes): the first rule whose regex is found in the leaf's dict path.

    Only dict keys count for the path, so that optimiser moments and EMA copies follow their parameter.
    """

    def shard(path: Any, leaf: Any) -> NamedSharding:
        name = "/".join(str(k.key) for k in path if isinstance(k, jax.tree_util.DictKey))
        rule = next((r for r in rules if re.search(r.path, name)), Rule(""))
        return NamedSharding(mesh, _spec(rule, leaf.shape, mesh, name))

    return jax.tree_util.tree_map_with_path(shard, tree)


def _spec(rule: Rule, shape: tuple[int, ...], mesh: jax.sharding.Mesh, name: str) -> PartitionSpec:
    axis = "fsdp" if rule.how == "fsdp" and rule.axis == "data" and "fsdp" in mesh.shape else rule.axis
    if rule.how != "replicate" and axis not in mesh.shape:
        raise ConfigError(f"sharding rule {rule.path!r}: mesh has no axis {axis!r}; it has {', '.join(mesh.shape)}")
    if rule.how == "replicate" or not shape or mesh.shape[axis] == 1:
        return PartitionSpec()
    parts = mesh.shape[axis]
    if rule.how == "shard_dim":
        if not -len(shape) <= rule.dim < len(shape):  # a bias or scale under a rule meant for matrices
            return PartitionSpec()
        dim = rule.dim % len(shape)
        if shape[dim] % parts:
            raise ConfigError(
                f"sharding rule {rule.path!r}: {name} {list(shape)} has no dim {rule.dim} that divides over {axis}={parts}"
            )
    else:
        fits = [d for d in range(len(shape)) if shape[d] % parts == 0]
        if math.prod(shape) < rule.min_size or not fits:
            return PartitionSpec()
        dim = max(fits, key=lambda d: shape[d])
    return PartitionSpec(*[axis if d == dim else None for d in range(len(shape))])


def of(tree: Any) -> Any:
    """The shardings of a tree of arrays or of shapes with shardings."""
    return jax.tree.map(lambda leaf: leaf.sharding, tree)


def batch_sharding(mesh: jax.sharding.Mesh) -> NamedSharding:
    """Rows over the axes that split the batch."""
    return NamedSharding(mesh, PartitionSpec(row_axes(mesh)))


def row_parts(mesh: jax.sharding.Mesh) -> int:
    """Into how many parts a batch's rows are split."""
    return math.prod(mesh.shape[axis] for axis in row_axes(mesh))


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def key(seed: int, mesh: jax.sharding.Mesh | None = None) -> jax.Array:
    """jax.random.key(seed) on every device of `mesh`, which may span processes."""
    where = None if mesh is None else replicated(mesh)
    return jax.jit(lambda: jax.random.key(seed), out_shardings=where)()


def put_batch(batch: dict[str, np.ndarray], sharding: NamedSharding) -> dict[str, jax.Array]:
    """This process's rows as part of the global, sharded batch."""
    if jax.process_count() == 1:
        return jax.device_put(batch, sharding)
    return {k: jax.make_array_from_process_local_data(sharding, v) for k, v in batch.items()}
