"""What a step costs before anyone owns the devices: FLOPs from its jaxpr, memory and traffic from its compiled program.

Bytes sent. A collective over g devices, done as a ring, makes every device send
    all-reduce          2 (g - 1) / g * S     S: bytes of the array that is summed
    all-gather            (g - 1) / g * S     S: bytes of the gathered array
    reduce-scatter        (g - 1) / g * S     S: bytes of the array before it is scattered
    all-to-all            (g - 1) / g * S     S: bytes of a device's array
    collective-permute                  S
so a data-parallel step of P float32 parameters sends 2 (g - 1) / g * 4P for its gradients, and an FSDP step (g - 1) / g * 4P a time
for each gathering of the parameters (forward; backward where they are not kept) and for the scattering of the gradients.
"""

import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax

from mmrep import modality
from mmrep.config import Experiment, flatten
from mmrep.errors import ConfigError
from mmrep.training import loop, sharding

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
# S in the docstring is told by the instruction's result, except that a reduce-scatter returns only its share.
RING = {
    "all-reduce": lambda g: 2 * (g - 1) / g,
    "all-gather": lambda g: (g - 1) / g,
    "reduce-scatter": lambda g: g - 1.0,
    "all-to-all": lambda g: (g - 1) / g,
    "collective-permute": lambda g: 1.0,
}
PASSING = ("bitcast", "reshape", "transpose", "copy", "convert", "multiply")  # what a slice may move in front of


class Collective(NamedTuple):
    """One collective of a program: `result` bytes of one execution, over groups of `group` devices, `times` a step."""

    kind: str
    result: int
    group: int
    times: int

    @property
    def sent(self) -> float:
        """Bytes that one device sends in a step."""
        return RING[self.kind](self.group) * self.result * self.times


class Step(NamedTuple):
    """A training step and the abstract arguments it is compiled for."""

    stage: loop.Stage
    arguments: tuple[Any, Any, Any]


def abstract_step(experiment: Experiment, mesh: Any, phase: int | None = None) -> Step:
    """The step of `phase` (default: the first with gradient steps) and the shapes of (state, batch, key); nothing is allocated.

    Raises ConfigError where there are no gradient steps, or the batch does not divide over the mesh.
    """
    trained = [i for i, p in enumerate(experiment.phases) if p.run is None]
    if not trained:
        raise ConfigError("this system takes no gradient steps: there is nothing to compile")
    size, rows = experiment.data.batch_size, sharding.row_parts(mesh) * experiment.train.accumulate
    if size % rows:
        raise ConfigError(f"data.batch_size {size} does not divide over mesh.data x train.accumulate = {rows}")
    stage = loop.make_stage(experiment, trained[0] if phase is None else phase, mesh)
    one = modality.example(experiment.data.modalities, 1)
    split, everywhere = sharding.batch_sharding(mesh), sharding.replicated(mesh)
    batch = {k: jax.ShapeDtypeStruct((size, *v.shape[1:]), v.dtype, sharding=split) for k, v in one.items()}
    key = jax.eval_shape(lambda: jax.random.key(0))
    return Step(stage, (stage.abstract, batch, jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=everywhere)))


def bytes_per_device(tree: Any) -> int:
    """Bytes that one device holds of a tree of shapes with shardings (or of arrays)."""
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def parameters(state: Any) -> int:
    """Number of parameters of a training state."""
    return sum(math.prod(x.shape) for x in flatten(state["params"]).values())


def flops(jaxpr: Any) -> float:
    """FLOPs of the matrix products and convolutions of a jaxpr, over all devices: 2 a multiply-add; loops by their length.

    Work repeated by rematerialisation counts each time, element-wise work not at all; of a branch the dearest arm counts,
    and a while loop of unknown length counts once.
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


# A computation's head, and an instruction: name, result type, opcode, the rest. Tuple types may hold comments /*index=5*/.
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$")
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")
_CALLED = re.compile(r"(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


class _Instruction(NamedTuple):
    root: str | None
    name: str
    type: str
    opcode: str
    rest: str

    @property
    def operands(self) -> list[str]:
        return re.findall(r"%([\w.\-]+)", self.rest.split("), ")[0])


def collectives(hlo: str) -> list[Collective]:
    """The collectives of a compiled program's text, those in loops with their number of trips.

    A loop whose trips the compiler does not know counts once. An all-reduce whose every user takes only a slice is told as the
    reduce-scatter it is: the CPU compiler, unlike that of GPUs and TPUs, leaves the two apart.
    """
    computations, entry = _computations(hlo)
    found: list[Collective] = []

    def walk(name: str, times: int) -> None:
        for i in computations.get(name, []):
            kind = i.opcode.removesuffix("-start")
            if kind in KINDS:
                found.extend(_collective(kind, i, computations, name, times))
            trips = _TRIPS.search(i.rest) if i.opcode == "while" else None
            if i.opcode in ("while", "call", "conditional", "fusion", "async-start"):
                branches = re.search(r"branch_computations=\{([^}]*)\}", i.rest)
                for called in _CALLED.findall(i.rest) + re.findall(r"[\w.\-]+", branches[1] if branches else ""):
                    walk(called, times * (int(trips[1]) if trips else 1))

    walk(entry, 1)
    return [c for c in found if c.group > 1]


def traffic(found: list[Collective]) -> dict[str, float]:
    """{kind: bytes that one device sends in a step}, kinds that occur only."""
    return {k: sum(c.sent for c in found if c.kind == k) for k in KINDS if any(c.kind == k for c in found)}


def _computations(hlo: str) -> tuple[dict[str, list[_Instruction]], str]:
    computations: dict[str, list[_Instruction]] = {}
    current, entry = "", ""
    for line in hlo.splitlines():
        head = _HEAD.match(line)
        if head:
            current = head[2]
            computations[current] = []
            entry = current if head[1] else entry
        elif current and (m := _INSTRUCTION.match(line)):
            computations[current].append(_Instruction(*m.groups()))
    return computations, entry


def _collective(
    kind: str, i: _Instruction, computations: dict[str, list[_Instruction]], name: str, times: int
) -> Iterator[Collective]:
    group, sizes = _group(i.rest), _sizes(i.type)
    if i.opcode in ("all-gather-start", "collective-permute-start"):
        sizes = sizes[len(sizes) // 2 :]  # the type holds the operands, then the results
    for at, size in enumerate(sizes):  # small ones of a kind travel together, as a tuple
        element = at if i.type.startswith("(") else None
        if kind == "all-reduce" and _only_sliced(i.name, element, name, computations):
            yield Collective("reduce-scatter", size // group, group, times)
        else:
            yield Collective(kind, size, group, times)


def _sizes(type_: str) -> list[int]:
    """Bytes of each array of a type."""
    found = []
    for kind, dims in _ARRAY.findall(type_):
        bits = 8 if kind == "pred" else int((re.search(r"\d+", kind) or ["32"])[0])
        found.append(math.prod(int(d) for d in dims.split(",") if d) * bits // 8)
    return found


def _group(rest: str) -> int:
    """Devices in a group, from the three ways of writing replica_groups; a permute counts as a pair."""
    if "source_target_pairs" in rest:
        return 2
    if m := re.search(r"replica_groups=\{\{([\d,]*)\}", rest):
        return len(m[1].split(","))
    if m := re.search(r"replica_groups=\[(\d+),(\d+)\]<=", rest):
        return int(m[2])
    if m := re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", rest):
        sizes = dict(re.findall(r"'([^']+)'=(\d+)", m[1]))
        return math.prod(int(sizes[a]) for a in re.findall(r"'([^']+)'", m[2]))
    return 1


def _only_sliced(
    value: str, element: int | None, name: str, computations: dict[str, list[_Instruction]], outer: tuple = ()
) -> bool:  # fmt: skip
    """Whether all that becomes of `value` (of its tuple's `element`) in computation `name` is dynamic slices.

    It is followed into fusions and out of them again; `outer` are the (fusion, computation) that it came in by.
    """
    users = [(i, i.operands.index(value)) for i in computations[name] if value in i.operands]
    if element is not None:
        picked = [i for i, _ in users if i.opcode == "get-tuple-element" and re.search(rf"index={element}\b", i.rest)]
        return bool(picked) and all(_only_sliced(i.name, None, name, computations, outer) for i in picked)
    if not users and outer and any(i.root and i.name == value for i in computations[name]):
        (fusion, above), outer = outer[-1], outer[:-1]
        return _only_sliced(fusion, None, above, computations, outer)
    return bool(users) and all(_slices(user, at, name, computations, outer) for user, at in users)


def _slices(user: _Instruction, at: int, name: str, computations: dict[str, list[_Instruction]], outer: tuple) -> bool:
    if user.opcode == "dynamic-slice":
        return at == 0
    if user.opcode in ("fusion", "call") and (m := _CALLED.search(user.rest)):
        inside = [i for i in computations[m[1]] if i.opcode == "parameter" and i.rest.startswith(f"{at})")]
        entered = (*outer, (user.name, name))
        return bool(inside) and _only_sliced(inside[0].name, None, m[1], computations, entered)
    return user.opcode in PASSING and _only_sliced(user.name, None, name, computations, outer)
