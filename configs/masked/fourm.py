"""4M: one model from any modality to any other (Mizrahi et al., NeurIPS 2023)

Massively multimodal masked modeling, arXiv 2312.06647. Colour, depth, classes and captions as tokens; a few in, a few to be predicted.
    python -m experiments.train fourm
"""

from dataclasses import replace

from mmrep import modality
from mmrep.config import Data, Experiment, Optim, Phase, Rule, Tokenizer, Train
from mmrep.data.scenes.source import SceneData
from mmrep.data.scenes.world import SHAPES, WorldSpec
from mmrep.masking.spans import Mixture, Stream
from mmrep.systems.masked.fourm import Config, Levels

SIZES = ("tiny", "small", "paper", "bench")
CLASSES = 1 + len(SHAPES)
WORLD = WorldSpec(n_objects=(1, 2), distinct="none")
# Colour by 6 levels a channel, depth by 16: the mean of each patch says both.
LEVELS = Levels("rgb", (6, 6, 6)), Levels("depth", (16,))
# Half of the time colour alone goes in and all is predicted, half of the time all to all.
MIXTURES = (
    Mixture((1000.0, 0.0, 0.0, 0.0), (0.5,) * 4),
    Mixture((0.5,) * 4, (0.5,) * 4),
)


def streams(grid: int, vocab: int, length: int) -> tuple[Stream, ...]:
    whole = (grid, grid)
    images = Stream("rgb", 216, whole), Stream("depth", 16, whole), Stream("semseg", CLASSES, whole)
    return *images, Stream("caption", vocab, length=length)


def data(size: int, n_train: int, batch: int, vocab: int, length: int) -> Data:
    source = SceneData(n_train, 300, 300, size=size, sensors=("rgb", "depth", "semseg", "caption"), world=WORLD)
    parts = (
        modality.image("rgb", size),
        modality.image("depth", size, 1),
        modality.label_map("semseg", size, CLASSES),
        modality.text("caption", length, vocab),
    )
    return Data(source, parts, Tokenizer(vocab, kind="word"), batch_size=batch, eval_batch_size=100)


def made(system: Config, whole: Data, steps: int) -> Experiment:
    optim = Optim(lr=1e-3, warmup=steps // 20, weight_decay=0.05, b2=0.95, clip=None)
    return Experiment(system, whole, (Phase(steps=steps),), optim, train=Train(log_every=50))


def get_config(size: str = "small") -> Experiment:
    if size == "small":
        system = Config(
            streams(8, 128, 24), MIXTURES, LEVELS, n_input=48, n_target=48, width=128, encoder_depth=3, decoder_depth=3, heads=4
        )  # fmt: skip
        return made(system, data(32, 8000, 64, 128, 24), 1500)
    if size == "tiny":
        system = Config(
            streams(4, 96, 12), MIXTURES, LEVELS, n_input=12, n_target=12, width=32, encoder_depth=2, decoder_depth=2, heads=2
        )  # fmt: skip
        small = data(16, 64, 8, 96, 12)
        small = replace(small, source=replace(small.source, n_val=24, n_test=24), eval_batch_size=8)
        return Experiment(system, small, (Phase(steps=4),), Optim(lr=1e-3), train=Train(log_every=2))
    if size == "bench":
        return bench(3)
    # 4M-7 B without boxes, features and pixels, which the built-in world's tokens here do not have.
    grid = (14, 14)
    whole = (
        Stream("rgb", 16384, grid), Stream("depth", 8192, grid), Stream("semseg", 4096, grid),
        Stream("caption", 30_000, length=256),
    )  # fmt: skip
    levels = Levels("rgb", (25, 25, 25)), Levels("depth", (8192,))
    system = Config(whole, MIXTURES, levels, scan=True, remat=True, dtype="bfloat16")
    optim = Optim(lr=3.2e-3, warmup=4_800, weight_decay=0.05, b2=0.95, clip=None)
    scenes = data(224, 12_000_000, 8192, 30_000, 256)
    return Experiment(system, scenes, (Phase(steps=238_000),), optim, sharding=(Rule(".*", "fsdp"),))


def bench(images: int, vocab: int = 2048, words: int = 4096) -> Experiment:
    """So many 8 x 8 streams of ids and a caption, at equal budgets: what a step costs must not depend on how many there are."""
    names = [f"map{i}" for i in range(images)]
    every = *(Stream(n, vocab, (8, 8)) for n in names), Stream("caption", words, length=32)
    parts = *(modality.label_map(n, 8, vocab) for n in names), modality.text("caption", 32, words)
    even = (0.5,) * len(every)
    system = Config(
        every, (Mixture(even, even),), n_input=64, n_target=64, width=192, encoder_depth=6, decoder_depth=6, heads=3
    )  # fmt: skip
    # Timed on random ids; the source is not read.
    whole = replace(data(32, 256, 32, words, 32), modalities=parts)
    return Experiment(system, whole, (Phase(steps=20),), Optim(lr=1e-4, b2=0.95, clip=None))
