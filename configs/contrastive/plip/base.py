"""PLIP on pictures of made persons: a coloured band for each attribute, all colours of one luminance."""

from dataclasses import replace
from typing import Any

from mmrep import modality
from mmrep.config import Data, Experiment, Optim, Phase, Rule, Tokenizer, Train
from mmrep.data.things import Things, word
from mmrep.evals.precision import Precision
from mmrep.evals.suite import Probe
from mmrep.evals.words import MaskedWords
from mmrep.nn.config import TransformerConfig
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.nn.encoders.text import TextEncoder
from mmrep.systems.contrastive.plip import Config
from mmrep.systems.contrastive.plip.evals import Colouring

FACTORS = (6,) * 6
BANDS = tuple(tuple(word(a, v) for v in range(6)) for a in range(6))
RETRIEVAL = (Precision("text", "image", "identity"), Precision("image", "image", "identity"))
ATTRIBUTES = MaskedWords(text="attributes", only=sum(BANDS, ()), name="attributes")
COLOURS = Colouring(BANDS, "nothing")


def persons(
    image: TransformerConfig, text: TransformerConfig, *, n: int, views: int, steps: int, batch: int, size: tuple[int, int], patch: int,
    vocab: int, length: int, dim: int, lr: float, tests: int, finetune: int = 0, factors: tuple[int, ...] = FACTORS, **changes: Any,
) -> Experiment:  # fmt: skip
    """Captions and attribute phrases name half of the six attributes each; `finetune` steps of CMPM/C follow."""
    source = Things(
        n, tests, tests, factors, told=(0.5,), views=views, held_views=4, listings=2, picture=size, nuisance=0.5
    )  # fmt: skip
    count = max(n // views, -(-tests // 4))
    parts = (
        modality.image("image", size, field="picture", patch=patch), modality.text("text", length, vocab),
        modality.text("attributes", length, vocab, field="text_b"), modality.label("identity", count),
    )  # fmt: skip
    system = Config(
        ImageEncoder(image, patch=patch), TextEncoder(text, vocab=vocab, length=length, pool="cls"), dim, identities=count if finetune else 0,
        **changes,
    )  # fmt: skip
    phases = [Phase("pretrain", steps=steps)]
    if finetune:
        phases.append(
            Phase("finetune", steps=finetune, system=replace(system, objective="cmpm"), optim=Optim(lr=lr / 3))
        )
    evals = (
        *RETRIEVAL,
        *((ATTRIBUTES,) if system.attribute_weight else ()),
        *((COLOURS,) if system.colour_weight else ()),
    )
    return Experiment(
        system, Data(source, parts, Tokenizer(vocab, kind="word"), batch_size=batch), phases=tuple(phases),
        optim=Optim(lr=lr, schedule="linear", warmup=max(1, steps // 10)), evals=(*evals, Probe("image", "label")), train=Train(log_every=50),
    )  # fmt: skip


def tiny() -> Experiment:
    shape = TransformerConfig(width=16, depth=1, heads=2)
    return persons(
        shape, shape, n=64, views=4, steps=2, batch=8, size=(24, 16), patch=4, vocab=56, length=7, dim=16, lr=1e-3, tests=16,
        mask_rate=(0.3, 0.6), mask_steps=10,
    )  # fmt: skip


def small() -> Experiment:
    shape = TransformerConfig(width=64, depth=2, heads=4)
    return persons(
        shape, shape, n=6000, views=6, steps=1500, batch=64, size=(24, 16), patch=4, vocab=56, length=7, dim=64, lr=1e-3, tests=600,
        finetune=300,
    )  # fmt: skip


def paper() -> Experiment:
    """ViT-S/16 at 256 x 128 for the modified ResNet-50, BERT-base; 4.8 M pictures of 312,321 persons, 70 epochs."""
    image = TransformerConfig(width=384, depth=12, heads=6, scan=True, remat=True)
    text = TransformerConfig(width=768, depth=12, heads=12, norm="post", scan=True, remat=True)
    large = persons(
        image, text, n=4_800_000, views=15, steps=650_000, batch=512, size=(256, 128), patch=16, vocab=30_522, length=64, dim=768, lr=1e-4,
        tests=3000, factors=(8,) * 8, dtype="bfloat16",
    )  # fmt: skip
    return replace(large, sharding=(Rule(".*", "fsdp"),))
