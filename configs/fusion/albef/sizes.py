"""ALBEF at the sizes of the tests and of the paper."""

from dataclasses import replace

from configs.fusion.albef.base import ID, LENGTH, VOCAB, evals, pair, scenes
from mmrep.config import Data, Experiment, Optim, Phase, Rule, Tokenizer, Train
from mmrep.nn.config import TransformerConfig, variant
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.nn.encoders.text import TextEncoder
from mmrep.systems.fusion.albef import Config


def tiny() -> Experiment:
    shape = TransformerConfig(width=32, depth=2, heads=2)
    system = Config(
        ImageEncoder(shape, patch=8, pool="cls"),
        TextEncoder(replace(shape, norm="post"), vocab=VOCAB, length=LENGTH, pool="cls"),
        dim=16,
        queue=24,
        alpha_warmup_steps=2,
    )
    source = scenes(n_train=96, n_eval=16)
    data = Data(source, (*pair(), ID), Tokenizer(VOCAB, kind="word"), batch_size=8, eval_batch_size=16)
    return Experiment(
        system, data, phases=(Phase(steps=4),), optim=Optim(lr=1e-3), evals=evals(4), train=Train(log_every=2)
    )  # fmt: skip


def paper() -> Experiment:
    """ViT-B/16, the two halves of BERT-base; 30 epochs of 14 M pairs at batch 512."""
    shape, patch = variant("B/16", scan=True, remat=True)
    system = Config(
        ImageEncoder(shape, patch=patch, pool="cls"),
        TextEncoder(replace(shape, depth=6, norm="post"), vocab=30522, length=30, pool="cls"),
        fusion_depth=6,
        dim=256,
        queue=65536,
        alpha_warmup_steps=27_000,
        dtype="bfloat16",
    )
    parts = pair(256, length=30, vocab=30522)
    data = Data(scenes(size=256), parts, Tokenizer(30522), batch_size=512, eval_batch_size=64)
    optim = Optim(lr=1e-4, warmup=1000, final=0.1, weight_decay=0.02, b2=0.999, clip=None)
    return Experiment(
        system, data, phases=(Phase(steps=30 * 27_000),), optim=optim, evals=evals(128, group=""),
        sharding=(Rule(".*", "fsdp"),),
    )  # fmt: skip
