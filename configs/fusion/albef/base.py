"""ALBEF at its small size, from which the proof's arms differ in their losses."""

from dataclasses import replace

from mmrep import modality
from mmrep.config import Data, Experiment, Optim, Phase, Tokenizer, Train
from mmrep.data.scenes import CaptionSpec, Noise, SceneData, WorldSpec
from mmrep.evals.suite import Foil, Retrieval
from mmrep.nn.config import TransformerConfig
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.nn.encoders.text import TextEncoder
from mmrep.systems.fusion.albef import Config

SIDE, VOCAB, LENGTH = 16, 64, 10
SHAPE = TransformerConfig(width=48, depth=1, heads=2)
SMALL = Config(
    ImageEncoder(SHAPE, patch=8, pool="cls"),
    TextEncoder(replace(SHAPE, norm="post"), vocab=VOCAB, length=LENGTH, pool="cls"),
    dim=32,
    queue=512,
    alpha_warmup_steps=94,
)


def evals(rerank: int = 16, group: str = "caption") -> tuple:
    """R@1 both ways by ITM of the `rerank` best candidates, by ITM of all, and by ITC; captions against foils."""
    both = Retrieval("image", "text", ks=(1,), group=group, two_way=True)
    by_itm = replace(both, score="score", rerank=rerank, name="rerank"), replace(both, score="score", name="match")
    return (*by_itm, replace(both, name="contrast"), Foil(where="hard_swap"))


def scenes(noise: float = 0.0, size: int = SIDE, n_train: int = 6000, n_eval: int = 256) -> SceneData:
    """Two objects of different shape and colour in a 2 x 2 grid, described with their relation; the foil swaps their colours.

    noise: share of false captions, half of them of another scene, half wrong in one attribute.
    """
    world = WorldSpec(
        n_objects=(2, 2), shapes=("circle", "square", "triangle", "cross", "ring"), sizes=("big",), grid=2, rotation=0.0,
        colours=("red", "yellow", "green", "blue", "black"), tints=("white",), distinct="each",
    )  # fmt: skip
    return SceneData(
        n_train, n_eval, n_eval, size=size, sensors=("rgb", "caption", "hard"), world=world,
        caption=CaptionSpec(attributes=("colour",)), noise=Noise(noise, other=0.5, generic=0.0, attribute=0.5),
    )  # fmt: skip


def pair(size: int = SIDE, length: int = LENGTH, vocab: int = VOCAB) -> tuple[modality.Modality, ...]:
    return (
        modality.image("image", size, field="rgb"),
        modality.text("text", length, vocab, field="caption"),
    )


# Captions of one image are positives of one another, in the batch and in the queue.
ID = modality.label("id", 2**31 - 1)


def experiment(system: Config, noise: float = 0.0, *, steps: int, n_eval: int = 256) -> Experiment:
    data = Data(scenes(noise, n_eval=n_eval), (*pair(), ID), Tokenizer(VOCAB, kind="word"), batch_size=64)
    optim = Optim(lr=3e-3, warmup=40, weight_decay=0.02)
    return Experiment(
        system, data, phases=(Phase(steps=steps),), optim=optim, evals=evals(), train=Train(log_every=50)
    )  # fmt: skip


def small() -> Experiment:
    return experiment(SMALL, steps=2000)
