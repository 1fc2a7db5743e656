"""What the configs of 4M, 4M-21 and 4M's image tokenizer share: the synthetic scenes, their modalities, and how small models train."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from mmrep import modality
from mmrep.config import Data, Experiment, Optim, Phase, Pretrained, Train
from mmrep.data.scenes.source import SceneData
from mmrep.data.scenes.world import SHAPES, WorldSpec
from mmrep.modality import Modality
from mmrep.systems.masked.fourm import BASE, Config
from mmrep.systems.masked.fourm.masking import DirichletMixture
from mmrep.systems.masked.fourm.tokens import TokenModality, token_modality

COLOURS = ("red", "yellow", "green", "blue", "purple", "pink")
WORLD = WorldSpec((1, 2), SHAPES[:6], COLOURS, sizes=("big",), tints=("white", "grey", "sand"), distinct="none")
CLASSES = 1 + len(SHAPES)
SENSORS = ("rgb", "depth", "normals", "semseg", "caption")
# A token is the mean of a patch, rounded to one of these numbers of bins per channel.
BINS = {"rgb": (6, 6, 6), "depth": (16,), "normals": (4, 4, 4)}


def scenes(
    size: int = 32, n_train: int = 8000, n_eval: int = 400, world: WorldSpec = WORLD, sensors: Sequence[str] = SENSORS
) -> SceneData:
    return SceneData(n_train, n_eval, n_eval, size=size, sensors=tuple(sensors), world=world)


def modalities(size: int = 32, patch: int = 4, vocab: int = 64, caption: int = 16) -> tuple[Modality, ...]:
    """caption: its tokens, EOS included; the batch holds a BOS before them."""
    return (
        modality.image("pixels", size, field="rgb", patch=patch), modality.image("rgb", size, patch=patch),
        modality.image("depth", size, 1, patch=patch), modality.image("normals", size, patch=patch),
        modality.label_map("semseg", size, CLASSES, patch=patch), modality.text("caption", 1 + caption, vocab),
    )  # fmt: skip


def token_modalities(parts: Sequence[Modality]) -> tuple[TokenModality, ...]:
    return tuple(token_modality(m, BINS.get(m.name, ())) for m in parts)


def small_system(
    parts: Sequence[TokenModality], mixtures: Sequence[DirichletMixture], *, width: int = 64, **settings: Any
) -> Config:
    transformer = replace(BASE, width=width, depth=2, heads=2)
    sizes = {"num_input_tokens": 64, "num_target_tokens": 96} | settings
    return Config(tuple(parts), tuple(mixtures), encoder=transformer, decoder=transformer, position_base=10.0, **sizes)


def small_experiment(
    system: Config, data: Data, steps: int, evals: tuple[Any, ...] = (), start: Experiment | None = None
) -> Experiment:
    """start: the experiment whose trained parameters this one begins with."""
    begin = (Pretrained(start, follow_seed=True),) if start else ()
    optim = Optim(lr=2e-3, warmup=steps // 20, weight_decay=0.05, b2=0.95)
    return Experiment(system, data, (Phase(steps=steps, start=begin),), optim, evals, Train(log_every=50))
