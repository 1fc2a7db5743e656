"""MultiMAE: masked autoencoding of several modalities with one encoder (Bachmann et al., ECCV 2022)

Multi-modal multi-task masked autoencoders, arXiv 2204.01678. The encoder sees few patches of colour, depth and classes; each has a decoder.
    python -m experiments.train multimae
"""

from dataclasses import replace
from typing import Any

from configs.masked import _multimae as base
from mmrep.config import Arm, Expect, Experiment, Optim, Phase, Proof
from mmrep.evals.dense import CrossPrediction, Segmentation
from mmrep.evals.floor import Floor
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


PROBE = Segmentation(dense(base.CODED_CLASSES), name="classes|rgb")


def coded(system: Config, *evals: Any) -> Experiment:
    return base.coded(system, 800, (PROBE, *evals))


def get_proof() -> Proof:
    multi = base.CODED_MULTI
    rgb, other = multi.maps
    floor, depth = Floor(PROBE, (("fused_tokens", (rgb,)),)), CrossPrediction(other)
    return Proof(
        claim="Predicting masked patches across modalities gives better colour features than masked autoencoding of colour alone, where colour alone "
        "cannot predict colour.",
        metric="classes|rgb pixel accuracy",
        arms=(
            Arm("MultiMAE", coded(multi, depth, floor)),
            Arm("MAE", coded(base.CODED_MAE)),
            Arm("own modality", coded(replace(multi, own_modality_only=True), depth)),
        ),
        expects=(
            Expect("MultiMAE", "MAE", 0.08, "classes of patches from frozen colour tokens: 8 points better than a masked autoencoder of colour"),
            Expect("MultiMAE", "MultiMAE/untrained classes|rgb pixel accuracy", 0.02, "2 points better than the untrained network"),
            Expect("MultiMAE", "own modality", 0.05, "5 points better than with decoders that see their own modality alone"),
            Expect("MultiMAE/depth|rgb R2", "own modality/depth|rgb R2", 0.15, "and depth is predicted from colour"),
            Expect("MultiMAE", "MultiMAE/raw classes|rgb pixel accuracy", 0.1, "10 points better than a linear head on the pixels", headline=False),
        ),
        seeds=(10, 11, 12),
        data="coded maps",
        notes="The world is built so that colour alone cannot predict colour: of a patch, its neighbours give the class and not the sign, its depth gives both. "
        "Equal encoder, steps and share of visible tokens (1/4; the paper has 1/6); the head is fitted on 200 labelled pictures. No joint crops or flips.",
    )  # fmt: skip
