"""Stages that continue from 4M-21's small size: generation from metadata or palettes, and word embeddings as one more modality."""

from dataclasses import replace

from configs.masked.fourm21.base import NAMES, SHARED, STEERED, WITH_WORDS, experiment, system
from mmrep.config import Experiment
from mmrep.data.mixture import Group
from mmrep.systems.masked.fourm.evals import TokenAccuracy
from mmrep.systems.masked.fourm.masking import DirichletMixture, alphas


def stage(e: Experiment, name: str) -> Experiment:
    return replace(e, phases=(replace(e.phases[0], name=name),), optim=replace(e.optim, lr=1e-3))


def to_colour(text: str, keep: str) -> DirichletMixture:
    """Caption and `text` to colour; all of the caption is an input, and the share of the text that `keep` names."""
    return DirichletMixture(alphas(("caption", text), 2.0), alphas(rgb=1.0), keep=(("caption", "all"), (text, keep)))


def steering(steps: int = 2000, start: Experiment | None = None) -> Experiment:
    """Captions with metadata or palettes to colour alone, on records that have all modalities."""
    mixtures = to_colour("metadata", "random"), to_colour("palette", "all")
    e = experiment(replace(system(), mixtures=mixtures), steps, STEERED, start or experiment(system(), evals=()))
    source = replace(e.data.source, groups=(Group(NAMES, 1.0),))
    return stage(replace(e, data=replace(e.data, source=source)), "steering")


def words(steps: int = 1000, start: Experiment | None = None) -> Experiment:
    """One modality is added to a trained model."""
    from_words = TokenAccuracy(("words",), ("caption", "semseg", "detections"))
    start = start or experiment(system(), evals=())
    return stage(experiment(system(WITH_WORDS), steps, (SHARED, from_words), start), "words")
