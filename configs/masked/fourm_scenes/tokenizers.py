"""The world of `fourm_scenes`, and the VQ-VAEs that give its images and maps their ids."""

from dataclasses import replace

from mmrep import modality
from mmrep.config import Data, Experiment, Optim, Phase, Train
from mmrep.data import serialise
from mmrep.data.scenes.source import SceneData
from mmrep.data.scenes.world import SHAPES, WorldSpec
from mmrep.evals.tokens import Reconstruction
from mmrep.modality import Modality
from mmrep.nn.config import TransformerConfig
from mmrep.nn.maps import dense
from mmrep.systems.tokenizers.vqvae import Config

COLOURS = ("red", "yellow", "green", "blue", "purple", "pink")
WORLD = WorldSpec((1, 2), SHAPES[:6], COLOURS, sizes=("small", "big"), tints=("white", "grey", "sand"), distinct="none")
WHITE = replace(WORLD, tints=("white",))  # the same without tints, which captions do not tell
SERIAL = serialise.Serialised(coordinates=32, colours=8, palette=3)
CLASSES = 1 + len(WORLD.shapes)  # the ground, and the world's shapes, which come first in the vocabulary
CODES = {"rgb": 384, "depth": 128, "normals": 128, "semseg": 256}
STEPS = {"rgb": 3000, "depth": 1500, "normals": 1000, "semseg": 3000}
SHAPE = TransformerConfig(width=64, depth=1, heads=2, epsilon=1e-6)


def scenes(
    sensors: tuple[str, ...], n_train: int, n_eval: int = 400, size: int = 64, world: WorldSpec = WORLD
) -> SceneData:
    return SceneData(n_train, n_eval, n_eval, size=size, sensors=sensors, world=world, grain=0.0, serial=SERIAL)


def maps(size: int = 64, patch: int = 8) -> tuple[Modality, ...]:
    """Means and deviations are roughly those of the training pictures."""
    return (
        modality.image("rgb", size, patch=patch, mean=(0.85, 0.82, 0.79), std=(0.2,)),
        modality.image("depth", size, 1, patch=patch, mean=(0.95,), std=(0.12,)),
        modality.image("normals", size, patch=patch, mean=(0.5, 0.5, 0.95), std=(0.15,)),
        modality.label_map("semseg", size, CLASSES, patch=patch),
    )


def system(part: Modality, codes: int = 0, shape: TransformerConfig = SHAPE, latent: int = 16) -> Config:
    """The encoder has no layer and no positions, so that an id depends on its patch alone, wherever it is, and is easier to predict."""
    codes, encoder = codes or CODES[part.name], replace(shape, depth=0)
    # Most patches of a picture are plain ground, which would take up the codes.
    usage = {"usage": "utility", "dead": 8.0} if part.name == "rgb" else {}
    return Config(
        dense(part, class_dim=8), codes=codes, latent=latent, encoder=encoder, decoder=shape, positions=False, **usage
    )


def tokenizer(part: Modality, steps: int = 0, n_train: int = 4000, batch: int = 32) -> Experiment:
    """The VQ-VAE of one of `maps`."""
    config, steps = system(part), steps or STEPS[part.name]
    source = scenes((part.name,), n_train, world=WHITE)
    data = Data(source, (part,), batch_size=batch, eval_batch_size=100)
    optim = Optim(lr=2e-3, warmup=steps // 20, weight_decay=0.01, b2=0.99)
    evals = (Reconstruction(part.name, config.vocab, classes=part.classes),)
    return Experiment(config, data, (Phase(steps=steps),), optim, evals, Train(log_every=50))


def tiny(part: Modality) -> Experiment:
    """The same in miniature."""
    shape, e = replace(SHAPE, width=16), tokenizer(part, steps=2)
    data = replace(e.data, source=scenes((part.name,), 32, 16, part.size[0], WHITE), batch_size=8, eval_batch_size=8)
    return replace(e, system=system(part, 16, shape, 4), data=data, evals=())
