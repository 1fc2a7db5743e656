"""4M-21 at its small size: what its other sizes, variants and proof arms start from."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from configs.masked import _fourm_shared as shared
from mmrep import modality
from mmrep.config import Data, Experiment, Tokenizer
from mmrep.data import serialise
from mmrep.data.mixture import CoTraining, Group
from mmrep.data.scenes import words
from mmrep.modality import Modality
from mmrep.systems.masked.fourm import Config
from mmrep.systems.masked.fourm.evals import TokenAccuracy
from mmrep.systems.masked.fourm.masking import DirichletMixture, alphas
from mmrep.systems.masked.fourm.panels import Panels
from mmrep.systems.masked.fourm.steering import PaletteSteering, PredictedRetrieval, Steering, WellFormed
from mmrep.systems.masked.fourm.tokens import TokenModality, token_modality

SERIAL = serialise.Serialised()
WORLD = replace(shared.WORLD, tints=("white", "grey", "sand", "sky"))
OBJECTS, VOCAB = WORLD.n_objects[1], 224
SEVEN = ("pixels", "rgb", "depth", "normals", "semseg", "caption", "detections")
NAMES = (*SEVEN, "edges", "instances", "palette", "metadata", "pose", "teacher")
WITH_WORDS = (*NAMES, "words")
INPUT_ONLY = "pixels", "words"
TOKENS: dict[str, dict[str, Any]] = {
    **{name: {"bins": bins} for name, bins in shared.BINS.items()},
    "edges": {"bins": (8,)}, "pose": {"bins": (16,), "low": -1.0, "high": 1.0},
    "teacher": {"bins": (8,), "low": -0.3, "high": 0.3}, "palette": {"keep": "binary"}, "metadata": {"chunk": 2},
}  # fmt: skip


def modalities(size: int = 32, patch: int = 4, vocab: int = VOCAB, caption: int = 16) -> tuple[Modality, ...]:
    """Every modality, the word embeddings included. Texts begin with a BOS, which is no token of 4M."""
    return (
        *shared.modalities(size, patch, vocab, caption), modality.text("detections", 2 + 5 * OBJECTS, vocab),
        modality.image("edges", size, 1, patch=patch), modality.label_map("instances", size, OBJECTS + 1, patch=patch),
        modality.text("palette", 3 + 3 * SERIAL.palette, vocab), modality.text("metadata", 24, vocab),
        modality.vector("pose", 6 * OBJECTS), modality.vector("teacher", 64), modality.vector("words", words.LENGTH, words.DIM),
    )  # fmt: skip


def token_modalities(
    names: Sequence[str], parts: Sequence[Modality], settings: dict[str, dict[str, Any]] = TOKENS
) -> tuple[TokenModality, ...]:
    return tuple(token_modality(m, **settings.get(m.name, {})) for m in parts if m.name in names)


def mixtures(names: Sequence[str]) -> tuple[DirichletMixture, ...]:
    """All to all at four concentrations, pixels to all, mostly captions to all, and mostly word embeddings to all (the paper's T5)."""
    targets = [n for n in names if n not in INPUT_ONLY]
    others = [n for n in names if n != "words"]
    found = [DirichletMixture(alphas(names, a), alphas(targets, a)) for a in (0.01, 0.1, 1.0, 10.0)]
    found.append(DirichletMixture(alphas(pixels=1000.0), alphas(targets), weight=3.0))
    for text in (n for n in ("caption", "words") if n in names):
        few = alphas([n for n in others if n != "caption"], 0.05, **{text: 5.0})
        out = alphas([n for n in targets if n != text])
        found.append(DirichletMixture(few, out, weight=0.5, keep=((text, "all"),)))
    return tuple(found)


def system(names: Sequence[str] = NAMES, *, chunk: int = 2) -> Config:
    settings = TOKENS | {"metadata": {"chunk": chunk}}
    return shared.small_system(token_modalities(names, modalities(), settings), mixtures(names))


def data(
    names: Sequence[str] = NAMES,
    parts: Sequence[Modality] = modalities(),
    n_train: int = 8000,
    n_eval: int = 400,
    batch: int = 32,
) -> Data:
    """Co-training on several sets of records: most have all modalities, some the first seven, some a caption alone."""
    names = tuple(names)
    groups = Group(names, 0.6), Group(SEVEN, 0.2), Group(("caption",), 0.2)
    if names == SEVEN:
        groups = Group(SEVEN, 0.8), Group(("caption",), 0.2)
    held = [m for m in parts if m.name in names or m.name in NAMES]
    vocab = next(m.vocab for m in parts if m.name == "caption")
    sensors = [m.source for m in held if m.name != "pixels"]
    source = replace(shared.scenes(parts[0].shape[0], n_train, n_eval, WORLD, sensors), serial=SERIAL)
    tokenizer = Tokenizer(vocab, kind="word", symbols=serialise.symbols(SERIAL))
    whole = (*held, modality.vector("present", len(names)))
    return Data(CoTraining(source, names, groups), whole, tokenizer, batch_size=batch, eval_batch_size=100)


SHARED = TokenAccuracy(("pixels",), ("depth", "normals", "semseg", "caption", "detections"))
USES = PredictedRetrieval(("depth", "caption", "palette")), Steering(SERIAL), WellFormed(SERIAL)
STEERED = Steering(SERIAL, left_open=True), PaletteSteering(SERIAL)


def experiment(
    model: Config, steps: int = 3000, evals: tuple = (SHARED,), start: Experiment | None = None
) -> Experiment:
    names = tuple(m.name for m in model.modalities)
    return shared.small_experiment(model, data(names), steps, evals, start)


def small() -> Experiment:
    return experiment(system(), evals=(SHARED, *USES, Panels()))
