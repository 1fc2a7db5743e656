"""Uni-Perceiver: every task is a choice among encoded candidates, with one shared Transformer (Zhu et al., CVPR 2022)

Uni-Perceiver: Pre-training Unified Architecture for Generic Perception for Zero-shot and Few-shot Tasks, arXiv 2112.01522.
    python -m experiments.train uni_perceiver
    python -m experiments.train uni_perceiver --variant prompt
    python -m experiments.prove uni_perceiver
Data: synthetic scenes of one object. Data of your own needs an image, a text and a class:
Named(Table("pairs.csv", label="class"), names) with the names of the classes in the order of their ids.
"""

from dataclasses import replace
from typing import Any

from mmrep.config import Arm, Data, Expect, Experiment, Optim, Phase, Pretrained, Proof, Rule, Tokenizer, Train
from mmrep.data.scenes import CaptionSpec, SceneData, WorldSpec
from mmrep.data.scenes.world import COLOURS, SHAPES
from mmrep.errors import ConfigError
from mmrep.evals.suite import Retrieval, ZeroShot
from mmrep.modality import image, label, text, texts
from mmrep.nn.config import TransformerConfig, variant
from mmrep.systems.fusion.uni_perceiver import Config
from mmrep.systems.fusion.uni_perceiver.data import Named
from mmrep.systems.fusion.uni_perceiver.evals import Names, Written

SIZES = ("tiny", "small", "paper")
VARIANTS = ("prompt",)
SHOWN = SHAPES[:8]
UNSEEN = (5, 6, 7)  # shapes that only captions name


def scenes(
    n: int, *, side: int, steps: int, batch: int, shape: TransformerConfig, lr: float = 1e-3, splits: tuple[int, int] = (200, 500),
    **system: Any,
) -> Experiment:  # fmt: skip
    """One object a scene; classification by shape leaves out the shapes of UNSEEN."""
    vocab, length = 32, 7
    world, caption = WorldSpec(n_objects=(1, 1), shapes=SHOWN), CaptionSpec("list", place=False, setting=False)
    source = Named(SceneData(n, *splits, size=side, world=world, caption=caption), SHOWN)
    parts = (
        image("image", side, field="rgb"), text("text", length, vocab, field="caption"), label("label", 8, field="shape"),
        texts("names", 8, 3, vocab),
    )  # fmt: skip
    evals = (
        Names(UNSEEN, "shape"), Written(), Retrieval("image", "text"),
        ZeroShot(COLOURS[:8], "colour", templates=tuple(f"a big {{}} {s}" for s in SHOWN), name="zero-shot colour"),
    )  # fmt: skip
    options = {"size": side, "patch": 4, "vocab": vocab, "length": length, "unseen": UNSEEN, "classes": 8} | system
    return Experiment(
        Config(shape, **options), Data(source, parts, Tokenizer(vocab, kind="word"), batch_size=batch, eval_batch_size=100),
        phases=(Phase(steps=steps),), optim=Optim(lr=lr, warmup=min(100, steps // 10), weight_decay=0.05), evals=evals,
        train=Train(log_every=50),
    )  # fmt: skip


def few(**system: Any) -> Experiment:
    return scenes(4000, side=16, steps=600, batch=64, shape=TransformerConfig(width=64, depth=2, heads=4), **system)


def paper() -> Experiment:
    """Base: ViT-B/16 at 224 pixels and CLIP's vocabulary, 1,024 candidate words a step; classes of ImageNet-21k, text and pairs of one source."""
    shape, patch = variant("B/16", scan=True, remat=True, drop_path=0.1)
    world, vocab, length = WorldSpec(n_objects=(1, 3), shapes=SHOWN), 49_411, 64
    source = Named(SceneData(10_000_000, size=224, world=world), SHOWN)
    parts = (
        image("image", 224, field="rgb", patch=patch), text("text", length, vocab, field="caption"),
        label("label", 8, field="shape"), texts("names", 8, 8, vocab),
    )  # fmt: skip
    return Experiment(
        Config(shape, 224, patch, vocab, length, sampled=1024, classes=8), Data(source, parts, Tokenizer(vocab), batch_size=512),
        phases=(Phase(steps=200_000),), sharding=(Rule(".*", "fsdp"),), train=Train(log_every=500),
        optim=Optim(lr=1e-3, warmup=10_000, b1=0.9, b2=0.95, eps=1e-6, weight_decay=0.2, clip=0.1),
    )  # fmt: skip


def prompt(config: Experiment, steps: int, records: int) -> Experiment:
    """Prompt tuning on few records: vectors in front of every block, and the norms; the rest is frozen."""
    named: Any = config.data.source
    tuned = replace(config.system, prompts=4, prompt_depth=config.system.transformer.depth, unseen=())
    start = (Pretrained(config, (("net/", "net/"), ("scale/", "scale/"))),)
    words = replace(config.data.tokenizer, sources=(named,))  # type: ignore[type-var]
    few = replace(named, source=replace(named.source, n_train=records))
    data = replace(config.data, source=few, tokenizer=words, batch_size=16)
    trainable = ("prompts/.*", "net/(.*/)?norm.*")
    return replace(
        config, system=tuned, data=data, phases=(Phase(steps=steps, trainable=trainable, start=start),),
        optim=replace(config.optim, warmup=steps // 10),
    )  # fmt: skip


def get_config(size: str = "small", variant: str = "") -> Experiment:
    if variant not in ("", *VARIANTS) or size not in SIZES or (variant and size == "paper"):
        raise ConfigError(f"size {size!r} has no variant {variant!r}: choose tiny or small for {', '.join(VARIANTS)}")
    if size == "tiny":
        shape = TransformerConfig(width=16, depth=1, heads=2)
        config = scenes(64, side=8, steps=4, batch=8, shape=shape, splits=(16, 16), sampled=12, masked=0.4)
        return prompt(config, 4, 64) if variant else config
    if size == "small":
        shape = TransformerConfig(width=96, depth=4, heads=4)
        config = scenes(16_000, side=32, steps=2000, batch=64, shape=shape)
        return prompt(config, 300, 160) if variant else config
    return paper()


def get_proof() -> Proof:
    arms = {"unified": few(), "heads": few(heads=True), "separate encoders": few(shared=False), "peek": few(peek=True)}
    return Proof(
        claim="With names and words as encoded candidates, classification transfers to names that only captions use; "
        "a linear head for each task cannot. Copies of the special token train captioning in parallel without a leak.",
        metric="names among unseen",
        arms=tuple(Arm(name, config) for name, config in arms.items()),
        expects=(
            Expect("unified", "heads", 0.15, "three names that classification never used are told apart better than by heads (chance 1/3)"),
            Expect(
                "unified/written", "unified/forced", slack=0.01,
                statement="captions written from left to right have as many right words as teacher-forced ones",
            ),
            Expect("unified/written", "peek/written", 0.2, "not if a copy attends to the word that it predicts"),
            Expect("separate encoders", "unified", 0.0, "encoders of their own for targets transfer as well", False, slack=0.1),
            Expect("unified/zero-shot colour accuracy", 0.5, 0.0, "colours, never a task, are named zero-shot (chance 1/8)", False),
        ),
        seeds=(10, 11, 12),
        data="synthetic scenes of one object, 16 pixels",
    )  # fmt: skip
