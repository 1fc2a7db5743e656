"""Times the training step of a system: median step time, examples/s, model FLOPs/s and compile time, as one JSON line."""

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any

from experiments import _cli


def run() -> None:
    p = _cli.parser("bench", __doc__)
    p.add_argument("--batch-size", type=int, help="examples a step (default: the config's)")
    p.add_argument("--steps", type=int, default=20, help="timed steps, after 3 that are not")
    p.add_argument(
        "--against", choices=("open_clip",), help="alternate with another library's step, if it is installed"
    )
    p.add_argument("--rounds", type=int, default=5, help="of --steps each, with --against")
    command = _cli.parse(p)
    config = command.experiment
    if command.options.batch_size is not None:
        config = dataclasses.replace(
            config, data=dataclasses.replace(config.data, batch_size=command.options.batch_size)
        )
    if command.options.steps < 1:
        raise _cli.ConfigError("--steps must be at least 1")
    rival = None
    if command.options.against:
        from experiments import against

        rival = against.RIVALS[command.options.against](config)
    row = {"slug": command.slug, "size": command.size, **measure(config, command.options.steps)}
    if rival:
        row |= compare(config, *rival, command.options.steps, command.options.rounds)
    _cli.dump(row)


def prepare(config: Any, mesh: Any) -> tuple[Any, Any, Any, Any]:
    """(stage, state, random batch on the device, key) of the first phase that has gradient steps."""
    import jax

    from mmrep import modality
    from mmrep.train import loop, sharding

    index = next((i for i, p in enumerate(config.phases) if p.run is None), None)
    if index is None:
        raise _cli.ConfigError("this system takes no gradient steps: there is nothing to time")
    stage = loop.make_stage(config, index, mesh)
    example = modality.example(config.data.modalities, config.data.batch_size)
    batch = sharding.put_batch(example, sharding.batch_sharding(mesh))
    key = jax.device_put(jax.random.key(0), sharding.replicated(mesh))
    return stage, stage.create(*loop.initial(config)), batch, key


def measure(config: Any, steps: int) -> dict[str, Any]:
    """The figures of the first phase that has gradient steps, on a random batch that stays on the device.

    mfu is FLOPs/s of the compiled step over those of a large matmul timed in the same process.
    """
    import jax

    from mmrep.config import flatten
    from mmrep.train import sharding

    mesh = sharding.make_mesh(config.mesh)
    with jax.set_mesh(mesh):
        stage, state, batch, key = prepare(config, mesh)
        clock = time.perf_counter()
        compiled = stage.step.lower(state, batch, key).compile()
        compiling = time.perf_counter() - clock
        costs = compiled.cost_analysis() or {}
        parameters = sum(x.size for x in flatten(state["params"]).values())
        times = []
        for i in range(steps + 3):
            clock = time.perf_counter()
            state, metrics = compiled(state, batch, key)
            jax.block_until_ready(metrics["loss"])
            if i >= 3:
                times.append(time.perf_counter() - clock)
    step = statistics.median(times)
    flops = float(costs.get("flops", 0.0))
    peak = matmul_rate()
    return {
        "batch_size": config.data.batch_size, "parameters": parameters, "step_ms": step * 1e3, "step_ms_min": min(times) * 1e3,
        "examples_per_second": config.data.batch_size / step, "flops_per_step": flops, "flops_per_second": flops / step,
        "matmul_flops_per_second": peak, "mfu": flops / step / peak, "compile_seconds": compiling, "devices": jax.device_count(),
    }  # fmt: skip


def compare(config: Any, versions: str, step: Callable[[], float], steps: int, rounds: int) -> dict[str, Any]:
    """Both libraries' steps in turn, A B A B: a round's ratio is the rival's median step time over ours, of the same minute."""
    import jax

    from mmrep.train import sharding

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


def matmul_rate(n: int = 2048) -> float:
    """FLOPs/s of an n x n float32 matmul on one device: the ceiling that mfu is told against."""
    import jax
    import jax.numpy as jnp

    product = jax.jit(jnp.matmul)
    a = jnp.ones((n, n), jnp.float32)
    times = []
    for _ in range(6):
        clock = time.perf_counter()
        product(a, a).block_until_ready()
        times.append(time.perf_counter() - clock)
    return 2 * n**3 / min(times)


if __name__ == "__main__":
    _cli.main(run)
