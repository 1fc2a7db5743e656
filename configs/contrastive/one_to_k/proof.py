"""1-to-K's proof: four captions of a thing, each with its own part of the attributes."""

from typing import Any

from configs.contrastive.one_to_k.base import names
from mmrep import modality
from mmrep.config import Arm, Data, Expect, Experiment, Optim, Phase, Proof, Tokenizer, Train
from mmrep.data.things import Things
from mmrep.nn.config import TransformerConfig
from mmrep.nn.encoders.regions import RegionTower
from mmrep.nn.encoders.text import TextEncoder
from mmrep.systems.contrastive.one_to_k import Config
from mmrep.systems.contrastive.one_to_k.evals import Languages

SHAPE = TransformerConfig(width=48, depth=1, heads=4)
SOURCE = Things(4000, 500, 500, told=(0.5, 0.8, 0.8, 0.5), noise=1.0)
VOCAB, LENGTH = 208, 8


def things(objective: Any, *, batch: int = 32, steps: int = 500) -> Experiment:
    """32 pictures and 128 captions a step."""
    parts = (
        modality.vector("image", SOURCE.regions, SOURCE.dim, field="regions"),
        *(modality.text(name, LENGTH, VOCAB) for name in names(4)),
    )
    system = Config(
        RegionTower(SHAPE), TextEncoder(SHAPE, vocab=VOCAB, length=LENGTH), names(4), objective=objective
    )  # fmt: skip
    return Experiment(
        system, Data(SOURCE, parts, Tokenizer(VOCAB, kind="word"), batch_size=batch, eval_batch_size=500), phases=(Phase(steps=steps),),
        optim=Optim(lr=2e-3, warmup=50), evals=(Languages(names(4)),), train=Train(log_every=100),
    )  # fmt: skip


def get_proof() -> Proof:
    worst, variance = "languages worst R@10", "languages rank variance image->text"
    return Proof(
        claim="All K texts of a picture as positives of one contrast treat the languages alike: retrieval is better, also in the worst language, "
        "and ranks vary less over languages than with the first language as a pivot.",
        metric="languages R@10",
        arms=(
            Arm("1-to-K", things("one_to_k")), Arm("pivot", things("pivot")), Arm("one positive", things("one_positive")),
            Arm("random", things("random", batch=128)),
        ),
        expects=(
            Expect(better="1-to-K", worse="pivot", margin=0.03, statement="the mean over languages is 3 points better than through a pivot"),
            Expect(better=f"1-to-K/{worst}", worse=f"pivot/{worst}", margin=0.045, statement="that of the worst language 4.5 points"),
            Expect(
                better=f"pivot/{variance}", worse=f"1-to-K/{variance}", margin=80.0,
                statement="and the ranks of a record vary less over languages",
            ),
            Expect(
                better="1-to-K", worse="one positive", margin=0.06,
                statement="one random positive, with the picture's other texts as negatives, retrieves 6 points less",
            ),
            Expect(
                better="1-to-K", worse="random", headline=False,
                statement="one language a step with 4 times the pictures, at equal text encodings, is not expected to be beaten",
            ),
        ),
        seeds=(10, 11, 12),
        data="made things (noisy codes in the place of pixels), captions in four made languages",
        notes="Every arm encodes 128 captions a step; all but the random language see 32 pictures, that one 128. Each caption names its own random "
        "part of six attributes: three in the first and the last language, five in the others.",
    )  # fmt: skip
