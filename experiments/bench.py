"""Times the training step of a system: median step time, examples/s, model FLOPs/s and compile time, as one JSON line."""

import dataclasses
import statistics
import time
from typing import Any

from experiments import _cli


def run() -> None:
    p = _cli.parser("bench", __doc__)
    p.add_argument("--batch-size", type=int, help="examples a step (default: the config's)")
    p.add_argument("--steps", type=int, default=20, help="timed steps, after 3 that are not")
    command = _cli.parse(p)
    config = command.experiment
    if command.options.batch_size is not None:
        config = dataclasses.replace(
            config, data=dataclasses.replace(config.data, batch_size=command.options.batch_size)
        )
    if command.options.steps < 1:
        raise _cli.ConfigError("--steps must be at least 1")
    row = {"slug": command.slug, "size": command.size, **measure(config, command.options.steps)}
    _cli.dump(row)


def measure(config: Any, steps: int) -> dict[str, Any]:
    """The figures of the first phase that has gradient steps, on a random batch that stays on the device.

    mfu is FLOPs/s of the compiled step over those of a large matmul timed in the same process.
    """
    import jax

    from mmrep import modality
    from mmrep.config import flatten
    from mmrep.train import loop, sharding

    mesh = sharding.make_mesh(config.mesh)
    index = next((i for i, p in enumerate(config.phases) if p.run is None), None)
    if index is None:
        raise _cli.ConfigError("this system takes no gradient steps: there is nothing to time")
    with jax.set_mesh(mesh):
        stage = loop.make_stage(config, index, mesh)
        state = stage.create(*loop.initial(config))
        batch = sharding.put_batch(
            modality.example(config.data.modalities, config.data.batch_size), sharding.batch_sharding(mesh)
        )
        key = jax.device_put(jax.random.key(0), sharding.replicated(mesh))
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
