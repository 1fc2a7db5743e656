"""Stages that continue from 4M's small size, and the same model over the ids of a learned tokenizer."""

from dataclasses import replace

from configs.masked import _fourm_shared as shared
from configs.masked.fourm.base import ACCURACY, GENERATION, PARTS, SMALL, WHOLE, data, experiment
from mmrep import modality
from mmrep.config import Experiment
from mmrep.data.tokenised import Tokenised
from mmrep.systems.masked.fourm.evals import SuperResolution, TokenAccuracy
from mmrep.systems.masked.fourm.masking import DirichletMixture, alphas
from mmrep.systems.masked.fourm.panels import Panels
from mmrep.systems.masked.fourm.schedules import Target
from mmrep.systems.masked.fourm.tokens import token_modality


def stage(e: Experiment, name: str, lr: float | None = None) -> Experiment:
    """`e` with its phase named, at another learning rate."""
    optim = e.optim if lr is None else replace(e.optim, lr=lr)
    return replace(e, phases=(replace(e.phases[0], name=name),), optim=optim)


def superres(steps: int = 3000, start: Experiment | None = None) -> Experiment:
    """Colour on a grid of twice the side, from colour, the caption and finer tokens decoded already (the paper's appendix)."""
    fine = modality.image("rgb_fine", 32, field="rgb", patch=2)
    up = DirichletMixture(alphas(rgb=5.0, caption=0.5, rgb_fine=2.0), alphas(rgb_fine=1.0))
    tokens = *SMALL.modalities, token_modality(fine, shared.BINS["rgb"])
    system = replace(SMALL, modalities=tokens, mixtures=(up,), num_input_tokens=128, num_target_tokens=128)
    target = Target("rgb_fine", "maskgit", temperature=0.0)
    evals = TokenAccuracy(("rgb",), ("rgb_fine",)), SuperResolution("rgb", "rgb_fine", (target,)), Panels()
    e = experiment(system, steps, evals, start or experiment(evals=()))
    return stage(replace(e, data=data((*PARTS, fine))), "superres")


# Captions to classes, captions and classes to colour, captions to colour.
TEXT_TO_IMAGE = (
    DirichletMixture(alphas(caption=1.0), alphas(semseg=1.0), keep=WHOLE),
    DirichletMixture(alphas(semseg=2.0, caption=2.0), alphas(rgb=1.0), keep=WHOLE),
    DirichletMixture(alphas(caption=1.0), alphas(rgb=1.0), weight=0.5, keep=WHOLE),
)


def captions(steps: int = 1000, start: Experiment | None = None) -> Experiment:
    """Text to image alone (the paper's fine-tuned variants)."""
    evals = (*(replace(e, limit=200) for e in GENERATION), ACCURACY, Panels())
    e = experiment(replace(SMALL, mixtures=TEXT_TO_IMAGE), steps, evals, start or experiment(evals=()))
    return stage(e, "captions", lr=1e-3)


def tokens() -> Experiment:
    """Colour as the ids of a trained `vqvae` (--variant fourm), which experiments.tokenize writes beforehand."""
    rgb = modality.label_map("rgb", 8, 216, field="rgb_ids")
    e = experiment(
        replace(SMALL, modalities=tuple(token_modality(rgb) if m.name == "rgb" else m for m in SMALL.modalities))
    )
    parts = tuple(rgb if m.name == "rgb" else m for m in PARTS)
    source = Tokenised(e.data.source, "rgb_ids", "runs/tokens/fourm-rgb")
    return replace(e, data=replace(e.data, source=source, modalities=parts))
