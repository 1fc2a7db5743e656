"""MultiMAE's data, sizes and ablations, for its own config and for the recipes that start from it."""

from dataclasses import replace

from mmrep import modality
from mmrep.config import Data, Experiment, Optim, Phase, Rule, Train
from mmrep.data.aligned import Aligned
from mmrep.data.coded import STEP, CodedData
from mmrep.data.scenes.source import SceneData
from mmrep.data.scenes.world import GROUNDS, SHAPES, TEXTURES, WorldSpec
from mmrep.evals.dense import CrossPrediction, EverySubset, Segmentation
from mmrep.modality import Modality
from mmrep.nn.config import TransformerConfig, variant
from mmrep.nn.maps import dense
from mmrep.systems.masked.multimae import Config, Task

# The class of a thing is its shape; colour, texture and ground are drawn independently of it.
WORLD = WorldSpec(
    (3, 6), SHAPES[:4], sizes=("big",), textures=TEXTURES, grounds=GROUNDS, distinct="none", overlap=True, rotation=0.4
)
CLASSES = 1 + len(WORLD.shapes)
TASKS = (Task("rgb"), Task("rgb", "norm_mse"), Task("depth", "l1"), Task("semseg", "ce"))


def modalities(
    size: int, patch: int, *, stride: int = 1, classes: int = CLASSES
) -> tuple[Modality, Modality, Modality]:
    """rgb, depth and a class map with `stride` pixels of rgb per pixel."""
    return (
        modality.image("rgb", size, patch=patch),
        # The synthetic scenes' ground is flat: the middle 80 % of a depth map may have no variance, so they have fixed statistics.
        modality.image("depth", size, 1, patch=patch, mean=(0.8,), std=(0.25,)),
        modality.label_map("semseg", size // stride, classes, patch=patch // stride),
    )


def transformer(width: int, depth: int, heads: int, **options: bool) -> TransformerConfig:
    return TransformerConfig(width=width, depth=depth, heads=heads, epsilon=1e-6, **options)


def data(parts: tuple[Modality, ...], n_train: int, batch: int, n_eval: int = 300, eval_batch: int = 100) -> Data:
    source = SceneData(
        n_train, n_eval, n_eval, size=parts[0].size[0], sensors=("rgb", "depth", "semseg"), world=WORLD, grain=0.03
    )
    return Data(source, parts, batch_size=batch, eval_batch_size=eval_batch)


PARTS = modalities(32, 4)
RGB, DEPTH, SEMSEG = dense(PARTS[0]), dense(PARTS[1]), dense(PARTS[2], class_dim=32)
SMALL = Config(
    (RGB, DEPTH, SEMSEG), TASKS, num_encoded_tokens=48, position_base=10.0, encoder=transformer(64, 3, 4),
    decoder=transformer(48, 1, 4),
)  # fmt: skip
MAE = replace(SMALL, maps=(RGB,), tasks=TASKS[:2], num_encoded_tokens=16)
"""A masked autoencoder of colour alone."""
EVALS = Segmentation(SEMSEG), CrossPrediction(DEPTH), Segmentation(SEMSEG, ("rgb", "depth"))


def experiment(system: Config = SMALL, steps: int = 600, evals: tuple = EVALS) -> Experiment:
    optim = Optim(lr=3e-3, warmup=steps // 10, weight_decay=0.05, b2=0.95, clip=None)
    return Experiment(system, data(PARTS, 8000, 32), (Phase(steps=steps),), optim, evals, Train(log_every=50))


def small() -> Experiment:
    return experiment(steps=1500, evals=(*EVALS, EverySubset((RGB, DEPTH, SEMSEG))))


def tiny() -> Experiment:
    parts = modalities(16, 4)
    maps = dense(parts[0]), dense(parts[1]), dense(parts[2], class_dim=8)
    shapes = {"encoder": transformer(32, 2, 2), "decoder": transformer(16, 1, 2)}
    system = Config(maps, TASKS, num_encoded_tokens=12, **shapes)
    evals = Segmentation(maps[2], labelled=24), CrossPrediction(maps[1], limit=16)
    few = data(parts, 64, 8, n_eval=24, eval_batch=8)
    return Experiment(system, few, (Phase(steps=4),), Optim(lr=1e-3), evals, Train(log_every=2))


def paper() -> Experiment:
    rgb, depth, semseg = modalities(224, 16, stride=4, classes=133)
    rgb = replace(rgb, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    encoder, _ = variant("B/16", epsilon=1e-6, scan=True, remat=True)
    maps = dense(rgb), dense(depth, truncated=True), dense(semseg)
    system = Config(maps, TASKS, encoder=encoder, dtype="bfloat16")
    optim = Optim(lr=8e-4, warmup=25_000, weight_decay=0.05, b2=0.95, clip=None)
    whole = data((rgb, depth, semseg), 1_281_167, 2048)
    whole = replace(whole, source=Aligned(whole.source, crop=(0.2, 1.0)))
    return Experiment(system, whole, (Phase(steps=1_000_000),), optim, sharding=(Rule(".*", "fsdp"),))


CODED = CodedData(6000, sensors=(("rgb", 3), ("depth", 1)), kinds=16, noise=0.7)
"""Neither a linear map of a patch's colours nor the colours of its neighbours give its class; its depth gives class and sign."""
CODED_PARTS = tuple(
    modality.image(k, CODED.size, channels, patch=CODED.patch, std=(STEP,)) for k, channels in CODED.sensors
)
CODED_CLASSES = modality.label_map("classes", CODED.grid, CODED.kinds)
CODED_MULTI = Config(
    tuple(dense(m) for m in CODED_PARTS), (Task("rgb"), Task("depth")), num_encoded_tokens=18, position_base=10.0,
    encoder=transformer(64, 2, 4), decoder=transformer(48, 1, 4),
)  # fmt: skip
CODED_MAE = replace(CODED_MULTI, maps=CODED_MULTI.maps[:1], tasks=CODED_MULTI.tasks[:1], num_encoded_tokens=9)


def coded(system: Config, steps: int, evals: tuple = ()) -> Experiment:
    optim = Optim(lr=3e-3, warmup=steps // 10, weight_decay=0.05, b2=0.95, clip=None)
    data = Data(CODED, CODED_PARTS, batch_size=64, eval_batch_size=100)
    return Experiment(system, data, (Phase(steps=steps),), optim, evals, Train(log_every=50))
