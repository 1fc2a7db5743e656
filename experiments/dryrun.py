"""Compiles a system's training step for devices that need not exist, without allocating it: memory, FLOPs and traffic as one JSON line.

python -m experiments.dryrun clip --size paper --mesh data=8,model=2     one line
python -m experiments.dryrun fourm --size large --write                  ... and its row in results/dryrun/fourm.json
python -m experiments.dryrun --all --mesh data=64 --write                the same for every system
"""

import json
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from experiments import _cli, _results, bench
from mmrep import catalogue
from mmrep.errors import ConfigError

SUMMARY = __doc__.splitlines()[0]
SECONDS = ("trace_seconds", "compile_seconds")  # printed and not stored: they are those of one machine


@dataclass(frozen=True)
class Limits:
    mesh: str = "data=8"
    """devices an axis: data=8,model=2"""
    timeout: float = 120.0
    """seconds after which a compilation is given up"""
    memory: float = 8.0
    """GiB of this host's memory at which it is given up"""
    write: bool = False
    """store the row in results/dryrun/SLUG.json"""


@dataclass(frozen=True)
class Options:
    limits: Annotated[Limits, _cli.FLAT] = Limits()
    phase: int | None = None
    """which phase, from 0 (default: the first with gradient steps)"""
    here: bool = False
    """compile in this process, whose devices are the mesh"""


@dataclass(frozen=True)
class Every:
    all: bool = False
    """every system"""
    size: str = "paper"
    """the size of all of them"""
    limits: Annotated[Limits, _cli.FLAT] = Limits()


def run() -> None:
    if "--all" in sys.argv[1:]:
        return run_all()
    command = _cli.parse(Options, SUMMARY, size="paper")
    o, name = command.options, {"size": command.size, "variant": command.variant}
    mesh = parse_mesh(o.limits.mesh)
    if o.here:
        row = {**name, "mesh": mesh, "fingerprint": _results.step_fingerprint(command.experiment)}
        return _cli.dump(row | measure(command.experiment, mesh, o.phase))
    if o.limits.write and (command.overrides or o.phase is not None):
        raise ConfigError("--write stores the step of an unchanged config: leave out --phase and the overrides")
    given = [a for a in sys.argv[1:] if a != "--write"]
    row = {**name, "mesh": mesh} | guarded([*given, "--here"], mesh, o.limits.timeout, o.limits.memory)
    finish(command.slug, row, o.limits.write)


def run_all() -> None:
    o = _cli.parse_options(Every, SUMMARY)
    mesh = parse_mesh(o.limits.mesh)
    for e in catalogue.entries():
        if o.size in e.sizes:
            args = [e.slug, "--size", o.size, "--mesh", o.limits.mesh, "--here"]
            row = {"size": o.size, "variant": "", "mesh": mesh}
            finish(e.slug, row | guarded(args, mesh, o.limits.timeout, o.limits.memory), o.limits.write)


def finish(slug: str, row: dict[str, Any], write: bool) -> None:
    """Prints the row, and stores it without its wall times."""
    _cli.dump({"slug": slug} | row)
    if write:
        stored = {k: v for k, v in row.items() if k not in SECONDS}
        _results.write_row(slug, "dryrun", stored | {"commit": _results.commit()})


def parse_mesh(text: str) -> dict[str, int]:
    """{"data": 8, "model": 2} of "data=8,model=2". Raises ConfigError for another axis or a number below 1."""
    sizes = {"data": 1, "model": 1, "fsdp": 1}
    for part in text.split(","):
        axis, _, number = part.strip().partition("=")
        if axis not in sizes or not number.isdigit() or int(number) < 1:
            raise ConfigError(f"--mesh {text!r}: write data=N,model=N (and fsdp=N) with whole numbers of at least 1")
        sizes[axis] = int(number)
    return {axis: n for axis, n in sizes.items() if n > 1 or axis != "fsdp"}


def guarded(args: Sequence[str], mesh: Mapping[str, int], timeout: float, memory: float) -> dict[str, Any]:
    """The row that another process printed, or {"failed": why} where it exceeded the time or the memory.

    The devices are simulated, and their number has to be set before JAX starts. Raises ConfigError where the config cannot work.
    """
    devices = math.prod(mesh.values())
    env = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices), "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(catalogue.ROOT)}
    env.pop("JAX_DISABLE_MOST_OPTIMIZATIONS", None)
    command = [sys.executable, "-P", "-m", "experiments.dryrun", *args]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        end, why = time.monotonic() + timeout, ""
        while True:
            try:
                out, err = process.communicate(timeout=0.5)
                break
            except subprocess.TimeoutExpired:
                if time.monotonic() > end:
                    why = f"more than {timeout:g} s to compile"
                elif bench.resident(pid=process.pid) > memory * 2**30:
                    why = f"more than {memory:g} GiB of this host to compile"
                if why:
                    process.kill()
    if why:
        return {"failed": why}
    if process.returncode == 2:
        raise ConfigError(err.strip().splitlines()[-1].removeprefix("error: "))
    if process.returncode:
        errors = re.findall(r"^\w*(?:Error|Exception): .*", err, re.MULTILINE) or [f"exit code {process.returncode}"]
        return {"failed": errors[-1][:200]}
    return json.loads(out.splitlines()[-1])


def measure(config: Any, sizes: Mapping[str, int], phase: int | None = None) -> dict[str, Any]:
    """The figures of one step on a mesh of the devices here. Bytes are those of one device, FLOPs those of all together."""
    import jax

    from mmrep.config import Mesh
    from mmrep.training import collectives, cost, sharding

    mesh = sharding.make_mesh(Mesh(**sizes))
    with jax.set_mesh(mesh):
        clock = time.perf_counter()
        step = cost.abstract_step(config, mesh, phase)
        traced = step.stage.step.trace(*step.arguments)
        lowered = traced.lower()
        tracing, clock = time.perf_counter() - clock, time.perf_counter()
        compiled = lowered.compile()
        compiling = time.perf_counter() - clock
    state = step.arguments[0]
    sent = collectives.traffic(collectives.collectives(compiled.as_text()))
    memory = compiled.memory_analysis()
    return {
        "phase": step.stage.phase.name, "batch_size": config.data.batch_size, "parameters": cost.parameters(state),
        "bytes_parameters": cost.bytes_per_device(state["params"]),
        "bytes_optimizer": cost.bytes_per_device([state["opt"], state["ema"]]),
        "bytes_extras": cost.bytes_per_device(state["extras"]), "bytes_batch": cost.bytes_per_device(step.arguments[1]),
        "bytes_activations": memory.temp_size_in_bytes, "flops_per_step": cost.flops(traced.jaxpr.jaxpr),
        "bytes_sent": {k: round(v) for k, v in sent.items()}, "trace_seconds": round(tracing, 1),
        "compile_seconds": round(compiling, 1),
    }  # fmt: skip


if __name__ == "__main__":
    _cli.main(run)
