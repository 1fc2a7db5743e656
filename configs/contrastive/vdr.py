"""VDR: pictures and texts as vectors of words, trained against bags of words (Zhou et al., ICLR 2024)

Retrieval-based Disentangled Representation Learning with Natural Language Supervision, arXiv 2212.07699.
    python -m experiments.train vdr
    python -m experiments.prove vdr

A user's own Table or Folder needs an image and its caption in each record; two text columns make a text retriever (Config.encoders).
"""

from dataclasses import replace
from typing import Any

from mmrep import modality
from mmrep.config import Arm, Data, Expect, Experiment, Optim, Phase, Proof, Rule, Tokenizer, Train
from mmrep.data.scenes import CaptionSpec, SceneData, WorldSpec
from mmrep.data.scenes.world import COLOURS, SHAPES
from mmrep.data.things import Things, word
from mmrep.evals.suite import Retrieval
from mmrep.nn.config import TransformerConfig, variant
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.nn.encoders.regions import RegionTower
from mmrep.nn.encoders.text import TextEncoder
from mmrep.systems.contrastive.vdr import Config
from mmrep.systems.contrastive.vdr.evals import Readability

SIZES = ("tiny", "small", "paper")
CONTENT = {*SHAPES, *COLOURS}
RETRIEVAL = (
    Retrieval("image", "text"),
    Retrieval("text", "image"),
    Retrieval("bag", "image", name="words->image"),
)


def content(caption: str) -> list[str]:
    """The shapes and colours of a caption."""
    return [w for w in caption.split() if w in CONTENT]


def of_things(attributes: Any) -> list[str]:
    """The words of all attributes of all objects."""
    return [word(a, v) for thing in attributes for a, v in enumerate(thing) if v >= 0]


def encoders(shape: TransformerConfig, patch: int, vocab: int, length: int) -> tuple:
    image = ImageEncoder(shape, patch=patch)
    return (("image", image), ("text", TextEncoder(shape, vocab=vocab, length=length)))


def scenes(n: int, size: int = 32, **splits: int) -> SceneData:
    caption = CaptionSpec("list", place=False, setting=False)
    return SceneData(n, size=size, world=WorldSpec(n_objects=(1, 3)), caption=caption, **splits)


def experiment(
    system: Config, source: SceneData, *, steps: int, batch: int, vocab: int, lr: float = 1e-3
) -> Experiment:  # fmt: skip
    text = system.texts["text"]
    pair = (
        modality.image("image", source.size, field="rgb"),
        modality.text("text", text.length, text.vocab, field="caption"),
    )
    return Experiment(
        system, Data(source, pair, Tokenizer(vocab, kind="word"), batch_size=batch), (Phase(steps=steps),),
        Optim(lr=lr, warmup=min(100, steps // 10), weight_decay=0.05), (*RETRIEVAL, Readability(content, ("caption",))), Train(log_every=50),
    )  # fmt: skip


def get_config(size: str = "small") -> Experiment:
    if size == "tiny":
        shape = TransformerConfig(width=16, depth=1, heads=2)
        system = Config(encoders(shape, 8, 64, 40), top_k=16)
        return experiment(system, scenes(64, n_val=16, n_test=16), steps=4, batch=8, vocab=64)
    if size == "small":
        shape = TransformerConfig(width=64, depth=3, heads=4)
        return experiment(Config(encoders(shape, 4, 512, 40)), scenes(16_000), steps=2000, batch=128, vocab=512)
    # ViT-B/32 and BERT-base, 29,523 words, the 768 largest of a vector; pairs as in YFCC15M.
    image, patch = variant("B/32", scan=True, remat=True)
    text = TextEncoder(replace(image, norm="post"), vocab=29_528, length=77)
    system = Config((("image", ImageEncoder(image, patch=patch)), ("text", text)), top_k=768, dtype="bfloat16")
    large = experiment(system, scenes(1_000_000, 224), steps=100_000, batch=4096, vocab=29_528, lr=5e-4)
    return replace(large, sharding=(Rule(".*", "fsdp"),))


def get_proof() -> Proof:
    """Three objects a record; a caption names two of them, in random order between meaningless words."""
    source = Things(4000, factors=(10, 10), objects=3, told=(0.67,), fillers=3, noise=0.5)
    shape = TransformerConfig(width=48, depth=1, heads=4)
    vocab, length = len(source.vocabulary) + 5, source.words + 2
    both = (("image", RegionTower(shape)), ("text", TextEncoder(shape, vocab=vocab, length=length)))
    modalities = (
        modality.vector("image", source.regions, source.dim, field="regions"), modality.text("text", length, vocab, field="text"),
    )  # fmt: skip
    evals = (*RETRIEVAL, Readability(of_things, ("attributes",)))

    def arm(name: str, system: Any) -> Arm:
        data = Data(source, modalities, Tokenizer(vocab, kind="word"), batch_size=128)
        optim = Optim(lr=2e-3, warmup=50, weight_decay=0.05)
        return Arm(name, Experiment(system, data, (Phase(steps=500),), optim, evals, Train(log_every=50)))

    vdr = Config(both)
    bare = "words->image R@1"
    return Proof(
        claim="Trained against bags of words, dimensions are words: pictures can be read, and searched by words without a text encoder.",
        metric="readability precision",
        arms=(
            arm("VDR", vdr),
            arm("without bags", replace(vdr, bags=False)),
            arm("without bags, own table", replace(vdr, bags=False, tied=False)),
            arm("top 10", replace(vdr, top_k=10)),
        ),
        expects=(
            Expect(better="VDR", worse="without bags", margin=0.1, statement="bags of words make the vectors readable"),
            Expect(
                better=f"VDR/{bare}",
                worse=f"without bags/{bare}",
                margin=0.2,
                statement="and let bare words find pictures",
            ),
            Expect(
                better=f"VDR/{bare}",
                worse=f"without bags, own table/{bare}",
                margin=0.3,
                statement="more so against texts with a table of their own, whose dimensions have no meaning",
            ),
            Expect(
                better="VDR/image->text R@1",
                worse="without bags, own table/image->text R@1",
                slack=0.02,
                statement="retrieval loses nothing against an unnamed space of the same width",
            ),
            Expect(better="VDR", worse="top 10", headline=False, statement="ten words in the sparse form of a vector"),
        ),
        seeds=(10, 11, 12),
        data="made attributes (noisy codes in the place of pixels)",
        notes="The tied table alone makes vectors half readable. The space of the same width without bags and with a table of its own is the latent "
        "rival: a CLIP of as many dimensions, pooled by the maximum.",
    )
