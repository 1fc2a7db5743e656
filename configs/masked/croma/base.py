"""CROMA on synthetic scenes seen by an optical and a radar sensor, and its published size."""

from dataclasses import replace

from mmrep import modality
from mmrep.config import Data, Experiment, Optim, Phase, Rule, Train
from mmrep.data.scenes import landcover, optical, radar
from mmrep.data.scenes.source import SceneData
from mmrep.data.scenes.world import MATERIALS, SHAPES, WorldSpec
from mmrep.evals.dense import Segmentation
from mmrep.modality import Modality
from mmrep.nn.config import TransformerConfig, variant
from mmrep.nn.maps import dense
from mmrep.systems.masked.croma import Config
from mmrep.systems.masked.croma.evals import ClassFraction

SENSORS = ("optical", "radar", "landcover")
COLOURS = ("red", "yellow", "green", "blue")
# Optical bands depend on an object's colour and radar on its material; a class is both. Objects are in cells of a grid, so that a larger
# image has more of them, not larger ones.
WORLD = WorldSpec((2, 4), SHAPES[:8], COLOURS, materials=MATERIALS, distinct="none", grid=2, rotation=0.4)


def modalities(size: int, patch: int) -> tuple[Modality, Modality]:
    return (
        modality.image("optical", size, len(optical.BANDS), patch=patch),
        modality.image("radar", size, len(radar.BANDS), patch=patch),
    )


def scenes(size: int, world: WorldSpec, n_train: int, n_eval: int) -> SceneData:
    return SceneData(n_train, n_eval, n_eval, size=size, sensors=SENSORS, world=world, grain=0.03)


PARTS = modalities(24, 4)
COVER = dense(modality.label_map("landcover", 24, landcover.CLASSES, patch=4))
LARGER = (
    scenes(48, replace(WORLD, n_objects=(8, 16), grid=4), 1, 50),
    scenes(72, replace(WORLD, n_objects=(15, 16), grid=6), 1, 50),
)
SMALL = Config(
    dense(PARTS[0]), dense(PARTS[1]), encoder=TransformerConfig(width=64, depth=2, heads=8),
    decoder=TransformerConfig(width=48, depth=1, heads=4),
)  # fmt: skip
PENALTIES = tuple(10.0**e * 200 * 36 for e in range(-5, 5))  # per token of 200 images
LARGER_IMAGES = Segmentation(COVER, ("optical", "radar"), penalties=PENALTIES, name="larger", larger=LARGER)
EVALS = (ClassFraction(COVER), LARGER_IMAGES)


def small() -> Experiment:
    data = Data(scenes(24, WORLD, 6000, 300), PARTS, batch_size=32, eval_batch_size=50)
    optim = Optim(lr=1.5e-3, warmup=75, weight_decay=0.05, b2=0.95)
    return Experiment(SMALL, data, (Phase(steps=1500),), optim, EVALS, Train(log_every=50))


def tiny() -> Experiment:
    parts, cover = modalities(16, 4), dense(modality.label_map("landcover", 16, landcover.CLASSES, patch=4))
    system = Config(
        dense(parts[0]), dense(parts[1]), mask_optical=0.5, mask_radar=0.5,
        encoder=TransformerConfig(width=32, depth=2, heads=2), decoder=TransformerConfig(width=16, depth=1, heads=2),
    )  # fmt: skip
    larger = (scenes(32, replace(WORLD, n_objects=(4, 8), grid=4), 1, 8),)
    evals = ClassFraction(cover, labelled=24), replace(LARGER_IMAGES, map=cover, larger=larger, labelled=16, batch=8)
    data = Data(scenes(16, WORLD, 64, 16), parts, batch_size=8, eval_batch_size=8)
    return Experiment(system, data, (Phase(steps=4),), Optim(lr=1e-3), evals, Train(log_every=2))


def paper(size: str = "paper") -> Experiment:
    """CROMA-B, or CROMA-L with size "large"."""
    parts = modalities(120, 8)
    encoder, _ = variant("B/8" if size == "paper" else "L/8", heads=16, scan=True, remat=True)
    system = Config(dense(parts[0]), dense(parts[1]), encoder=encoder, dtype="bfloat16")
    optim = Optim(lr=4e-6 * 7200 / 256, warmup=2100, weight_decay=0.05, b2=0.95, clip=None)
    source = scenes(120, replace(WORLD, n_objects=(8, 16), grid=4), 1_000_000, 1000)
    data = Data(source, parts, batch_size=7200, eval_batch_size=50)
    steps = 42_000 if size == "paper" else 84_000  # 300 and 600 epochs of about a million pairs
    return Experiment(system, data, (Phase(steps=steps),), optim, sharding=(Rule(".*", "fsdp"),))
