"""CROMA: contrastive learning and masked autoencoding of radar and optical images (Fuller et al., NeurIPS 2023)

Remote sensing representations with contrastive radar-optical masked autoencoders, arXiv 2311.00566. Relative position bias only (ALiBi), no
position embedding.
    python -m experiments.train croma
"""

from dataclasses import replace

import numpy as np

from mmrep import modality
from mmrep.config import Arm, Data, Expect, Experiment, Optim, Phase, Proof, Rule, Train
from mmrep.data.scenes import landcover, optical, radar
from mmrep.data.scenes.source import SceneData
from mmrep.data.scenes.world import MATERIALS, SHAPES, WorldSpec
from mmrep.evals.dense import Segmentation
from mmrep.modality import Modality
from mmrep.nn.config import TransformerConfig, variant
from mmrep.nn.maps import dense
from mmrep.systems.masked.croma import Config
from mmrep.systems.masked.croma.evals import ClassFraction

SIZES = ("tiny", "small", "paper", "large")
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
    dense(PARTS[0]), dense(PARTS[1]), encoder=TransformerConfig(width=64, depth=2, heads=4),
    decoder=TransformerConfig(width=48, depth=1, heads=4),
)  # fmt: skip
PENALTIES = tuple(10.0**e * 200 * 36 for e in range(-5, 5))  # per token of 200 images
LARGER_IMAGES = Segmentation(COVER, ("optical", "radar"), penalties=PENALTIES, name="larger", larger=LARGER)
EVALS = (ClassFraction(COVER), LARGER_IMAGES)


def half_shifted(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """The image shifted cyclically by half its height and width."""
    return np.roll(image, (image.shape[0] // 2, image.shape[1] // 2), (0, 1))


def experiment(system: Config = SMALL, steps: int = 800, evals: tuple = EVALS, shifted: bool = False) -> Experiment:
    """shifted: the radar image is shifted in training, so that the sensors are not aligned."""
    first, second = PARTS
    parts = first, replace(second, augment=(half_shifted,) if shifted else ())
    data = Data(scenes(24, WORLD, 6000, 300), parts, batch_size=32, eval_batch_size=50)
    optim = Optim(lr=1.5e-3, warmup=steps // 20, weight_decay=0.05, b2=0.95)
    return Experiment(system, data, (Phase(steps=steps),), optim, evals, Train(log_every=50))


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


def get_config(size: str = "small") -> Experiment:
    if size == "small":
        return experiment(steps=1500)
    if size == "tiny":
        return tiny()
    parts = modalities(120, 8)
    encoder, _ = variant("B/8" if size == "paper" else "L/8", heads=16, scan=True, remat=True)
    system = Config(dense(parts[0]), dense(parts[1]), encoder=encoder, dtype="bfloat16")
    optim = Optim(lr=4e-6 * 7200 / 256, warmup=2100, weight_decay=0.05, b2=0.95, clip=None)
    source = scenes(120, replace(WORLD, n_objects=(8, 16), grid=4), 1_000_000, 1000)
    data = Data(source, parts, batch_size=7200, eval_batch_size=50)
    steps = 42_000 if size == "paper" else 84_000  # 300 and 600 epochs of about a million pairs
    return Experiment(system, data, (Phase(steps=steps),), optim, sharding=(Rule(".*", "fsdp"),))


def get_proof() -> Proof:
    sincos = replace(SMALL, positions="sincos2d")
    extrapolated = replace(LARGER_IMAGES, features="fused_tokens_extrapolated", name="extrapolated")
    fractions = EVALS[:1]
    return Proof(
        claim="Contrast and reconstruction of two sensors together give better features than either alone, and relative positions (ALiBi) extrapolate to larger images.",
        metric="cover mean R2",
        arms=(
            Arm("croma", experiment()),
            Arm("contrast", experiment(replace(SMALL, mae_weight=0.0), evals=fractions)),
            Arm("reconstruction", experiment(replace(SMALL, contrastive_weight=0.0), evals=fractions)),
            Arm("sincos", experiment(sincos, evals=(*EVALS, extrapolated))),
            Arm("shifted", experiment(evals=fractions, shifted=True)),
        ),
        expects=(
            Expect("croma", "contrast", 0.01, "both losses > contrast alone, mean of optical, radar and joint"),
            Expect("croma", "reconstruction", 0.01, "both losses > reconstruction alone"),
            Expect("croma/larger kept x2", "sincos/larger kept x2", 0.1, "mIoU kept at 4 x the area: ALiBi > interpolated sin-cos"),
            Expect("croma/larger kept x2", "sincos/extrapolated kept x2", 0.0, "and > extrapolated sin-cos", headline=False),
            Expect("croma/larger kept x3", "sincos/larger kept x3", 0.1, "the same at 9 x the area", headline=False),
            Expect("croma/cover|optical+radar R2", "croma/cover|optical R2", 0.03, "joint > optical alone"),
            Expect("croma/cover|optical+radar R2", "croma/cover|radar R2", 0.03, "joint > radar alone"),
            Expect("croma/cover|optical+radar R2", "shifted/cover|optical+radar R2", 0.0, "radar shifted in training: less", headline=False),
        ),
        notes="Equal encoders, data and steps; ridge on the mean of frozen tokens of 1000 labelled scenes. Contrast alone trains no fusion: its joint features are both encoders' side by side.",
    )  # fmt: skip
