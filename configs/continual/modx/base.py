"""Mod-X on a stream of four domains of scenes and captions."""

from dataclasses import replace

from mmrep import modality
from mmrep.config import Data, Experiment, Optim, Phase, Tokenizer, Train
from mmrep.data.scenes import CaptionSpec, Joint, SceneData, domain
from mmrep.data.scenes.world import COLOURS, SHAPES
from mmrep.nn.config import TransformerConfig
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.nn.encoders.text import TextEncoder
from mmrep.systems.continual.modx import Config, snapshot
from mmrep.systems.continual.modx.data import Domain
from mmrep.systems.continual.modx.evals import Domains

VOCAB, LENGTH = 64, 22
NAMES = ("clean", "texture", "night", "line")
SHAPE = TransformerConfig(width=64, depth=2, heads=4)
TEXT = TextEncoder(SHAPE, vocab=VOCAB, length=LENGTH)


def stream(n: int = 3000, n_test: int = 400, size: int = 32) -> Joint:
    """Four domains; the later ones add shapes, ground, light and drawing, and the words for them."""
    shapes = {"clean": SHAPES[:4], "texture": SHAPES[8:], "night": SHAPES[:8], "line": SHAPES[:8]}
    worlds = [domain(d, n_objects=(2, 3), shapes=shapes[d], colours=COLOURS[:6]) for d in NAMES]
    return Joint(tuple(
        SceneData(n, n_test, n_test, seed=i, size=size, world=world, caption=CaptionSpec("list"))
        for i, world in enumerate(worlds)
    ))  # fmt: skip


def experiment(
    source: Joint,
    system: Config,
    *,
    steps: tuple[int, ...],
    batch: int,
    vocab: int = VOCAB,
    names: tuple[str, ...] = NAMES,
) -> Experiment:
    """A phase for each domain; each but the first begins with a snapshot of the model before it, and the first has no teacher."""
    phases = tuple(
        Phase(
            name, n, data=Domain(source, i), begin=snapshot if i else None,
            system=None if i else replace(system, alpha=0.0),
        )
        for i, (name, n) in enumerate(zip(names, steps))
    )  # fmt: skip
    pair = (
        modality.image("image", source.sources[0].size, field="rgb"),
        modality.text("text", system.text.length, system.text.vocab, field="caption"),
    )
    return Experiment(
        system, Data(source, pair, Tokenizer(vocab, kind="word"), batch_size=batch), phases=phases,
        optim=Optim(lr=1e-3, warmup=steps[-1] // 10, weight_decay=0.01), evals=(Domains(names),), train=Train(log_every=50),
    )  # fmt: skip


def small() -> Experiment:
    image = ImageEncoder(TransformerConfig(width=64, depth=3, heads=4), patch=4)
    return experiment(stream(6000), Config(image, TEXT, dim=64), steps=(2000, 500, 500, 500), batch=64)
