"""XBT on scenes and captions: a small old model, a larger new one, texts, and few pairs."""

from dataclasses import replace
from typing import Any

from mmrep import modality
from mmrep.config import Data, Experiment, Optim, Phase, Tokenizer, Train
from mmrep.data.scenes import CaptionSpec, SceneData, WorldSpec
from mmrep.evals.suite import Retrieval
from mmrep.nn.config import TransformerConfig
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.nn.encoders.text import TextEncoder
from mmrep.systems.retrieval.xbt import Config, DualConfig
from mmrep.systems.retrieval.xbt.evals import Compatibility

VOCAB, LENGTH = 64, 40
PHI = ("phi/.*", "scale/.*")
EVALS = (Compatibility(), Retrieval("image", "old_text"), Retrieval("text", "old_image"))


def phases(system: Config, steps: tuple[int, int, int, int], data: tuple[Any, Any, Any, Any]) -> tuple[Phase, ...]:
    """The old model, the new one, phi from texts, then few pairs; phi learns at a tenth of the rate in the last."""
    old, new, text, pairs = (replace(system, stage=stage) for stage in ("old", "new", "text", "pairs"))
    slow = Optim(lr=1e-3, warmup=min(20, steps[3] // 10), weight_decay=0.0, factors=(("phi/.*", 0.1),))
    return (
        Phase("old", steps[0], data[0], ("old/.*",), old),
        Phase("new", steps[1], data[1], ("new/.*",), new),
        Phase("text", steps[2], data[2], PHI, text),
        Phase("pairs", steps[3], data[3], (*PHI, "lora/.*"), pairs, slow),
    )  # fmt: skip


def dual(shape: TransformerConfig, patch: int, dim: int, vocab: int = VOCAB, length: int = LENGTH) -> DualConfig:
    return DualConfig(
        ImageEncoder(shape, patch=patch, pool="cls", pre_norm=True),
        TextEncoder(shape, vocab=vocab, length=length, causal=True, pool="eos"), dim,
    )  # fmt: skip


def scenes(n: int, seed: int, size: int = 32, **splits: int) -> SceneData:
    caption = CaptionSpec("list", place=False, setting=False)
    return SceneData(n, seed=seed, size=size, world=WorldSpec(n_objects=(1, 3)), caption=caption, **splits)


def experiment(
    system: Config, steps: tuple[int, int, int, int], sizes: tuple[int, int, int, int], batch: int, vocab: int = VOCAB, size: int = 32,
    **splits: int,
) -> Experiment:  # fmt: skip
    """sizes: training pairs of the old and the new model, texts, pairs of the last stage: four samples without a common scene."""
    data = tuple(scenes(n, seed, size, **splits) for seed, n in enumerate(sizes))
    pair = (
        modality.image("image", size, field="rgb"),
        modality.text("text", system.new.text.length, system.new.text.vocab, field="caption"),  # type: ignore[attr-defined]
    )
    return Experiment(
        system, Data(data[0], pair, Tokenizer(vocab, kind="word"), batch_size=batch), phases(system, steps, data),
        Optim(lr=1e-3, warmup=min(50, steps[0] // 10), weight_decay=0.05), EVALS, Train(log_every=50),
    )  # fmt: skip


def small() -> Experiment:
    old, new = TransformerConfig(width=48, depth=2, heads=4), TransformerConfig(width=64, depth=3, heads=4)
    system = Config(dual(old, 8, 32), dual(new, 4, 64), lora_rank=8)
    return experiment(system, (600, 2000, 800, 300), (2000, 12_000, 12_000, 1000), batch=128)
