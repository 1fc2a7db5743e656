"""InvGC at the sizes of the tests and of the paper."""

from dataclasses import replace

from configs.retrieval.invgc.base import LENGTH, VOCAB, evals, experiment, scenes
from mmrep.config import Experiment, Rule
from mmrep.evals.suite import Retrieval
from mmrep.nn.config import TransformerConfig, variant
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.nn.encoders.text import TextEncoder
from mmrep.systems.retrieval.invgc import Config


def tiny() -> Experiment:
    shape = TransformerConfig(width=32, depth=2, heads=4)
    image, text = ImageEncoder(shape, patch=8), TextEncoder(shape, vocab=VOCAB, length=LENGTH)
    system = Config(image, text, dim=32, bank=32, rate=0.1)
    galleries = (Retrieval("text", "image_gallery"), Retrieval("image", "text_gallery"))
    return experiment(scenes(n_train=64, n_val=16, n_test=16), system, steps=4, batch=8, evals=galleries)


def paper() -> Experiment:
    """The encoders of CLIP ViT-B/32, whose stored embeddings the paper normalises; the bank is MSCOCO's training set."""
    shape, patch = variant("B/32", scan=True, remat=True)
    image = ImageEncoder(shape, patch=patch, pool="cls", pre_norm=True)
    text = TextEncoder(replace(shape, width=512, heads=8), vocab=49_408, length=77, causal=True, pool="eos")
    system = Config(image, text, dim=512, bank=113_287, dtype="bfloat16")
    large = experiment(
        scenes(224, n_train=1_000_000), system, steps=390_000, batch=32_768, evals=evals(2000), vocab=49_408
    )  # fmt: skip
    return replace(large, sharding=(Rule(".*", "fsdp"),))
