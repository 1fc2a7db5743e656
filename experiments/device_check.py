"""Checks the accelerator of this machine in at most eight minutes: parity, bfloat16 steps, the largest batch, a loss of linear memory; prints one JSON.

python -m experiments.device_check                        on one GPU or TPU
python -m experiments.device_check --size tiny            the same pieces on a CPU, in three minutes

Every piece runs in a process of its own, which gives its memory back, and reports {"seconds": ..., ...} or {"error": one sentence}. Nothing is
written outside a temporary folder.
"""

import dataclasses
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from experiments import _cli, bench
from mmrep.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]
STEPS = ("clip", "multimae", "fourm")
PARITY = ("contrastive/test_clip_weights.py", "masked/test_multimae.py", "masked/test_fourm.py", "masked/test_croma.py")
# Seconds a piece may take; pieces that the budget no longer covers are left out by name.
PIECES = {"versions": 40, "loss": 60, "clip": 90, "multimae": 90, "fourm": 90, "parity": 150, "largest_batch": 120}
# bfloat16 FLOPs/s without sparsity, from the makers' data sheets, by a part of the device's name.
PEAKS = {
    "H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "V100": 125e12,
    "TPU v6": 918e12, "TPU v5p": 459e12, "TPU v5": 197e12, "TPU v4": 275e12,
}  # fmt: skip


@dataclass(frozen=True)
class Options:
    size: str = "paper"
    """paper: published sizes on an accelerator; tiny: every piece on a CPU"""
    budget: float = 480.0
    """seconds for all pieces together"""
    piece: str = ""
    """one piece alone, in this process: versions, loss, clip, multimae, fourm, parity, largest_batch"""


def run() -> None:
    options = tyro.cli(Options, description=__doc__)
    if options.size not in ("paper", "tiny"):
        raise ConfigError(f"--size is {options.size!r}: give paper or tiny")
    if options.piece:
        if options.piece not in PIECES:
            raise ConfigError(f"--piece is {options.piece!r}: give one of {', '.join(PIECES)}")
        return _cli.dump(piece(options.piece, options.size))
    begun, found = time.perf_counter(), {}
    with tempfile.TemporaryDirectory() as folder:
        for name, most in PIECES.items():
            left = options.budget - (time.perf_counter() - begun)
            found[name] = (
                apart(name, options.size, min(most, left), Path(folder)) if left > 20 else {"error": "out of time"}
            )
    _cli.dump({"size": options.size, "seconds": round(time.perf_counter() - begun, 1), **found})


def apart(name: str, size: str, seconds: float, folder: Path) -> dict[str, Any]:
    """The result of one piece, from a process of its own with its caches in `folder`."""
    command = [sys.executable, "-m", "experiments.device_check", "--piece", name, "--size", size]
    environment = os.environ | {"MMREP_CACHE": str(folder / "cache"), "TMPDIR": str(folder)}
    clock = time.perf_counter()
    try:
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=seconds)
        lines = done.stdout.strip().splitlines()
        found = (
            json.loads(lines[-1]) if done.returncode == 0 else {"error": (done.stderr.strip() or "no output")[-300:]}
        )
    except subprocess.TimeoutExpired:
        found = {"error": f"stopped after {seconds:.0f} seconds"}
    return {"seconds": round(time.perf_counter() - clock, 1)} | found


def piece(name: str, size: str) -> dict[str, Any]:
    if name == "versions":
        return versions()
    if name == "parity":
        return parity()
    if name == "loss":
        return contrastive_loss(32_768 if size == "paper" else 256, 512 if size == "paper" else 16)
    if name == "largest_batch":
        return largest_batch(experiment("clip", size), most=2**16 if size == "paper" else 16)
    return step(name, size)


def versions() -> dict[str, Any]:
    """Python, libraries, devices, and the bfloat16 rate of a large product on one of them."""
    import jax

    from mmrep.training.workdir import versions as libraries

    device = jax.devices()[0]
    return {
        "python": sys.version.split()[0], "libraries": libraries(), "platform": device.platform, "device": device.device_kind,
        "devices": jax.device_count(), "bytes_limit": (device.memory_stats() or {}).get("bytes_limit"),
        "matmul_flops_per_second": rate(),
    }  # fmt: skip


def rate() -> float:
    import jax

    return bench.matmul_rate(8192, "bfloat16") if jax.default_backend() != "cpu" else bench.matmul_rate(512)


def parity() -> dict[str, Any]:
    """How many of the comparisons with the authors' numbers pass on this device, with products in full float32."""
    files = [str(ROOT / "tests/systems" / f) for f in PARITY]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:xdist",
        "-p",
        "no:cacheprovider",
        "-k",
        "authors or reference",
        *files,
    ]
    environment = os.environ | {"JAX_DEFAULT_MATMUL_PRECISION": "highest", "JAX_DISABLE_MOST_OPTIMIZATIONS": "0"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    counts = {kind: int(n) for n, kind in re.findall(r"(\d+) (passed|failed|skipped|error)", done.stdout)}
    failed = re.findall(r"^FAILED (\S+)", done.stdout, re.MULTILINE)
    return counts | ({"failures": failed} if failed else {}) | ({} if counts else {"error": done.stdout[-300:]})


def experiment(slug: str, size: str, batch_size: int | None = None) -> Any:
    """The system's config with its batch cut to what one device holds, and cuDNN's attention on a GPU."""
    import jax

    from mmrep import catalogue

    config = catalogue.experiment(slug, size, "")
    n = batch_size or min(config.data.batch_size, {"clip": 256, "multimae": 128, "fourm": 128}[slug])
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, batch_size=n))
    return with_attention(config, "cudnn") if jax.default_backend() == "gpu" else config


def with_attention(config: Any, implementation: Any) -> Any:
    """`config` with this implementation of attention in every transformer of its system."""
    from mmrep.nn.config import TransformerConfig

    def changed(value: Any) -> Any:
        if isinstance(value, TransformerConfig):
            return dataclasses.replace(value, implementation=implementation)
        if isinstance(value, tuple):
            return tuple(changed(v) for v in value)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            parts = {f.name: changed(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}
            return value if all(parts[k] is getattr(value, k) for k in parts) else dataclasses.replace(value, **parts)
        return value

    return dataclasses.replace(config, system=changed(config.system))


def step(slug: str, size: str) -> dict[str, Any]:
    """A training step with and without real batches; the utilisation is of the data sheet's rate where it is known."""
    import jax

    found = bench.measure(experiment(slug, size), steps=10 if size == "paper" else 2, data=True)
    kind = jax.devices()[0].device_kind
    peak = next((v for k, v in PEAKS.items() if k.lower() in kind.lower()), None)
    kept = (
        "batch_size",
        "parameters",
        "step_ms",
        "examples_per_second",
        "flops_per_step",
        "compile_seconds",
        "bytes_temporary",
        "data_wait",
        "data",
    )
    return {k: found[k] for k in kept if k in found} | {
        "mfu": found["flops_per_second"] / peak if peak else found["mfu"],
        "mfu_of": f"{peak:.3g} FLOPs/s of {kind}" if peak else "a float32 product timed here",
    }


def largest_batch(config: Any, most: int) -> dict[str, Any]:
    """The largest power of two of rows that one device holds in a training step of `config`."""
    import jax

    from mmrep.training import sharding

    fits = 0
    n = min(config.data.batch_size, most)
    while n <= most:
        tried = dataclasses.replace(config, data=dataclasses.replace(config.data, batch_size=n))
        mesh = sharding.make_mesh(tried.mesh)
        try:
            with jax.set_mesh(mesh):
                stage, state, batch, key = bench.prepare(tried, mesh)
                jax.block_until_ready(stage.step(state, batch, key))
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            break
        fits, n = n, 2 * n
    return {"largest_batch": fits, "tried_up_to": most}


def contrastive_loss(rows: int, width: int) -> dict[str, Any]:
    """Seconds and temporary bytes of InfoNCE and its gradient, block by block and with all B^2 scores at once."""
    import jax
    import jax.numpy as jnp

    from mmrep.losses.blocks import Blocks
    from mmrep.losses.contrastive import symmetric_info_nce

    x, y = jax.random.normal(jax.random.key(0), (2, rows, width), jnp.float32) / width**0.5
    found: dict[str, Any] = {"rows": rows, "width": width}
    for name, blocks in (("blocks", Blocks(min(1024, rows // 4))), ("whole", None)):
        step = jax.jit(
            jax.value_and_grad(lambda x, y, b=blocks: symmetric_info_nce(x, y, 10.0, blocks=b).mean(), argnums=(0, 1))
        )
        try:
            compiled = step.lower(x, y).compile()
            value, _ = jax.block_until_ready(compiled(x, y))
            clock = time.perf_counter()
            jax.block_until_ready(compiled(x, y))
        except jax.errors.JaxRuntimeError as error:
            found[name] = {"error": str(error)[:200]}
            continue
        memory = getattr(compiled.memory_analysis(), "temp_size_in_bytes", 0)
        found[name] = {"loss": float(value), "step_seconds": time.perf_counter() - clock, "bytes_temporary": memory}
    return found


if __name__ == "__main__":
    _cli.main(run)
