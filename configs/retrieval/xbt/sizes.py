"""XBT at the sizes of the tests and of the paper."""

from dataclasses import replace

from configs.retrieval.xbt.base import DualConfig, dual, experiment
from mmrep.config import Experiment, Rule
from mmrep.nn.config import TransformerConfig, variant
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.nn.encoders.text import TextEncoder
from mmrep.systems.retrieval.xbt import Config


def tiny() -> Experiment:
    shape = TransformerConfig(width=16, depth=1, heads=2)
    system = Config(dual(shape, 8, 8), dual(shape, 8, 16), hidden=16, lora_rank=2)
    return experiment(system, (2, 2, 2, 4), (64, 64, 64, 64), batch=8, n_val=16, n_test=16)


def clip(name: str, text_width: int, dim: int) -> DualConfig:
    image, patch = variant(name, scan=True, remat=True)
    text = TransformerConfig(width=text_width, depth=12, heads=text_width // 64, scan=True, remat=True)
    return DualConfig(
        ImageEncoder(image, patch=patch, pool="cls", pre_norm=True),
        TextEncoder(text, vocab=49_408, length=77, causal=True, pool="eos"), dim,
    )  # fmt: skip


def paper() -> Experiment:
    """An index of CLIP ViT-B/32, queries of CLIP ViT-L/14; both would start from their published weights (Pretrained(file=...))."""
    system = Config(clip("B/32", 512, 512), clip("L/14", 768, 768), hidden=2048, dtype="bfloat16")
    large = experiment(
        system, (1, 1, 30_000, 10_000), (10_000, 10_000, 1_000_000, 100_000), batch=1024, vocab=49_408, size=224
    )  # fmt: skip
    return replace(large, phases=large.phases[2:], sharding=(Rule(".*", "fsdp"),))
