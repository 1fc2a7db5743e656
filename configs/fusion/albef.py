"""ALBEF: align before fuse (Li et al., NeurIPS 2021)

Paper: "Align before Fuse: Vision and Language Representation Learning with Momentum Distillation", arXiv 2107.07651.
"""

from mmrep import modality
from mmrep.config import Arm, Data, Expect, Experiment, Optim, Phase, Proof, Tokenizer, Train
from mmrep.data.scenes import CaptionSpec, Noise, SceneData, WorldSpec
from mmrep.evals.matching import Foil, Rerank
from mmrep.nn.towers import ImageTower, TextTower
from mmrep.systems.fusion.albef import Config

SIDE, VOCAB, LENGTH = 16, 64, 10
EVALS = (Rerank(k=16, group="caption"), Rerank(k=0, group="caption", name="match"), Foil())


def scenes(noise: float = 0.0, **sizes) -> SceneData:
    """Two objects of different shape and colour, told with their relation; each caption has a foil with the colours swapped."""
    world = WorldSpec(n_objects=(2, 2), shapes=SHAPES, colours=COLOURS, sizes=("big",), tints=("white",), distinct="each", grid=2, rotation=0.0)
    return SceneData(
        size=SIDE, sensors=("rgb", "caption", "hard"), world=world, caption=CaptionSpec(attributes=("colour",)),
        noise=Noise(noise, 0.5, 0.0, 0.5), **sizes,
    )  # fmt: skip


SHAPES = ("circle", "square", "triangle", "cross", "ring")
COLOURS = ("red", "yellow", "green", "blue", "black")


def modalities(size: int = SIDE, length: int = LENGTH, vocab: int = VOCAB, ids: bool = True):
    pair = (modality.image("image", size, field="rgb"), modality.text("text", length, vocab, field="caption"))
    return (*pair, modality.label("id", 2**31 - 1)) if ids else pair


def experiment(system: Config = Config(), noise: float = 0.0, steps: int = 500) -> Experiment:
    data = Data(
        scenes(noise, n_train=6000, n_val=256, n_test=256), modalities(), Tokenizer(VOCAB, "word"), batch_size=64
    )
    return Experiment(
        system, data, (Phase(steps=steps),), Optim(lr=2e-3, warmup=50, weight_decay=0.02), EVALS, Train(log_every=50)
    )
