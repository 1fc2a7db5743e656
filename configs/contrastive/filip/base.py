"""FILIP at its small size, from which the proof's arms differ in the similarity alone."""

from dataclasses import replace

from configs.contrastive._image_text import image_text
from mmrep.config import Experiment
from mmrep.data.scenes import CaptionSpec, SceneData, WorldSpec
from mmrep.data.scenes.world import COLOURS, SHAPES
from mmrep.evals.suite import Retrieval, ZeroShot
from mmrep.nn.config import TransformerConfig
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.nn.encoders.text import TextEncoder
from mmrep.systems.contrastive.filip import Config
from mmrep.systems.contrastive.filip.evals import Localisation

VOCAB, LENGTH = 64, 20
WORLD = WorldSpec(n_objects=(3, 4), grid=4, distinct="each", sizes=("big",))
WORDS = (*WORLD.shapes, *WORLD.colours)
IMAGE = ImageEncoder(TransformerConfig(width=64, depth=2, heads=4), patch=16)
TEXT = TextEncoder(TransformerConfig(width=64, depth=1, heads=4), vocab=VOCAB, length=LENGTH)


def evals(system: Config) -> tuple:
    """Queries are ranked by their own similarity: images by s^I, texts by s^T."""
    token_wise = system.similarity == "token_max"
    of_image, of_text = ("score_image", "score_text") if token_wise else ("", "")
    prompts = ("a {}", *(f"a {c} {{}}" for c in COLOURS[:4]))
    return (
        Retrieval("image", "text", score=of_image),
        Retrieval("text", "image", score=of_text),
        Localisation(WORDS, system.image.patch),
        ZeroShot(SHAPES[:8], "object_shape", templates=prompts, name="zero-shot shape", score=of_image),
    )


def scenes(size: int = 32, grid: int = 4, **splits: int) -> SceneData:
    """3 or 4 big objects in cells of a grid, no shape and no colour twice; the caption lists all of them."""
    world = replace(WORLD, grid=grid)
    sensors = ("rgb", "caption", "grounding", "instances", "objects")
    return SceneData(size=size, sensors=sensors, world=world, caption=CaptionSpec("list", ("colour",)), **splits)


def experiment(
    source: SceneData, system: Config, *, steps: int, batch: int, lr: float = 1e-3, vocab: int = VOCAB
) -> Experiment:
    return image_text(
        source, system, steps=steps, batch=batch, evals=evals(system), lr=lr, vocab=vocab, weight_decay=0.03
    )  # fmt: skip


def small() -> Experiment:
    return experiment(scenes(grid=2), Config(IMAGE, TEXT, dim=64), steps=1500, batch=64, lr=2e-3)
