"""Mod-X at the sizes of the tests and of the paper."""

from dataclasses import replace

from configs.continual.modx.base import LENGTH, VOCAB, experiment, stream
from mmrep.config import Experiment, Optim, Rule
from mmrep.nn.config import TransformerConfig, variant
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.nn.encoders.text import TextEncoder
from mmrep.systems.continual.modx import Config


def tiny() -> Experiment:
    shape = TransformerConfig(width=32, depth=2, heads=4)
    system = Config(ImageEncoder(shape, patch=8), TextEncoder(shape, vocab=VOCAB, length=LENGTH), dim=32)
    return experiment(stream(48, 8), system, steps=(4, 2, 2, 2), batch=8)


def paper() -> Experiment:
    """CLIP ViT-B/32; COCO for the base, then parts of Flickr30K: 35 epochs each, AdamW at 5e-4."""
    shape, patch = variant("B/32", scan=True, remat=True)
    text = TextEncoder(replace(shape, width=512, heads=8), vocab=49_408, length=77, causal=True, pool="eos")
    system = Config(ImageEncoder(shape, patch=patch, pool="cls"), text, dim=512, dtype="bfloat16")
    whole = experiment(
        stream(100_000, 5000, 224), system, steps=(14_000, 760, 760, 760), batch=280, vocab=49_408
    )  # fmt: skip
    optim = Optim(lr=5e-4, warmup=152, weight_decay=0.1, eps=1e-5)
    return replace(whole, optim=optim, sharding=(Rule(".*", "fsdp"),))
