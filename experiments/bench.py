"""Times the training step of a system: step time, examples/s, model FLOPs utilisation, memory, the share of waiting for data, as one JSON line."""

import dataclasses
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from experiments import _cli
from mmrep.errors import ConfigError, DataError


@dataclasses.dataclass(frozen=True)
class Options:
    batch_size: int | None = None
    """examples a step (default: the config's)"""
    steps: int = 20
    """timed steps, after 3 that are not timed"""
    against: Literal["open_clip"] | None = None
    """alternate with another library's step, if it is installed"""
    data: bool = True
    """leave out the steps on real batches, which may first prepare the data"""
    rounds: int = 5
    """rounds of --steps each, with --against"""


def run() -> None:
    command = _cli.parse(Options, __doc__)
    config = command.experiment
    if command.options.batch_size is not None:
        config = dataclasses.replace(
            config, data=dataclasses.replace(config.data, batch_size=command.options.batch_size)
        )
    if command.options.steps < 1:
        raise ConfigError("--steps must be at least 1")
    rival = None
    if command.options.against:
        from experiments import against

        rival = against.RIVALS[command.options.against](config)
    row = {"slug": command.slug, "size": command.size, "variant": command.variant}
    row |= measure(config, command.options.steps, data=command.options.data)
    if rival:
        row |= compare(config, *rival, command.options.steps, command.options.rounds)
    _cli.dump(row)


def prepare(config: Any, mesh: Any) -> tuple[Any, Any, Any, Any]:
    """(stage, state, random batch on the device, key) of the first phase that has gradient steps."""
    import jax

    from mmrep import modality
    from mmrep.training import loop, sharding

    index = next((i for i, p in enumerate(config.phases) if p.run is None), None)
    if index is None:
        raise ConfigError(
            "this system takes no gradient steps (every phase is a plain function): there is nothing to time"
        )
    stage = loop.make_phase_state(config, index, mesh)
    example = modality.example(config.data.modalities, config.data.batch_size)
    batch = sharding.put_batch(example, sharding.batch_sharding(mesh))
    key = jax.device_put(jax.random.key(0), sharding.replicated(mesh))
    return stage, stage.create(*loop.initial(config)), batch, key


def measure(config: Any, steps: int, data: bool = False) -> dict[str, Any]:
    """The figures of the first phase that has gradient steps, on a random batch that stays on the device.

    flops_per_step: of matrix products and convolutions over all devices (mmrep.training.cost.flops; XLA's own count takes a scanned loop
    for one of its turns).   mfu: FLOPs/s over those of a large matmul timed in the same process, times the devices of the mesh.
    bytes_temporary: of one device, by the compiler; bytes_process: the most that this process has held in memory so far.
    With `data` as many steps follow on real batches: data_wait is the share of their time spent waiting for the next batch.
    """
    import jax

    from mmrep.training import cost, sharding

    mesh = sharding.make_mesh(config.mesh)
    with jax.set_mesh(mesh):
        stage, state, batch, key = prepare(config, mesh)
        clock = time.perf_counter()
        traced = stage.step.trace(state, batch, key)
        compiled = traced.lower().compile()
        compiling = time.perf_counter() - clock
        parameters, flops = cost.parameters(state), cost.flops(traced.jaxpr.jaxpr)
        times = []
        for i in range(steps + 3):
            clock = time.perf_counter()
            state, metrics = compiled(state, batch, key)
            jax.block_until_ready(metrics["loss"])
            if i >= 3:
                times.append(time.perf_counter() - clock)
        waits = real_batches(config, stage.phase, compiled, state, key, mesh, steps) if data else {}
    step = statistics.median(times)
    peak = matmul_rate() * mesh.size
    return {
        "batch_size": config.data.batch_size, "parameters": parameters, "step_ms": step * 1e3, "step_ms_min": min(times) * 1e3,
        "examples_per_second": config.data.batch_size / step, "flops_per_step": flops, "flops_per_second": flops / step,
        "matmul_flops_per_second": peak, "mfu": flops / step / peak, "compile_seconds": compiling, "devices": mesh.size,
        "bytes_state": cost.bytes_per_device(state), "bytes_temporary": compiled.memory_analysis().temp_size_in_bytes,
        "bytes_process": resident("VmHWM"),
    } | waits  # fmt: skip


def real_batches(
    config: Any, phase: Any, compiled: Any, state: Any, key: Any, mesh: Any, steps: int
) -> dict[str, Any]:  # fmt: skip
    """{"data_wait", "examples_per_second_with_data"} of `steps` steps fed by the pipeline, or {"data": why not} where it cannot be opened."""
    import jax

    from mmrep import paths
    from mmrep.data import pipeline
    from mmrep.training import loop, sharding

    try:
        sources = [phase.data or config.data.source]
        model = pipeline.fit_tokenizer(config.data, sources, paths.cache() / "tokenizers")
        tokenize = pipeline.load_tokenizer(config.data, model)
        split = pipeline.open_split(config.data, tokenize, "train", sources[0])
        host = pipeline.train_batches(split, config.data.batch_size, config.train.seed)
        batches = loop._ahead(host, sharding.batch_sharding(mesh))
        next(batches)  # starts the workers
    except (ConfigError, DataError) as error:
        return {"data": str(error)}
    waited, begun = 0.0, time.perf_counter()
    for _ in range(steps):
        clock = time.perf_counter()
        batch = next(batches)
        waited += time.perf_counter() - clock
        state, metrics = compiled(state, batch, key)
        jax.block_until_ready(metrics["loss"])
    took = time.perf_counter() - begun
    return {"data_wait": waited / took, "examples_per_second_with_data": steps * config.data.batch_size / took}


def resident(field: str = "VmRSS", pid: int | str = "self") -> int:
    """Bytes of memory that a process holds (VmRSS) or has held at most (VmHWM); 0 where /proc is missing."""
    try:
        found = re.search(rf"{field}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0


def compare(config: Any, versions: str, step: Callable[[], float], steps: int, rounds: int) -> dict[str, Any]:
    """Both libraries' steps in turn, A B A B: a round's ratio is the rival's median step time over ours, of the same minute."""
    import jax

    from mmrep.training import sharding

    mesh, pairs = sharding.make_mesh(config.mesh), []
    with jax.set_mesh(mesh):
        stage, state, batch, key = prepare(config, mesh)

        def ours() -> float:
            nonlocal state
            clock = time.perf_counter()
            state, metrics = stage.step(state, batch, key)
            jax.block_until_ready(metrics["loss"])
            return time.perf_counter() - clock

        for _ in range(rounds + 1):
            # The first step of a turn wakes the library's threads and refills the caches.
            pairs.append([statistics.median([f() for _ in range(steps + 1)][1:]) for f in (ours, step)])
    ratios = [theirs / mine for mine, theirs in pairs[1:]]
    return {
        "against": versions, "step_ms_pairs": [[round(1e3 * t, 1) for t in p] for p in pairs[1:]], "ratios": ratios,
        "ratio": statistics.median(ratios),
    }  # fmt: skip


def matmul_rate(n: int = 2048, dtype: Any = "float32") -> float:
    """FLOPs/s of an n x n matmul on one device: in float32 the reference of mfu."""
    import jax
    import jax.numpy as jnp

    product = jax.jit(jnp.matmul)
    a = jnp.ones((n, n), dtype)
    times = []
    for _ in range(6):
        clock = time.perf_counter()
        product(a, a).block_until_ready()
        times.append(time.perf_counter() - clock)
    return 2 * n**3 / min(times)


if __name__ == "__main__":
    _cli.main(run)
