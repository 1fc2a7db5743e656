"""FILIP at the sizes of the tests and of the paper."""

from dataclasses import replace

from configs.contrastive.filip.base import LENGTH, VOCAB, experiment, scenes
from mmrep.config import Experiment, Optim, Rule
from mmrep.losses.large_batch import LargeBatch
from mmrep.nn.config import TransformerConfig, variant
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.nn.encoders.text import TextEncoder
from mmrep.systems.contrastive.filip import Config


def tiny() -> Experiment:
    shape = TransformerConfig(width=32, depth=2, heads=4)
    image, text = ImageEncoder(shape, patch=8), TextEncoder(shape, vocab=VOCAB, length=LENGTH)
    system = Config(image, text, dim=32, token_keep_ratio=0.5, chunk=4)
    return experiment(scenes(n_train=64, n_val=16, n_test=16), system, steps=4, batch=8)


def paper() -> Experiment:
    """FILIP-base: LAMB, batch 40,960 of 128 workers, 30 epochs of 340 M pairs; each worker sends a quarter of its tokens."""
    shape, patch = variant("B/32", scan=True, remat=True)
    text = TextEncoder(replace(shape, width=512, heads=8), vocab=49_408, length=77)
    system = Config(
        ImageEncoder(shape, patch=patch), text, dim=256, token_keep_ratio=0.25, local_batch=320, dtype="bfloat16",
        large_batch=LargeBatch("ring", chunk=64),
    )  # fmt: skip
    base = experiment(scenes(224, n_train=1_000_000), system, steps=249_000, batch=40_960, vocab=49_408)
    optim = Optim("lamb", lr=6e-3, warmup=5000, weight_decay=3e-2)
    return replace(base, optim=optim, sharding=(Rule(".*", "fsdp"),))
