"""G2L: moments of a video found by sentences, with geodesic neighbours as positives (Li et al., ICCV 2023)

G2L: Semantically Aligned and Uniform Video Grounding via Geodesic and Game Theory, arXiv 2307.14277. It works on features of clips, as
published; all sizes and the proof use codes.
    python -m experiments.train g2l
    python -m experiments.prove g2l
A user's own records (a .jsonl or .parquet Table with extra=("video", "sentence", "moment"), or Arrays) have video [clips, width], numbers of
any frozen encoder; sentence, a list of texts; moment, as many [start, end] as shares of the video, [0, 0] for a padding sentence.
"""

from dataclasses import replace
from typing import Any

from mmrep import modality
from mmrep.config import Arm, Data, Expect, Experiment, Optim, Phase, Proof, Rule, Tokenizer, Train
from mmrep.evals.temporal import Moments
from mmrep.nn.config import TransformerConfig
from mmrep.nn.encoders.text import TextEncoder
from mmrep.systems.video.g2l import Config
from mmrep.systems.video.g2l.data import RepeatedData
from mmrep.systems.video.g2l.evals import Alignment

SIZES = ("tiny", "small", "paper")
VOCAB, LENGTH = 32, 8


def grounding(
    source: RepeatedData, system: Config, *, steps: int, batch: int = 48, lr: float = 1e-3, vocab: int = VOCAB,
) -> Experiment:  # fmt: skip
    shape = source.segments * source.clips, source.dim
    parts = (
        modality.vector("video", *shape), modality.texts("sentence", 1, system.text.length, vocab),
        modality.vector("moment", 1, 2),
    )  # fmt: skip
    evals = (Moments(), Moments(truth="occurrences", name="any"), Alignment())
    return Experiment(
        system, Data(source, parts, Tokenizer(vocab, kind="word"), batch_size=batch), phases=(Phase(steps=steps),),
        optim=Optim(lr=lr, warmup=min(50, steps // 10), weight_decay=1e-5, b2=0.99, clip=5.0), evals=evals, train=Train(log_every=50),
    )  # fmt: skip


def codes(width: int = 32, **changes: Any) -> Config:
    text = TextEncoder(TransformerConfig(width=width, depth=1, heads=4), vocab=VOCAB, length=LENGTH)
    return replace(Config(text, dim=width, width=width, kernel=3, layers=1), **changes)


def get_config(size: str = "small") -> Experiment:
    if size == "tiny":
        source = RepeatedData(n_train=64, n_val=16, n_test=16, segments=4)
        return grounding(source, codes(16, clips=8, players=3), steps=4, batch=8)
    if size == "small":
        return grounding(RepeatedData(n_train=4000), codes(64, layers=2), steps=2000)
    # ActivityNet Captions: 256 C3D features a video, 64 clips; BERT-base at a tenth of the rate. The contrast all but ends after 5 of 17 epochs.
    text = TextEncoder(
        TransformerConfig(width=768, depth=12, heads=12, norm="post", scan=True), vocab=30_522, length=64
    )
    system = Config(text, clips=64, counts=(16, 8, 8), dim=256, width=512, kernel=9, layers=4)
    large = grounding(RepeatedData(n_train=10_009, clips=32, dim=500), system, steps=3544, lr=8e-4, vocab=30_522)
    phases = (Phase("contrast", 1042), Phase("iou", 2502, system=replace(system, contrast=1e-3, shapley=5e-6)))
    optim = replace(large.optim, factors=(("text/encoder/.*", 0.1),), warmup=834)
    return replace(large, phases=phases, optim=optim, sharding=(Rule(".*", "fsdp"),))


def get_proof() -> Proof:
    def arm(name: str, annotated: str = "first", **changes: Any) -> Arm:
        source = RepeatedData(annotated=annotated)  # type: ignore[arg-type]
        return Arm(name, grounding(source, codes(**changes), steps=400, lr=2e-3))

    return Proof(
        claim="Where only the first occurrence of an event is annotated, geodesic neighbours as positives bring its sentence to the others.",
        metric="alignment",
        arms=(
            arm("geodesic"), arm("cosine", positives="cosine"), arm("anchor", positives="anchor"), arm("random", positives="random"),
            arm("any geodesic", "any"), arm("any anchor", "any", positives="anchor"),
        ),
        expects=(
            Expect(better="geodesic", worse="anchor", margin=0.12, statement="the sentence is closer to occurrences that were never annotated"),
            Expect(better="geodesic", worse="random", margin=0.12, statement="as many random positives do not do it"),
            Expect(better="geodesic", worse="cosine", margin=0.03, headline=False, statement="neighbours by cosine do less"),
            Expect(better="any geodesic", worse="any anchor", slack=0.05, headline=False, statement="with any occurrence annotated there is little left to gain"),
            Expect(better="geodesic/any R@1 IoU 0.5", worse="anchor/any R@1 IoU 0.5", slack=0.03, headline=False, statement="moments are found as often"),
        ),
        seeds=(10, 11, 12),
        data="synthetic videos with a recurring event, as codes",
        notes="Geodesic positives are above random ones on every seed, by less than the margin. Alignment is the cosine itself, not its distance from the "
        "cosines of other moments, and any positives beside the annotated one raise it, random ones as well. Occurrences of one event are "
        "neighbours by cosine already, which is the likely reason that cosine neighbours do no less: a path over a graph has nothing to add.",
    )  # fmt: skip
