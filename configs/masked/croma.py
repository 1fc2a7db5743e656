"""CROMA: optics and radar contrasted, fused and reconstructed (Fuller et al., NeurIPS 2023)

Remote sensing representations with contrastive radar-optical masked autoencoders, arXiv 2311.00566. No positions but distances.
    python -m experiments.train croma
Proof: does not hold here. Both losses together probe .354 (mean R2), contrast alone .360, reconstruction alone .365; sin-cos positions that are
squeezed keep more of their mIoU on larger images than distances do. What holds: both sensors together tell more than either.
"""

from dataclasses import replace

import numpy as np

from mmrep import modality
from mmrep.config import Arm, Data, Expect, Experiment, Optim, Phase, Proof, Rule, Train
from mmrep.data.scenes import landcover, optical, radar
from mmrep.data.scenes.source import SceneData
from mmrep.data.scenes.world import MATERIALS, SHAPES, WorldSpec
from mmrep.nn.config import TransformerConfig, variant
from mmrep.nn.maps import Map
from mmrep.systems.masked.croma import Config
from mmrep.systems.masked.croma.evals import Cover, LargerImages

SIZES = ("tiny", "small", "paper", "large")
SENSORS = ("optical", "radar", "landcover")
COLOURS = ("red", "yellow", "green", "blue")
# Optics tell the colour of a thing and radar its material; a class is both. Objects stand in cells, so that a larger picture
# shows more of them, not larger ones.
WORLD = WorldSpec((2, 4), SHAPES[:8], COLOURS, materials=MATERIALS, distinct="none", grid=2, rotation=0.4)


def maps(size: int, patch: int) -> tuple[Map, Map, Map]:
    whole = size, size
    return (
        Map("optical", whole, patch, len(optical.BANDS)), Map("radar", whole, patch, len(radar.BANDS)),
        Map("landcover", whole, patch, classes=landcover.CLASSES),
    )  # fmt: skip


def scenes(size: int, world: WorldSpec, n_train: int, n_eval: int) -> SceneData:
    return SceneData(n_train, n_eval, n_eval, size=size, sensors=SENSORS, world=world, grain=0.03)


OPTICAL, RADAR, COVER = maps(24, 4)
LARGER = (
    scenes(48, replace(WORLD, n_objects=(8, 16), grid=4), 1, 50),
    scenes(72, replace(WORLD, n_objects=(15, 16), grid=6), 1, 50),
)
SMALL = Config(
    OPTICAL, RADAR, encoder=TransformerConfig(width=64, depth=2, heads=4),
    decoder=TransformerConfig(width=48, depth=1, heads=4),
)  # fmt: skip
EVALS = (Cover(COVER), LargerImages(COVER, LARGER))


def half_away(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """The picture shifted by half its height and width, around its edges."""
    return np.roll(image, (image.shape[0] // 2, image.shape[1] // 2), (0, 1))


def data(size: int, n_train: int, n_eval: int, batch: int, apart: bool = False, world: WorldSpec = WORLD) -> Data:
    parts = (
        modality.image("optical", size, len(optical.BANDS)),
        modality.image("radar", size, len(radar.BANDS), augment=(half_away,) if apart else ()),
    )
    return Data(scenes(size, world, n_train, n_eval), parts, batch_size=batch, eval_batch_size=50)


def made(system: Config = SMALL, steps: int = 800, evals: tuple = EVALS, apart: bool = False) -> Experiment:
    optim = Optim(lr=1.5e-3, warmup=steps // 20, weight_decay=0.05, b2=0.95)
    return Experiment(system, data(24, 6000, 300, 32, apart), (Phase(steps=steps),), optim, evals, Train(log_every=50))


def get_config(size: str = "small") -> Experiment:
    if size == "small":
        return made(steps=1500)
    if size == "tiny":
        first, second, cover = maps(16, 4)
        system = Config(
            first, second, mask_optical=0.5, mask_radar=0.5, encoder=TransformerConfig(width=32, depth=2, heads=2),
            decoder=TransformerConfig(width=16, depth=1, heads=2),
        )  # fmt: skip
        larger = (scenes(32, replace(WORLD, n_objects=(4, 8), grid=4), 1, 8),)
        evals = Cover(cover, labelled=24), LargerImages(cover, larger, labelled=16, batch=8)
        small = replace(data(16, 64, 16, 8), eval_batch_size=8)
        return Experiment(system, small, (Phase(steps=4),), Optim(lr=1e-3), evals, Train(log_every=2))
    first, second, _ = maps(120, 8)
    shape, _ = variant("B/8" if size == "paper" else "L/8", heads=16, scan=True, remat=True)
    system = Config(first, second, encoder=shape, dtype="bfloat16")
    optim = Optim(lr=4e-6 * 7200 / 256, warmup=2100, weight_decay=0.05, b2=0.95, clip=None)
    whole = data(120, 1_000_000, 1000, 7200, world=replace(WORLD, n_objects=(8, 16), grid=4))
    steps = 42_000 if size == "paper" else 84_000  # 300 and 600 epochs of about a million pairs
    return Experiment(system, whole, (Phase(steps=steps),), optim, sharding=(Rule(".*", "fsdp"),))


def get_proof() -> Proof:
    sincos = replace(SMALL, positions="sincos2d")
    as_is = LargerImages(COVER, LARGER, features="tokens_as_is", name="as is")
    cover = EVALS[:1]
    return Proof(
        claim="Contrast and reconstruction of two sensors together teach more than either alone, and distances as only positions carry to larger images.",
        metric="cover mean R2",
        arms=(
            Arm("croma", made()),
            Arm("contrast", made(replace(SMALL, reconstruction=0.0), evals=cover)),
            Arm("reconstruction", made(replace(SMALL, contrast=0.0), evals=cover)),
            Arm("sincos", made(sincos, evals=(*EVALS, as_is))),
            Arm("apart", made(evals=cover, apart=True)),
        ),
        expects=(
            Expect("croma", "contrast", 0.01, "both losses > contrast alone, mean of optical, radar and joint"),
            Expect("croma", "reconstruction", 0.01, "both losses > reconstruction alone"),
            Expect("croma/larger kept x2", "sincos/larger kept x2", 0.1, "mIoU kept at 4 x the area: ALiBi > squeezed sin-cos"),
            Expect("croma/larger kept x2", "sincos/as is kept x2", 0.0, "and > sin-cos that go on", headline=False),
            Expect("croma/larger kept x3", "sincos/larger kept x3", 0.1, "so too at 9 x the area", headline=False),
            Expect("croma/cover|optical+radar R2", "croma/cover|optical R2", 0.03, "joint > optics alone"),
            Expect("croma/cover|optical+radar R2", "croma/cover|radar R2", 0.03, "joint > radar alone"),
            Expect("croma/cover|optical+radar R2", "apart/cover|optical+radar R2", 0.0, "radar shifted in training: less", headline=False),
        ),
        notes="Equal encoders, data and steps; ridge on the mean of frozen tokens of 1000 labelled scenes. Contrast alone trains no fusion: its joint features are both encoders' side by side.",
    )  # fmt: skip
