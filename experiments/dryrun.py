"""Compiles a system's training step for devices one does not own, without allocating it: memory, FLOPs and traffic, as one JSON line.

python -m experiments.dryrun clip --size paper --mesh data=8,model=2     one line
python -m experiments.dryrun fourm --size large --write                  ... and its row of docs/dryrun.md
python -m experiments.dryrun --all --mesh data=64 --write                every system; rewrites the table of docs/dryrun.md
"""

import argparse
import json
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from experiments import _cli, bench

PAGE = _cli.ROOT / "docs" / "dryrun.md"
MARK = re.compile(r"(<!-- dryrun -->\n).*?(<!-- /dryrun -->)", re.DOTALL)


def run() -> None:
    if "--all" in sys.argv[1:]:
        return run_all()
    p = _cli.parser("dryrun", __doc__.splitlines()[0])
    p.set_defaults(size="paper")
    p.add_argument("--phase", type=int, help="which phase, from 0 (default: the first with gradient steps)")
    p.add_argument("--write", action="store_true", help="put the row into the table of docs/dryrun.md")
    p.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    _shared(p)
    command = _cli.parse(p)
    o, mesh = command.options, parse_mesh(command.options.mesh)
    if not o.here:
        given = [a for a in sys.argv[1:] if a != "--write"]
        row = {"slug": command.slug, "size": command.size, "mesh": mesh}
        row |= guarded([*given, "--here"], mesh, o.timeout, o.memory)
        if o.write:
            PAGE.write_text(with_row(PAGE.read_text(encoding="utf-8"), row), encoding="utf-8")
        return _cli.dump(row)
    _cli.dump({"slug": command.slug, "size": command.size, "mesh": mesh, **measure(command.experiment, mesh, o.phase)})


def _shared(p: argparse.ArgumentParser) -> None:
    p.add_argument("--mesh", default="data=8", help="devices an axis: data=8,model=2")
    p.add_argument("--timeout", type=float, default=120.0, help="seconds after which a compilation is given up")
    p.add_argument("--memory", type=float, default=8.0, help="GiB of this host's memory at which it is given up")


def run_all() -> None:
    p = argparse.ArgumentParser(prog="python -m experiments.dryrun --all", description=__doc__.splitlines()[0])
    p.add_argument("--all", action="store_true", help="every system")
    p.add_argument("--size", default="paper")
    p.add_argument("--write", action="store_true", help="rewrite the table of docs/dryrun.md")
    _shared(p)
    o = p.parse_args()
    mesh, rows = parse_mesh(o.mesh), []
    for e in _cli.entries():
        if o.size in e.sizes:
            row = {"slug": e.slug, "size": o.size, "mesh": mesh}
            row |= guarded([e.slug, "--size", o.size, "--mesh", o.mesh, "--here"], mesh, o.timeout, o.memory)
            _cli.dump(row)
            rows.append(row)
    if o.write:
        text = PAGE.read_text(encoding="utf-8")
        longer = f" --timeout {o.timeout:g}" if o.timeout != p.get_default("timeout") else ""
        command = f"python -m experiments.dryrun --all --size {o.size} --mesh {o.mesh}{longer} --write"
        PAGE.write_text(MARK.sub(lambda m: m[1] + table(rows, command) + m[2], text), encoding="utf-8")


def parse_mesh(text: str) -> dict[str, int]:
    """{"data": 8, "model": 2} of "data=8,model=2". Raises ConfigError for another axis or a number below 1."""
    sizes = {"data": 1, "model": 1, "fsdp": 1}
    for part in text.split(","):
        axis, _, number = part.strip().partition("=")
        if axis not in sizes or not number.isdigit() or int(number) < 1:
            raise _cli.ConfigError(
                f"--mesh {text!r}: write data=N,model=N (and fsdp=N) with whole numbers of at least 1"
            )
        sizes[axis] = int(number)
    return {axis: n for axis, n in sizes.items() if n > 1 or axis != "fsdp"}


def guarded(args: Sequence[str], mesh: Mapping[str, int], timeout: float, memory: float) -> dict[str, Any]:
    """The row that another process printed, or {"failed": why} where it ran over time or memory.

    The devices are simulated, which must be said before JAX starts. Raises ConfigError where the config cannot work.
    """
    devices = math.prod(mesh.values())
    env = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices), "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(_cli.ROOT)}
    env.pop("JAX_DISABLE_MOST_OPTIMIZATIONS", None)
    command = [sys.executable, "-m", "experiments.dryrun", *args]
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
        raise _cli.ConfigError(err.strip().splitlines()[-1].removeprefix("error: "))
    if process.returncode:
        said = re.findall(r"^\w*(?:Error|Exception): .*", err, re.MULTILINE) or [f"exit code {process.returncode}"]
        return {"failed": said[-1][:200]}
    return json.loads(out.splitlines()[-1])


def measure(config: Any, sizes: Mapping[str, int], phase: int | None = None) -> dict[str, Any]:
    """The figures of one step on a mesh of the devices here. Bytes are those of one device, FLOPs those of all together."""
    import jax

    from mmrep.config import Mesh
    from mmrep.train import cost, sharding

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
    sent = cost.traffic(cost.collectives(compiled.as_text()))
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


def with_row(page: str, row: Mapping[str, Any]) -> str:
    """The page with this row in place of the one of the same system and size, or behind the last."""
    (line,) = table([row], "").splitlines()[4:]
    key = line.split("|")[1]
    text = MARK.search(page)
    if text is None:
        raise _cli.ConfigError(f"{PAGE.name} has no table between <!-- dryrun --> and <!-- /dryrun -->")
    body = text[0].removeprefix(text[1]).removesuffix(text[2])
    lines = [x for x in body.splitlines() if not x.startswith(f"|{key}|")]
    at = next((i for i, x in enumerate(body.splitlines()) if x.startswith(f"|{key}|")), len(lines))
    lines.insert(at, line)
    return page[: text.start()] + text[1] + "\n".join(lines) + "\n" + text[2] + page[text.end() :]


def table(rows: Sequence[Mapping[str, Any]], command: str) -> str:
    """The Markdown table of docs/dryrun.md."""
    head = "| system | mesh | batch | parameters (M) | parameters (MB) | optimiser (MB) | extras (MB) | activations (GB) | TFLOPs a step | sent a step (MB) | compile (s) |"
    lines = [f"`{command}`", "", head, "|---|---|" + "---:|" * 7 + "---|---:|"]
    for r in rows:
        mesh = " x ".join(f"{k} {v}" for k, v in r["mesh"].items() if v > 1)
        name = f"`{r['slug']}`" + (f" {r['size']}" if r.get("size", "paper") != "paper" else "")
        if "failed" in r:
            lines.append(f"| {name} | {mesh} | {r['failed']} |||||||||")
            continue
        sent = ", ".join(f"{k} {v / 1e6:,.0f}" for k, v in r["bytes_sent"].items() if v >= 5e5) or "under 1"
        lines.append(
            f"| {name} | {mesh} | {r['batch_size']:,} | {r['parameters'] / 1e6:,.1f} | {r['bytes_parameters'] / 1e6:,.1f} | "
            f"{r['bytes_optimizer'] / 1e6:,.1f} | {r['bytes_extras'] / 1e6:,.1f} | {r['bytes_activations'] / 1e9:,.1f} | "
            f"{r['flops_per_step'] / 1e12:,.1f} | {sent} | {r['compile_seconds']:.0f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    _cli.main(run)
