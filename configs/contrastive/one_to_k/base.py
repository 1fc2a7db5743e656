"""1-to-K on emoji with names in six languages, and with a fusion encoder on made pictures in made languages."""

from dataclasses import replace
from typing import Any

from mmrep import modality
from mmrep.config import Data, Experiment, Optim, Phase, Rule, Tokenizer, Train
from mmrep.data.augment import Colour, Cutout, Warp
from mmrep.data.emoji import Emoji
from mmrep.data.stamps import TuxPaint
from mmrep.data.things import Things
from mmrep.evals.suite import Retrieval
from mmrep.nn.config import TransformerConfig, variant
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.nn.encoders.ngram import NgramEncoder
from mmrep.nn.encoders.sketch import SketchEncoder
from mmrep.nn.encoders.text import TextEncoder
from mmrep.systems.contrastive.one_to_k import Config
from mmrep.systems.contrastive.one_to_k.evals import Languages

SPOKEN = ("en", "de", "fr", "es", "ja", "zh")
STAMPS = ("en", "fr", "es", "de", "ru", "ja")
PICTURE = (Warp(16.0, (0.8, 1.12), 1.16, 0.12, 0.08, mirror=0.5), Colour(0.08, 0.2, 0.24, 12.0, 0.1), Cutout(0.35, 0.3))


def names(count: int) -> tuple[str, ...]:
    return ("text", *(f"text_{k}" for k in range(1, count)))


def made(
    image: TransformerConfig, text: TransformerConfig, *, n: int, count: int, size: tuple[int, int], patch: int, vocab: int, length: int,
    steps: int, batch: int, fusion: int, dim: int, lr: float, tests: int, dtype: str = "float32",
) -> Experiment:  # fmt: skip
    """Pictures of coloured bands with captions in `count` made languages; the text encoder and `fusion` layers beside it."""
    source = Things(n, tests, tests, told=(0.5,) * count, picture=size)
    parts = (
        modality.image("image", size, field="picture", patch=patch),
        *(modality.text(name, length, vocab) for name in names(count)),
    )
    system = Config(
        ImageEncoder(image, patch=patch, pool="cls"), TextEncoder(text, vocab=vocab, length=length, pool="cls"), names(count), dim,
        fusion_depth=fusion, dtype=dtype,
    )  # fmt: skip
    evals = (Languages(names(count)), Retrieval("image", "text", score="score", rerank=32, name="image->text reranked"))
    optim = Optim(
        lr=lr,
        schedule="linear",
        warmup=max(1, int(0.03 * steps)),
        factors=(("(image|text)/projection/.*|match/.*", 2.0),),
    )
    return Experiment(
        system, Data(source, parts, Tokenizer(vocab, kind="word"), batch_size=batch), phases=(Phase(steps=steps),), optim=optim,
        evals=evals, train=Train(log_every=50),
    )  # fmt: skip


def tiny() -> Experiment:
    shape = TransformerConfig(width=16, depth=1, heads=2)
    return made(
        shape, shape, n=64, count=3, size=(24, 16), patch=8, vocab=160, length=8, steps=4, batch=8, fusion=1, dim=16, lr=1e-3, tests=16
    )  # fmt: skip


def small() -> Experiment:
    """Emoji: real pictures and names."""
    return real(Emoji(size=32, languages=SPOKEN), SPOKEN, steps=1500)


def stamps() -> Experiment:
    """Tux Paint's stamps, where they are installed: real pictures and sentences, split by sentence, drawing and file name."""
    return real(TuxPaint(STAMPS), STAMPS, steps=600)


def real(source: Any, languages: tuple[str, ...], *, steps: int) -> Experiment:
    """Pictures with a field text_<language> for each language; the text encoder has no tokens, so without matching and masked words."""
    length, vocab = 32, 4096
    parts = (
        modality.image("image", 32, augment=PICTURE),
        *(modality.text(n, length, vocab, field=f"text_{s}") for n, s in zip(names(len(languages)), languages)),
    )
    system = Config(SketchEncoder(), NgramEncoder(128), names(len(languages)), dim=128)
    return Experiment(
        system, Data(source, parts, Tokenizer(vocab, kind="char"), batch_size=64), phases=(Phase(steps=steps),),
        optim=Optim(lr=2e-3, warmup=100, weight_decay=0.05), evals=(Languages(names(len(languages))),), train=Train(log_every=50),
    )  # fmt: skip


def paper() -> Experiment:
    """ViT-B/16 in place of Swin-B, 6 layers of text and 6 of fusion as wide as XLM-R-large; six languages, 30 epochs of 1.86 M pictures."""
    image, patch = variant("B/16", scan=True, remat=True)
    text = TransformerConfig(width=1024, depth=6, heads=16, norm="post", scan=True, remat=True)
    large = made(
        image, text, n=1_860_000, count=6, size=(216, 224), patch=8, vocab=250_002, length=40, steps=436_000, batch=128, fusion=6, dim=256,
        lr=1e-4, tests=1000, dtype="bfloat16",
    )  # fmt: skip
    parts = (modality.image("image", 224, field="picture", patch=patch), *large.data.modalities[1:])
    source = replace(large.data.source, factors=(8,) * 7, picture=(224, 224))
    encoder = ImageEncoder(image, patch=patch, pool="cls")
    return replace(
        large, system=replace(large.system, image=encoder), data=replace(large.data, source=source, modalities=parts),
        sharding=(Rule(".*", "fsdp"),),
    )  # fmt: skip
