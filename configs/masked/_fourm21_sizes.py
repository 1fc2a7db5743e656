"""4M-21 beyond its small size: the published one, and small ones trained on: to be steered, and to read embeddings of words."""

from dataclasses import replace

from configs.masked.fourm21 import LEVELS, SHARED, STEERED, data, made, mixtures, streams, system
from mmrep import modality
from mmrep.config import Experiment, Optim, Phase, Pretrained, Rule
from mmrep.data.mixture import Group
from mmrep.data.scenes.words import DIM, LENGTH
from mmrep.systems.masked.fourm import Config
from mmrep.systems.masked.fourm.evals import TokenAccuracy
from mmrep.systems.masked.fourm.masking import Mixture, Stream
from mmrep.systems.masked.fourm.model import BASE
from mmrep.systems.masked.fourm.tokens import Levels


def to_colour(keep: str, *given: str) -> Mixture:
    """From these streams to colour alone; the second is kept whole, or a random part of it."""
    names = [s.name for s in streams(8, 4)]
    kept = (("caption", "all"), (given[-1], keep))
    return Mixture(tuple(2.0 * (n in given) for n in names), tuple(float(n == "rgb") for n in names), keep=kept)


def steering(steps: int = 2000, start: Experiment | None = None) -> Experiment:
    """`small` trained on to make colour of captions with metadata or palettes, and that alone, of records that own all."""
    drawn = to_colour("random", "caption", "metadata"), to_colour("all", "caption", "palette")
    base = made(replace(system(), mixtures=drawn), steps, STEERED)
    every = replace(base.data.source, groups=(Group(base.data.source.streams, 1.0),))
    begun = Pretrained(start or made(system(), 3000, ()), follow_seed=True)
    return replace(
        base,
        data=replace(base.data, source=every),
        phases=(Phase("steering", steps, start=(begun,)),),
        optim=replace(base.optim, lr=1e-3),
    )


def with_words(e: Experiment) -> Experiment:
    """An experiment in which embeddings of the caption's words go in too, in a mixture of their own mostly they (the paper's T5 stream)."""
    words, old = Stream("words", 0, length=LENGTH, vectors=DIM), [s.name for s in e.system.streams]
    even = [m.inputs[1] if len({*m.inputs}) == 1 else 0.0 for m in e.system.mixtures]  # of those from all to all
    grown = tuple(replace(m, inputs=(*m.inputs, a), targets=(*m.targets, 0.0)) for m, a in zip(e.system.mixtures, even))
    few, out = (0.05 * (n != "caption") for n in old), (0.5 * (n != "pixels") for n in old)
    led = Mixture((*few, 5.0), (*out, 0.0), 0.5, (("words", "all"),))
    first, *rest = e.data.source.groups
    records = replace(e.data.source.source, sensors=(*e.data.source.source.sensors, "words"))
    names = (*e.data.source.streams, "words")
    source = replace(
        e.data.source, source=records, streams=names, groups=(replace(first, owns=(*first.owns, "words")), *rest)
    )
    parts = *(m for m in e.data.modalities if m.name != "present"), modality.vector("words", LENGTH, DIM)
    return replace(
        e,
        system=replace(e.system, streams=(*e.system.streams, words), mixtures=(*grown, led)),
        data=replace(e.data, source=source, modalities=(*parts, modality.vector("present", len(names)))),
    )


def words(steps: int = 1000, start: Experiment | None = None) -> Experiment:
    """`small` with one modality more, trained on."""
    reads = TokenAccuracy(("words",), ("caption", "semseg", "detections"))
    e = with_words(made(system(), steps, (SHARED, reads)))
    begun = Pretrained(start or made(system(), 3000, ()), follow_seed=True)
    return replace(e, phases=(Phase("words", steps, start=(begun,)),), optim=replace(e.optim, lr=1e-3))


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
    shape = replace(BASE, width=2048, depth=24, heads=32, scan=True, remat=True)
    model = Config(
        every, mixtures(every), levels, n_input=256, n_target=256, encoder=shape, decoder=shape, dtype="bfloat16"
    )  # fmt: skip
    optim = Optim(lr=2e-5 * 4096 / 256, warmup=4_800, weight_decay=0.05, b2=0.95, clip=3.0)
    scenes = data(224, 12_000_000, 5000, 4096, 256, 30_000)
    return with_words(Experiment(model, scenes, (Phase(steps=238_000),), optim, sharding=(Rule(".*", "fsdp"),)))
