"""DBL: deep boosting, a branch that must exceed its peer's similarities by a margin (Diao et al., TIP 2024)

Deep Boosting Learning: A Brand-new Cooperative Approach for Image-Text Matching, arXiv 2404.18114.
    python -m experiments.train dbl
    python -m experiments.prove dbl
On your own data: --data.source a Table with the columns image and caption, or a Folder; regions are a Table's column of lists of numbers.
"""

from dataclasses import replace
from typing import Any

from mmrep import modality
from mmrep.config import Arm, Data, Expect, Experiment, Optim, Phase, Proof, Rule, Tokenizer, Train
from mmrep.data.scenes import CaptionSpec, SceneData, WorldSpec
from mmrep.data.things import Things
from mmrep.evals.suite import Retrieval
from mmrep.nn.config import TransformerConfig
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.nn.encoders.regions import RegionTower
from mmrep.nn.encoders.text import TextEncoder
from mmrep.systems.retrieval.dbl import Config
from mmrep.systems.retrieval.dbl.evals import Margin

SIZES = ("tiny", "small", "paper")
EVALS = (Retrieval("image", "text", two_way=True), Margin())


def pictures(
    shape: TransformerConfig, *, n: int, steps: int, batch: int, patch: int, vocab: int, dim: int, tests: int
) -> Experiment:
    world, words = WorldSpec(n_objects=(1, 3)), CaptionSpec("list", place=False, setting=False)
    source = SceneData(n, size=32, world=world, caption=words, n_val=tests, n_test=tests)
    parts = modality.image("image", 32, field="rgb"), modality.text("text", 40, vocab, field="caption")
    system = Config(ImageEncoder(shape, patch=patch), TextEncoder(shape, vocab=vocab, length=40), dim)
    return Experiment(
        system, Data(source, parts, Tokenizer(vocab, kind="word"), batch_size=batch), phases=(Phase(steps=steps),),
        optim=Optim(lr=1e-3, warmup=min(100, steps // 10), weight_decay=0.05), evals=EVALS, train=Train(log_every=50),
    )  # fmt: skip


def get_config(size: str = "small") -> Experiment:
    if size == "tiny":
        shape = TransformerConfig(width=16, depth=1, heads=2)
        return pictures(shape, n=64, steps=4, batch=8, patch=8, vocab=64, dim=16, tests=16)
    if size == "small":
        shape = TransformerConfig(width=64, depth=2, heads=4)
        return pictures(shape, n=8000, steps=2000, batch=64, patch=8, vocab=512, dim=64, tests=500)
    # 36 regions of 2048 numbers to 1024, Flickr30K's 29,000 pictures with 5 captions, 40 epochs; a transformer in place of the BiGRU.
    source = Things(145_000, 1000, 1000, factors=(64, 16, 16), objects=36, told=(0.2,), dim=2048)
    shape = TransformerConfig(width=1024, depth=1, heads=8)
    parts = modality.vector("image", 36, 2048, field="regions"), modality.text("text", 40, 8500)
    system = Config(RegionTower(shape, blocks=False), TextEncoder(shape, vocab=8500, length=40), 1024)
    return Experiment(
        system, Data(source, parts, Tokenizer(8500, kind="word"), batch_size=128), phases=(Phase(steps=45_000),),
        optim=Optim(lr=2e-4, clip=2.0, weight_decay=0.0), evals=EVALS, sharding=(Rule(".*", "fsdp"),),
    )  # fmt: skip


def sets(*, steps: int = 800, **changes: Any) -> Experiment:
    """Sets of four objects and captions of three of them; a quarter of the steps with all negatives, since the hardest collapse an untrained model."""
    source = Things(4000, 500, 500, factors=(8, 6), objects=4, told=(0.75,), noise=0.5)
    shape, vocab, length = TransformerConfig(width=48, depth=1, heads=4), 24, 8
    parts = modality.vector("image", source.regions, source.dim, field="regions"), modality.text("text", length, vocab)
    system = replace(Config(RegionTower(shape), TextEncoder(shape, vocab=vocab, length=length), 48), **changes)
    return Experiment(
        system, Data(source, parts, Tokenizer(vocab, kind="word"), batch_size=96, eval_batch_size=500),
        phases=(Phase("all negatives", steps // 4, system=replace(system, hardest=False)), Phase("hardest", steps - steps // 4)),
        optim=Optim(lr=2e-3, warmup=20), evals=(Margin(),), train=Train(log_every=100),
    )  # fmt: skip


def get_proof() -> Proof:
    return Proof(
        claim="Over its own base loss, a branch that must exceed its peer's gaps retrieves better and is further above its hardest negatives.",
        metric="pairs R@1",
        arms=(
            Arm("plain", sets(boost="none")), Arm("relative", sets()), Arm("shuffled", sets(anchor="shuffled")),
            Arm("wide margin", sets(boost="none", margin=0.4)), Arm("half", sets(steps=400)),
        ),
        expects=(
            Expect(better="relative", worse="plain", margin=0.02, statement="after equal steps of the kept branch relative boosting gains 2 points of R@1"),
            Expect(
                better="relative/pairs gap", worse="plain/pairs gap", margin=0.005, statement="and its pairs are further above the hardest negative",
            ),
            Expect(better="relative", worse="wide margin", headline=False, statement="a plain loss of twice the margin is not expected to equal it"),
            Expect(better="relative", worse="shuffled", headline=False, statement="nor is the gap of another pair"),
            Expect(
                better="half", worse="plain", headline=False,
                statement="at equal total computation (two branches of half the steps) it is not expected to hold",
            ),
        ),
        seeds=(10, 11, 12),
        data="made sets of objects (noisy codes in the place of pixels)",
        notes="Not run at these settings. Tuning: with the hardest negatives from the first step, 800 steps and noisier codes, relative boosting had 0.146 "
        "and plain 0.121 R@1 (seed 200), all embeddings nearly one; as here but 400 steps, 0.320 and 0.352 (seed 201). All arms begin with the sum over all negatives: with the hardest from the first step the embeddings collapsed on a tuning seed. In the "
        "plan's pilots most of the gain was that of a larger margin: the claim is over the branch's own base loss.",
    )  # fmt: skip
