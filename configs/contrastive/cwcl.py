"""CWCL: soft targets from a frozen text encoder for speech (Srinivasa et al., NeurIPS 2023)

CWCL: Cross-Modal Transfer with Continuously Weighted Contrastive Loss, arXiv 2309.14580.
    python -m experiments.train cwcl
    python -m experiments.prove cwcl    13 minutes beside other jobs: does not hold. Means of 3 seeds, zero-shot intent accuracy (chance .05):
        CWCL .528, plain contrast (LiT) .437, permuted weights .505, weights of an untrained encoder .493;
        R@1 speech->text .199 against .171
"""

from dataclasses import replace

from mmrep import modality
from mmrep.config import Arm, Data, Expect, Experiment, Optim, Phase, Proof, Rule, Tokenizer, Train
from mmrep.evals.suite import Retrieval
from mmrep.nn.config import TransformerConfig
from mmrep.nn.encoders.audio import AudioEncoder
from mmrep.nn.encoders.text import TextEncoder
from mmrep.systems.contrastive.cwcl import Config, Weights
from mmrep.systems.contrastive.cwcl.evals import SpokenIntent
from mmrep.systems.contrastive.cwcl.intents import INTENTS, IntentData, sentence

READ, SPOKEN, PROMPTS = (0, 1, 2, 3), (4, 5, 6), (7, 8, 9, 10, 11)
"""Templates: what the text encoder reads, what is spoken with its transcript, and the prompts. No sentence is in two of them."""
VOCAB, LENGTH = 128, 16


def prompts() -> tuple[tuple[str, ...], ...]:
    """Five sentences for each intent, from templates that occur in no training, with any synonyms, place, number and colour."""
    chance = [[u * t % 1 for u in (0.59, 0.83, 0.13, 0.19, 0.31)] for t in range(12)]
    return tuple(tuple(sentence(i, t, chance[t]) for t in PROMPTS) for i in range(len(INTENTS)))


def experiment(
    system: Config, spoken: IntentData, read: int, speak: int, batch: int, lr: float, vocab: int = VOCAB
) -> Experiment:
    """Reading: the text encoder learns intents from text alone. Speaking: it is frozen, and the speech encoder learns to meet it."""
    parts = (
        modality.text("text", system.text.length, vocab),
        modality.audio("speech", spoken.samples, spoken.rate),
        modality.label("intent", len(INTENTS)),
    )
    phases = (
        Phase(
            "read", read, replace(spoken, templates=READ, spoken=False), ("text/.*", "intent/.*"),
            replace(system, objective="intent"), Optim(lr=2e-3, warmup=min(20, read // 10)),
        ),
        Phase("speak", speak, trainable=("speech/.*", "scale/.*")),
    )  # fmt: skip
    return Experiment(
        system, Data(spoken, parts, Tokenizer(min(vocab, 32_000), "word"), batch), phases, Optim(lr=lr, warmup=min(50, speak // 10)),
        (SpokenIntent(prompts()), Retrieval("speech", "text", group="text")), Train(log_every=50),
    )  # fmt: skip


def small(
    weights: Weights = "frozen", steps: int = 500, read: int = 200, kernel: float | None = None, lr: float = 5e-3
) -> Experiment:
    """Words of 80 ms: frames of 40 ms every 20 ms, four of them a token."""
    text = TextEncoder(TransformerConfig(width=64, depth=1, heads=4), vocab=VOCAB, length=LENGTH)
    shape = TransformerConfig(width=64, depth=2, heads=4)
    speech = AudioEncoder(shape, sample_rate=4000, n_fft=160, hop=80, n_mels=32)
    system = Config(text, speech, dim=64, weights=weights, kernel=kernel)
    return experiment(system, IntentData(8000, templates=SPOKEN), read, steps, 128, lr)


def get_config(size: str = "small") -> Experiment:
    if size == "tiny":
        shape = TransformerConfig(width=32, depth=2, heads=4)
        speech = AudioEncoder(shape, sample_rate=4000, n_fft=256, hop=80, n_mels=16)
        system = Config(TextEncoder(shape, vocab=VOCAB, length=LENGTH), speech, dim=32)
        return experiment(system, IntentData(64, 16, 16, templates=SPOKEN), 4, 4, 8, 1e-3)
    if size == "small":
        return small(steps=2000)
    # A sentence encoder of XLM-R-large's size and Whisper-medium's encoder.
    shape = TransformerConfig(width=1024, depth=24, heads=16, scan=True, remat=True)
    text, speech = TextEncoder(shape, vocab=250_002, length=512), AudioEncoder(shape, n_mels=80)
    system = Config(text, speech, dim=768, dtype="bfloat16")
    large = experiment(
        system, IntentData(1_000_000, templates=SPOKEN, rate=16_000), 10_000, 100_000, 2048, 1e-4, 250_002
    )
    return replace(large, sharding=(Rule(".*", "fsdp"),))


def get_proof() -> Proof:
    arms = (
        Arm("cwcl", small()), Arm("lit", small("identity")),
        Arm("permuted", small("permuted")), Arm("untrained", small("untrained")),
    )  # fmt: skip
    expects = (
        Expect("cwcl", "lit", 0.08, "weights from the frozen text encoder bring 8 points of zero-shot intent accuracy over plain contrast"),
        Expect("lit", "permuted", 0.0, "weights of the wrong rows do harm"),
        Expect("cwcl", "untrained", 0.05, "weights of an untrained text encoder do not bring it"),
        Expect("cwcl/speech->text R@1", "lit/speech->text R@1", 0.0, "transcripts are found better, too (the paper's trade: they may not be)", False),
    )  # fmt: skip
    return Proof(
        "Against soft targets from a frozen text encoder, speech learns intents that zero-shot prompts name better than against one-hot pairs.",
        "zero-shot intent accuracy", arms, expects, data="spoken intents by grammar, words as pairs of tones",
        notes="All arms share encoders, data, steps and learning rate. These were tuned on the val split with the plain arm (LiT) alone, in two runs: "
        "8,000 pairs, depth 2, 2e-3: .39; at 5e-3: .56. The setting planned first (2,000 pairs, depth 1) scored .28 on test seed 0. Transcripts in place of speech score 1.0.",
    )  # fmt: skip
