"""VideoLights: moments and highlights of a video found by a text (Paul et al., arXiv 2024)

VideoLights: Feature Refinement and Cross-Task Alignment Transformer for Joint Video Highlight Detection and Moment Retrieval, arXiv
2412.01558. It works on features of clips, as published; all sizes and the proof use codes. Training has two phases: captions of frames as
pseudo-labels, then labels.
    python -m experiments.train videolights
    python -m experiments.prove videolights
A user's own records (a .jsonl or .parquet Table with extra=("video", "moment", "saliency"), or Arrays) have video [clips, width], numbers of
any frozen encoder, rows of zeros behind a short video; text; moment, as many [start, end] as shares of the video, [0, 0] for padding; and
saliency [clips] in [0, 1], 0 outside the moments (three annotators' scores, summed and divided by 12, in QVHighlights).
"""

from dataclasses import replace
from typing import Any

from mmrep import modality
from mmrep.config import Arm, Data, Expect, Experiment, Optim, Phase, Proof, Rule, Tokenizer, Train
from mmrep.data.clips.moments import SPEC, MomentData
from mmrep.evals.temporal import Highlights, Moments
from mmrep.nn.config import TransformerConfig
from mmrep.nn.encoders.text import TextEncoder
from mmrep.systems.video.videolights import Config

SIZES = ("tiny", "small", "paper")
VOCAB, LENGTH = 32, 6
EVALS = (Moments(ks=(1,), precision=True), Highlights(least=0.75))


def parts(source: MomentData, system: Config) -> tuple[modality.Modality, ...]:
    text = modality.vector("text", LENGTH, source.dim)
    if system.text is not None:
        text = modality.text("text", system.text.length, system.text.vocab)
    frames = source.spec.frames
    return (
        modality.vector("video", frames, source.dim), text, modality.vector("moment", 1, 2), modality.vector("labels", frames, field="saliency"),
    )  # fmt: skip


def experiment(
    source: MomentData, system: Config, *, steps: int, first: int = 0, pseudo: MomentData | None = None, batch: int = 48, lr: float = 1e-3,
) -> Experiment:  # fmt: skip
    """`first` steps on the pseudo-labels, then `steps` on the labels."""
    data = Data(source, parts(source, system), Tokenizer(VOCAB, kind="word"), batch_size=batch)
    phases = (Phase("labels", steps),)
    if pseudo is not None:
        phases = (Phase("captions", first, data=pseudo), *phases)
    optim = Optim(lr=lr, warmup=min(50, steps // 4), weight_decay=1e-4, clip=1.0)
    return Experiment(system, data, phases=phases, optim=optim, evals=EVALS, train=Train(log_every=50))


def codes(width: int = 64, depth: int = 2, **changes: Any) -> Config:
    shape = TransformerConfig(width=width, depth=depth, heads=4, mlp_ratio=2.0, norm="post")
    text = TextEncoder(TransformerConfig(width=width, depth=1, heads=4), vocab=VOCAB, length=LENGTH)
    return Config(shape, text, **{"encoder": depth, "queries": 5} | changes)


def get_config(size: str = "small") -> Experiment:
    if size == "tiny":
        spec = replace(SPEC, frames=8, events=2)
        source = MomentData(n_train=64, n_val=16, n_test=16, spec=spec, dim=16)
        pseudo = replace(source, queries="captions", seed=1)
        return experiment(source, codes(16, 1, queries=3), steps=2, first=2, pseudo=pseudo, batch=8)
    if size == "small":
        labelled = MomentData(n_train=1000)
        pseudo = MomentData(n_train=8000, queries="captions", seed=1)
        return experiment(labelled, codes(queries=10), steps=1000, first=1500, pseudo=pseudo)
    # QVHighlights: 75 clips of 2 s, SlowFast + CLIP + BLIP-2 features of clips (words as ids here, features of words as published: text=None);
    # 7,218 queries, 200 epochs, after 100 epochs on the captions.
    shape = TransformerConfig(width=256, depth=3, heads=8, norm="post", dropout=0.1)
    text = TextEncoder(TransformerConfig(width=512, depth=12, heads=8, scan=True), vocab=49_408, length=32)
    system = Config(shape, text, (2304, 512, 768), encoder=3, warm=226, cap=200.0, input_dropout=0.5)
    labelled = MomentData(7218, 1550, 1550, spec=replace(SPEC, frames=75), dim=3584)
    pseudo = replace(labelled, queries="captions", seed=1)
    large = experiment(labelled, system, steps=45_200, first=22_600, pseudo=pseudo, batch=32, lr=1e-4)
    optim = replace(large.optim, schedule="constant", clip=0.1)
    return replace(large, optim=optim, sharding=(Rule(".*", "fsdp"),))


def get_proof() -> Proof:
    few = MomentData(n_train=100)

    def arm(name: str, queries: Any = None, source: MomentData = few, **changes: Any) -> Arm:
        """400 steps in all; with pseudo-labels 280 of them are on these."""
        system, small = codes(32, 1, **changes), {"batch": 32, "lr": 2e-3}
        if queries is None:
            return Arm(name, experiment(source, system, steps=400, **small))
        return Arm(
            name, experiment(source, system, steps=120, first=280, pseudo=MomentData(queries=queries, seed=1), **small)
        )

    return Proof(
        claim="With 100 labelled videos, training on captions of the frames of 2,000 others finds more moments, though 30 % of the captions are wrong.",
        metric="R@1 IoU 0.7",
        arms=(
            arm("labels"), arm("captions", "captions"), arm("shuffled", "shuffled"), arm("blind", source=replace(few, queries="blind")),
            arm("core", "captions", refine=False, two_way=False, feedback=False, hard=0.0, cosine=0.0),
        ),
        expects=(
            Expect(better="captions", worse="labels", margin=0.05, statement="more moments are found than from the labels alone"),
            Expect(better="captions", worse="shuffled", margin=0.15, statement="captions of other videos do not do it"),
            Expect(better="labels", worse="blind", margin=0.2, statement="the text is used"),
            Expect(
                better="captions", worse="core", headline=False,
                statement="refinement, two-way fusion, feedback, hard and cosine losses together find more moments",
            ),
            Expect(better="captions/HD mAP", worse="core/HD mAP", headline=False, statement="and order highlights better"),
        ),
        seeds=(10, 11, 12),
        data="codes of synthetic clips",
    )  # fmt: skip
