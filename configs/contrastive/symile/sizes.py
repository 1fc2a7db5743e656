"""Symile at the sizes of the tests and of the paper."""

from dataclasses import replace

from configs.contrastive.symile.base import polyglot
from mmrep import modality
from mmrep.config import Experiment, Phase, Rule, Tokenizer
from mmrep.nn.config import TransformerConfig, variant
from mmrep.nn.encoders.audio import AudioEncoder
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.nn.encoders.text import TextEncoder
from mmrep.systems.contrastive.symile import Config
from mmrep.systems.contrastive.symile.data import PolyglotData


def tiny() -> Experiment:
    source = PolyglotData(n_train=64, n_val=16, n_test=16, missing=0.2)
    return polyglot(
        steps=4, batch=8, dim=32, transformer=TransformerConfig(width=32, depth=2, heads=4), source=source
    )  # fmt: skip


def paper() -> Experiment:
    """Symile-M3 with 10 languages: ViT-L/14 and Whisper-large's encoder, frozen but for their projections; XLM-R-large's embeddings and first layer."""
    source = PolyglotData(10_000_000, languages=10, size=224, rate=16_000, seconds=10.0, missing=0.5)
    vit, patch = variant("L/14", scan=True, remat=True)
    whisper = TransformerConfig(width=1280, depth=32, heads=20, scan=True, remat=True)
    encoders = (
        ("image", ImageEncoder(vit, patch=patch)),
        ("text", TextEncoder(TransformerConfig(width=1024, depth=1, heads=16), vocab=250_002, length=256)),
        ("speech", AudioEncoder(whisper, n_mels=80)),
    )
    large = polyglot(steps=500_000, batch=280, lr=1e-4, source=source)
    image, _, speech, present = large.data.modalities
    parts = (image, modality.text("text", 256, 250_002), speech, present)
    trainable = ("(image|speech)/projection/.*", "(text|scale|missing)/.*")
    return replace(
        large,
        system=Config(encoders, dim=8192, missing=True, dtype="bfloat16"),
        data=replace(large.data, modalities=parts, tokenizer=Tokenizer(250_002)),
        phases=(Phase(steps=500_000, trainable=trainable),),
        sharding=(Rule(".*", "fsdp"),),
    )
