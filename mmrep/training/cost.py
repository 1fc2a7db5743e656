"""The cost of a training step on devices that need not exist: FLOPs from its jaxpr, bytes from its shardings.

The bytes that it sends are counted in its compiled program, by `mmrep.training.collectives`.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax

from mmrep import modality
from mmrep.config import Experiment, flatten
from mmrep.errors import ConfigError
from mmrep.training import loop, sharding


class Step(NamedTuple):
    """A training step and the abstract arguments it is compiled for."""

    stage: loop.PhaseState
    arguments: tuple[Any, Any, Any]


def abstract_step(experiment: Experiment, mesh: Any, phase: int | None = None) -> Step:
    """The step of `phase` (default: the first with gradient steps) and the shapes of (state, batch, key); nothing is allocated.

    Raises ConfigError where there are no gradient steps, or the batch does not divide over the mesh.
    """
    trained = [i for i, p in enumerate(experiment.phases) if p.run is None]
    if not trained:
        raise ConfigError(
            "this system takes no gradient steps (every phase is a plain function): there is nothing to compile"
        )
    size, rows = experiment.data.batch_size, sharding.row_parts(mesh) * experiment.train.accumulate
    if size % rows:
        raise ConfigError(f"data.batch_size {size} does not divide over mesh.data x train.accumulate = {rows}")
    stage = loop.make_phase_state(experiment, trained[0] if phase is None else phase, mesh)
    one = modality.example(experiment.data.modalities, 1)
    split, everywhere = sharding.batch_sharding(mesh), sharding.replicated(mesh)
    batch = {k: jax.ShapeDtypeStruct((size, *v.shape[1:]), v.dtype, sharding=split) for k, v in one.items()}
    key = jax.eval_shape(lambda: jax.random.key(0))
    return Step(stage, (stage.abstract, batch, jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=everywhere)))


def bytes_per_device(tree: Any) -> int:
    """Bytes held by one device of a tree of shapes with shardings (or of arrays)."""
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def parameters(state: Any) -> int:
    """Number of parameters of a training state."""
    return sum(math.prod(x.shape) for x in flatten(state["params"]).values())


def flops(jaxpr: Any) -> float:
    """FLOPs of the matrix products and convolutions of a jaxpr, over all devices: 2 a multiply-add, loops multiplied by their length.

    (`compiled.cost_analysis()` counts the body of a scan once.) Rematerialised work counts each time, element-wise work does not count;
    the most expensive branch of a conditional counts, and a while loop of unknown length counts once.
    """
    total = 0.0
    for eqn in jaxpr.eqns:
        name, p = eqn.primitive.name, eqn.params
        if name == "dot_general":
            (contract, _), _ = p["dimension_numbers"]
            total += 2.0 * eqn.outvars[0].aval.size * math.prod(eqn.invars[0].aval.shape[d] for d in contract)
        elif name == "conv_general_dilated":
            kernel, spec = eqn.invars[1].aval.shape, p["dimension_numbers"].rhs_spec
            total += 2.0 * eqn.outvars[0].aval.size * math.prod(kernel) / kernel[spec[0]]
        elif name == "cond":
            total += max(flops(b.jaxpr) for b in p["branches"])
        else:
            # Inside shard_map shapes are those of one device.
            devices = math.prod(p["mesh"].shape[a] for a in p["newly_manual_axes"]) if name == "shard_map" else 1
            total += p.get("length", 1) * devices * sum(flops(j) for j in _inner(p))
    return total


def _inner(parameters: dict[str, Any]) -> Iterator[Any]:
    for value in parameters.values():
        found = getattr(value, "jaxpr", value)
        if hasattr(found, "eqns"):
            yield found
