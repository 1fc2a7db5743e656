"""Florence on rendered scenes, half of them described by the name of their shape alone; and on emoji, by category or by name."""

import math
from dataclasses import replace
from typing import Literal

from configs._emoji import COMPONENTS
from mmrep import modality
from mmrep.config import Data, Experiment, Optim, Phase, Rule, Tokenizer, Train
from mmrep.data.emoji import CATEGORIES
from mmrep.data.scenes import CaptionSpec, SceneData, WorldSpec
from mmrep.data.scenes.world import SHAPES
from mmrep.evals.suite import Retrieval, ZeroShot
from mmrep.losses.large_batch import LargeBatch
from mmrep.nn.config import TransformerConfig
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.nn.encoders.text import TextEncoder
from mmrep.nn.encoders.vector import VectorEncoder
from mmrep.systems.contrastive.florence import Config
from mmrep.systems.contrastive.florence.data import Descriptions
from mmrep.systems.contrastive.florence.evals import ZeroShotOf

NAMES = SHAPES[:8]
KINDS = tuple(name.lower().replace("&", "and") for name in CATEGORIES)
LABELLED = (1, 3, 5, 7)
EVALS = (
    Retrieval("image", "text", two_way=True),
    ZeroShot(NAMES, "shape", templates=("{}", "a photo of the {}", "a {}"), name="zero-shot shape"),
)


def pictures(
    image: TransformerConfig, text: TransformerConfig, *, n: int, steps: tuple[int, int], batch: int, size: int = 32, patch: int = 8,
    vocab: int = 512, length: int = 40, dim: int = 64, lr: float = 1e-3, tests: int = 500, temperature: float = 0.07,
    dtype: str = "float32",
) -> Experiment:  # fmt: skip
    """Two stages: all descriptions, short ones in templates; then the captions alone."""
    world, words = WorldSpec(n_objects=(1, 2)), CaptionSpec("list", place=False, setting=False)
    scenes = SceneData(n, size=size, world=world, caption=words, n_val=tests, n_test=tests)
    source = Descriptions(scenes, "caption", "shape", NAMES, share=0.5)
    parts = modality.image("image", size, field="rgb"), modality.text("text", length, vocab, field="caption")
    system = Config(
        ImageEncoder(image, patch=patch), TextEncoder(text, vocab=vocab, length=length, causal=True, pool="eos"), dim,
        temperature=temperature, dtype=dtype,
    )  # fmt: skip
    first = Phase("all", steps=steps[0])
    second = Phase("natural", steps=steps[1], data=replace(source, keep="natural"), optim=Optim(lr=lr / 3))
    return Experiment(
        system, Data(source, parts, Tokenizer(vocab, kind="word"), batch_size=batch), phases=(first, second),
        optim=Optim(lr=lr, warmup=min(100, steps[0] // 10), weight_decay=0.05), evals=EVALS, train=Train(log_every=50),
    )  # fmt: skip


def tiny() -> Experiment:
    shape = TransformerConfig(width=32, depth=1, heads=2)
    return pictures(shape, shape, n=64, steps=(4, 2), batch=8, vocab=64, dim=32, tests=16)


def small() -> Experiment:
    shape = TransformerConfig(width=64, depth=2, heads=4)
    return pictures(shape, shape, n=8000, steps=(2000, 500), batch=64)


def emoji(keep: Literal["all", "natural"] = "all") -> Experiment:
    """Every second category is described by its name alone, the others' emoji by their own; test emoji have their own names and are classified.

    keep "natural" leaves the former out: what captions alone teach, in as many steps.
    """
    source = Descriptions(COMPONENTS, "text", "category", KINDS, by_name=LABELLED, keep=keep, templates=(), short=0)
    shape, vocab, length = TransformerConfig(width=64, depth=2, heads=4), 512, 24
    parts = modality.vector("image", COMPONENTS.k, field="gradients"), modality.text("text", length, vocab)
    system = Config(VectorEncoder((128,)), TextEncoder(shape, vocab=vocab, length=length))
    evals = ZeroShotOf(KINDS, LABELLED, "category"), Retrieval("image", "text", two_way=True)
    return Experiment(
        system, Data(source, parts, Tokenizer(vocab), batch_size=64), phases=(Phase(steps=600),),
        optim=Optim(lr=1e-3, warmup=50, weight_decay=0.05), evals=evals, train=Train(log_every=50),
    )  # fmt: skip


def paper() -> Experiment:
    """637 M parameters of pictures of 384 pixels and 256 M of text; batch 24,576, a million steps and 180,000."""
    image = TransformerConfig(width=1280, depth=32, heads=16, scan=True, remat=True)
    text = TransformerConfig(width=1024, depth=12, heads=16, scan=True, remat=True)
    large = pictures(
        image, text, n=1_000_000, steps=(1_000_000, 180_000), batch=24_576, size=384, patch=16, vocab=49_408, length=76, dim=1024,
        temperature=1 / math.e, dtype="bfloat16",
    )  # fmt: skip
    return replace(
        large,
        system=replace(large.system, large_batch=LargeBatch("ring", micro_batches=16)),
        sharding=(Rule(".*", "fsdp"),),
    )
