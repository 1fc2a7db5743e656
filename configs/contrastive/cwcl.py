"""CWCL: soft targets from a frozen encoder (Srinivasa et al., NeurIPS 2023)

"""

from dataclasses import replace

from mmrep import modality
from mmrep.config import Data, Experiment, Optim, Phase, Tokenizer, Train
from mmrep.data.intents import INTENTS, IntentData, sentence
from mmrep.evals.suite import Retrieval
from mmrep.nn.towers import AudioTower, TextTower
from mmrep.systems.contrastive.cwcl import Config, SpokenIntent

READ, SPOKEN, PROMPTS = (0, 1, 2, 3), (4, 5, 6), (7, 8, 9, 10, 11)
"""Templates that the text encoder reads, that are spoken with their transcripts, and of the prompts: disjoint."""
LENGTH = 16


def prompts(count: int = 5) -> tuple[tuple[str, ...], ...]:
    """`count` sentences for each intent, from templates that occur in no training, with some slots filled."""
    return tuple(tuple(sentence(i, t, (0.13 * t % 1, 0.19 * t % 1, 0.31 * t % 1)) for t in PROMPTS[:count]) for i in range(len(INTENTS)))


def experiment(system: Config, source: IntentData, phases: tuple[Phase, ...], batch: int = 128, vocab: int = 128, lr: float = 2e-3) -> Experiment:
    parts = (
        modality.text("text", LENGTH, vocab),
        modality.audio("speech", source.samples, source.rate),
        modality.label("intent", len(INTENTS)),
    )
    evals = (SpokenIntent(prompts()), Retrieval("speech", "text", group="text"))
    return Experiment(system, Data(source, parts, Tokenizer(vocab, "word"), batch), phases, Optim(lr=lr, warmup=50), evals, Train(log_every=50))


def small(weights: str = "frozen", kernel=None, read: int = 150, steps: int = 600, width: int = 64, dim: int = 64, lr=2e-3, n=2000, rlr=2e-3) -> Experiment:
    system = Config(TextTower(128, LENGTH, width, 1, 4), AudioTower(width, 1, 4, 4000, 256, 80, 32, (2, 2)), dim, weights=weights, kernel=kernel)
    reading = Phase("read", read, IntentData(2000, templates=READ, spoken=False), ("text/.*", "intent/.*"), replace(system, objective="intent"), Optim(lr=rlr, warmup=20))
    speaking = Phase("speak", steps, trainable=("speech/.*", "scale/.*"))
    return experiment(system, IntentData(n, templates=SPOKEN), (reading, speaking) if read else (speaking,), lr=lr)


def get_config(size: str = "small") -> Experiment:
    return small()
