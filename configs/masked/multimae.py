"""MultiMAE: masked autoencoding of several modalities with one encoder (Bachmann et al., ECCV 2022)

Multi-modal multi-task masked autoencoders, arXiv 2204.01678. The encoder sees few patches of colour, depth and classes; each has a decoder.
    python -m experiments.train multimae
"""

from dataclasses import replace

from configs.masked import _multimae as base
from mmrep.config import Arm, Expect, Experiment, Optim, Phase, Proof
from mmrep.nn.maps import dense
from mmrep.systems.masked.multimae import Config, Task

SIZES = ("tiny", "small", "paper", "bench")


def bench() -> Experiment:
    parts = base.modalities(64, 8, classes=21)
    maps = dense(parts[0]), dense(parts[1]), dense(parts[2], class_dim=32)
    tasks = Task("rgb"), Task("depth", "l1"), Task("semseg", "ce")
    shapes = {"encoder": base.transformer(192, 6, 3), "decoder": base.transformer(128, 2, 4)}
    system = Config(maps, tasks, num_encoded_tokens=32, **shapes)
    return Experiment(system, base.data(parts, 256, 32), (Phase(steps=20),), Optim(lr=1e-4, b2=0.95, clip=None))


def get_config(size: str = "small") -> Experiment:
    return {"tiny": base.tiny, "small": base.small, "paper": base.paper, "bench": bench}[size]()


def get_proof() -> Proof:
    rgb_only = replace(base.SMALL, maps=(base.RGB,), targets=(base.DEPTH, base.SEMSEG), num_encoded_tokens=16)
    no_classes = replace(base.SMALL, maps=(base.RGB, base.DEPTH), tasks=base.TASKS[:3], num_encoded_tokens=32)
    first, cross = base.EVALS[:1], base.EVALS[:2]
    return Proof(
        claim="Predicting masked patches across modalities gives better RGB features than masked autoencoding of RGB alone.",
        metric="semseg|rgb mIoU",
        arms=(
            Arm("multi", base.experiment()),
            Arm("mae", base.experiment(base.MAE, evals=first)),
            Arm("multi-task", base.experiment(rgb_only, evals=cross)),
            Arm("own modality", base.experiment(replace(base.SMALL, own_modality_only=True), evals=cross)),
            Arm("even budgets", base.experiment(replace(base.SMALL, alpha=1e4), evals=cross)),
            Arm("multi, no classes", base.experiment(no_classes)),
        ),
        expects=(
            Expect("multi", "mae", 0.03, "MultiMAE > MAE, a linear head on frozen RGB tokens"),
            Expect("multi, no classes", "mae", 0.03, "the same where no class map was seen", headline=False),
            Expect(0.6, "multi/depth|rgb ratio", 0.0, "depth from its own image errs less than 0.6 x from another's"),
            Expect("multi/depth|rgb L1 of the mean", "multi/depth|rgb L1", 0.0, "and less than the mean depth"),
            Expect("own modality/depth|rgb ratio", 0.9, 0.0, "decoders of their own modality learn nothing across modalities", headline=False),
            Expect("even budgets/depth|rgb L1", "multi/depth|rgb L1", 0.0, "Dirichlet(1) > even budgets, one map given", headline=False),
            Expect("multi/semseg|rgb+depth mIoU", "multi", 0.02, "a second map at test time helps", headline=False),
        ),
        notes="Equal encoder, steps and share of visible tokens (1/4; the paper has 1/6); the head is fitted on 200 labelled scenes. No joint crops or flips. "
        "Base 10 of the positions: on 8 x 8 patches most sines of base 10,000 are constant, and queries of different positions are alike. The margin was set "
        "before any test seed.",
    )  # fmt: skip
