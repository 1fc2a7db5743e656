"""Florence's proof: classes that no caption names, and attributes that no label names."""

from typing import Any

from mmrep import modality
from mmrep.config import Arm, Data, Expect, Experiment, Optim, Phase, Proof, Tokenizer, Train
from mmrep.data.things import Things, word
from mmrep.evals.suite import Retrieval
from mmrep.nn.config import TransformerConfig
from mmrep.nn.encoders.regions import RegionTower
from mmrep.nn.encoders.text import TextEncoder
from mmrep.systems.contrastive.florence import Config
from mmrep.systems.contrastive.florence.data import Descriptions
from mmrep.systems.contrastive.florence.evals import ZeroShotOf

CLASSES, LABELLED = 24, tuple(range(12))
NAMES = tuple(word(0, k) for k in range(CLASSES))
SHAPE = TransformerConfig(width=48, depth=1, heads=4)
VOCAB, LENGTH = 48, 6


def things(keep: Any = "all", objective: Any = "unicl", *, n: int = 8000, steps: int = 350) -> Experiment:
    """Things of 24 classes with three attributes: 12 classes are known by labels alone, the others by captions of all four words."""
    world = Things(n, 400, 800, factors=(CLASSES, 6, 6, 6), noise=1.0)
    source = Descriptions(world, label="label", names=NAMES, by_name=LABELLED, keep=keep, templates=(), short=1)
    parts = (
        modality.vector("image", world.regions, world.dim, field="regions"), modality.text("text", LENGTH, VOCAB),
        *((modality.label("named", CLASSES + 1),) if objective == "heads" else ()),
    )  # fmt: skip
    system = Config(
        RegionTower(SHAPE), TextEncoder(SHAPE, vocab=VOCAB, length=LENGTH), objective=objective, classes=CLASSES
    )  # fmt: skip
    evals = (Retrieval("image", "text", ks=(1,)), ZeroShotOf(NAMES, LABELLED))
    return Experiment(
        system, Data(source, parts, Tokenizer(VOCAB, kind="word"), batch_size=128, eval_batch_size=400),
        phases=(Phase(steps=steps),), optim=Optim(lr=2e-3, warmup=50), evals=evals, train=Train(log_every=100),
    )  # fmt: skip


def get_proof() -> Proof:
    recall = "image->text R@1"
    return Proof(
        claim="UniCL puts labels and captions into one space: it names classes that no caption names, and retrieves captions whose attributes no "
        "label names.",
        metric="zero-shot accuracy",
        arms=(
            Arm("unicl", things()), Arm("captions only", things("natural", n=16_000)), Arm("labels only", things("names", n=16_000)),
            Arm("two heads", things(objective="heads")), Arm("infonce", things(objective="infonce")),
        ),
        expects=(
            Expect(
                better="unicl", worse="captions only", margin=0.3,
                statement="the 12 classes that labels alone name are classified 30 points better than by captions alone",
            ),
            Expect(
                better="unicl", worse="two heads", margin=0.3,
                statement="and than by a classifier beside the contrast of captions, whose classes have no text",
            ),
            Expect(
                better=f"unicl/{recall}", worse=f"labels only/{recall}", margin=0.15,
                statement="captions are retrieved 15 points better than after training on labels alone",
            ),
            Expect(
                better="unicl", worse="infonce", headline=False,
                statement="against InfoNCE on the same mixture no difference is expected: equal texts have equal gradients",
            ),
            Expect(
                better=f"unicl/{recall}", worse=f"two heads/{recall}", headline=False, statement="two heads retrieve captions less well",
            ),
        ),
        seeds=(10, 11, 12),
        data="made things (noisy codes in the place of pixels)",
        notes="All arms see the same number of pairs; captions or labels alone have twice as many of their own kind. Captions of test things name "
        "all four words, also those of classes that training captions never name.",
    )  # fmt: skip
