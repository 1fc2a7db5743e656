"""4M-21 beyond its small size: the published one, and a small one trained on to be steered."""

from dataclasses import replace

from configs.masked.fourm21 import LEVELS, STEERED, data, made, mixtures, streams, system
from mmrep.config import Experiment, Optim, Phase, Pretrained, Rule
from mmrep.masking.spans import Mixture
from mmrep.nn.stream_tokens import Levels
from mmrep.systems.masked.fourm import Config

WHOLE = (("caption", "all"),)


def to_colour(weight: float, keep: tuple[tuple[str, str], ...] = WHOLE, **given: float) -> Mixture:
    """From these streams to colour alone."""
    names = [s.name for s in streams(8, 4)]
    return Mixture(tuple(given.get(n, 0.0) for n in names), tuple(float(n == "rgb") for n in names), weight, keep)


def steering(steps: int = 1000, start: Experiment | None = None) -> Experiment:
    """`small` trained on to make colour of captions, metadata and palettes, and that alone."""
    drawn = (
        to_colour(1.0, caption=2.0, metadata=2.0),
        to_colour(1.0, caption=2.0, palette=2.0),
        to_colour(0.5, caption=1.0),
    )
    base = made(replace(system(), mixtures=drawn), 2 * steps, STEERED)
    phase = Phase("steering", steps, start=(Pretrained(start or made(system(), 3000, ()), follow_seed=True),))
    return replace(base, phases=(phase,), optim=replace(base.optim, lr=1e-3, warmup=steps // 20))


def paper() -> Experiment:
    """4M-21 XL over the modalities that the built-in world has."""
    every = tuple(
        replace(s, grid=(14, 14) if s.grid[0] > 1 else s.grid, patch=16 if s.patch else 0,
                vocab={"rgb": 16384, "depth": 8192, "normals": 8192, "edges": 8192}.get(s.name, 30_000 if s.length else s.vocab))
        for s in streams(14, 16, caption=256)
    )  # fmt: skip
    levels = (
        Levels("rgb", (25, 25, 25)), Levels("depth", (8192,)), Levels("normals", (20, 20, 20)), Levels("edges", (8192,)), *LEVELS[-2:],
    )  # fmt: skip
    shape = {"n_input": 256, "n_target": 256, "width": 2048, "encoder_depth": 24, "decoder_depth": 24, "heads": 32}
    model = Config(every, mixtures(every), levels, scan=True, remat=True, dtype="bfloat16", **shape)  # type: ignore[arg-type]
    optim = Optim(lr=2e-5 * 4096 / 256, warmup=4_800, weight_decay=0.05, b2=0.95, clip=3.0)
    scenes = data(224, 12_000_000, 5000, 4096, 256, 30_000)
    return Experiment(model, scenes, (Phase(steps=238_000),), optim, sharding=(Rule(".*", "fsdp"),))
