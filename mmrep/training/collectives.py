"""The bytes that a training step sends, counted in the text of its compiled program.

In a collective over g devices, implemented as a ring, every device sends
    all-reduce          2 (g - 1) / g * S     S: bytes of the summed array
    all-gather            (g - 1) / g * S     S: bytes of the gathered array
    reduce-scatter        (g - 1) / g * S     S: bytes of the array before it is scattered
    all-to-all            (g - 1) / g * S     S: bytes of a device's array
    collective-permute                  S

A data-parallel step of P float32 parameters sends 2 (g - 1) / g * 4P for its gradients, an FSDP step (g - 1) / g * 4P for each
gathering of the parameters (forward, and backward where they are not kept) and for scattering the gradients.
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
# In terms of the instruction's result, which is S except for a reduce-scatter: it returns 1/g of S.
RING = {
    "all-reduce": lambda g: 2 * (g - 1) / g,
    "all-gather": lambda g: (g - 1) / g,
    "reduce-scatter": lambda g: g - 1.0,
    "all-to-all": lambda g: (g - 1) / g,
    "collective-permute": lambda g: 1.0,
}
PASSING = (
    "bitcast",
    "reshape",
    "transpose",
    "copy",
    "convert",
    "multiply",
)  # operations between an all-reduce and the slice of its result


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


# The first line of a computation, and an instruction: name, result type, opcode, the rest. Tuple types may hold comments /*index=5*/.
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
    """The collectives of a compiled program's text (`compiled.as_text()`); those in a loop have its trip count.

    A loop of unknown trip count counts once. An all-reduce whose every user takes only a slice counts as a reduce-scatter: the compilers
    for GPUs and TPUs fuse the two, the one for CPUs does not.
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
    """{kind: bytes that one device sends in a step}, without the kinds that do not occur."""
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
    for at, size in enumerate(sizes):  # small collectives of one kind are combined to a tuple
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
    """Devices in a group, from the three notations of replica_groups; a permute counts as a pair."""
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
    """Whether every use of `value` (of its tuple's `element`) in computation `name` ends in a dynamic slice.

    Fusions are entered and left; `outer` holds the (fusion, computation) pairs entered so far.
    """
    users = [(i, i.operands.index(value)) for i in computations[name] if value in i.operands]
    if element is not None:
        elements = [i for i, _ in users if i.opcode == "get-tuple-element" and re.search(rf"index={element}\b", i.rest)]
        return bool(elements) and all(_only_sliced(i.name, None, name, computations, outer) for i in elements)
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
