"""CWCL: contrastive targets weighted by a frozen text encoder, for speech (Srinivasa et al., NeurIPS 2023)

CWCL: Cross-Modal Transfer with Continuously Weighted Contrastive Loss, arXiv 2309.14580.
    python -m experiments.train cwcl
    python -m experiments.prove cwcl
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

SIZES = ("tiny", "small", "paper")
WRITTEN, SPOKEN, PROMPTS = (0, 1, 2, 3), (4, 5, 6), (7, 8, 9, 10, 11)
"""Templates: of the text-only phase, of the spoken phase, and of the prompts. No sentence is in two of them."""
VOCAB, LENGTH = 128, 16


def prompts() -> tuple[tuple[str, ...], ...]:
    """Five sentences for each intent, from templates that occur in no training, with any synonyms, place, number and colour."""
    chance = [[u * t % 1 for u in (0.59, 0.83, 0.13, 0.19, 0.31)] for t in range(12)]
    return tuple(tuple(sentence(i, t, chance[t]) for t in PROMPTS) for i in range(len(INTENTS)))


def experiment(
    system: Config, source: IntentData, *, text_steps: int, steps: int, batch: int, lr: float, vocab: int = VOCAB
) -> Experiment:
    """Phase 1: train the text encoder on intents. Phase 2: freeze it, align the speech encoder to it."""
    parts = (
        modality.text("text", system.text.length, vocab),
        modality.audio("speech", source.samples, source.rate),
        modality.label("intent", len(INTENTS)),
    )
    text_only = Phase(
        "text", text_steps, data=replace(source, templates=WRITTEN, spoken=False), trainable=("text/.*", "intent/.*"),
        system=replace(system, objective="intent"), optim=Optim(lr=2e-3, warmup=min(20, text_steps // 10)),
    )  # fmt: skip
    return Experiment(
        system,
        Data(source, parts, Tokenizer(min(vocab, 32_000), kind="word"), batch_size=batch),
        phases=(text_only, Phase("speech", steps, trainable=("speech/.*", "scale/.*"))),
        optim=Optim(lr=lr, warmup=min(50, steps // 10)),
        evals=(SpokenIntent(prompts()), Retrieval("speech", "text", group="text")),
        train=Train(log_every=50),
    )


def small(weights: Weights = "frozen", steps: int = 2000, kernel: float | None = None) -> Experiment:
    """Words of 80 ms: frames of 40 ms every 20 ms, four of them a token."""
    text = TextEncoder(TransformerConfig(width=64, depth=1, heads=4), vocab=VOCAB, length=LENGTH)
    shape = TransformerConfig(width=64, depth=2, heads=4)
    speech = AudioEncoder(shape, sample_rate=4000, n_fft=160, hop=80, n_mels=32)
    system = Config(text, speech, dim=64, weights=weights, kernel=kernel)
    return experiment(system, IntentData(8000, templates=SPOKEN), text_steps=200, steps=steps, batch=128, lr=5e-3)


def get_config(size: str = "small") -> Experiment:
    if size == "tiny":
        shape = TransformerConfig(width=32, depth=2, heads=4)
        speech = AudioEncoder(shape, sample_rate=4000, n_fft=256, hop=80, n_mels=16)
        system = Config(TextEncoder(shape, vocab=VOCAB, length=LENGTH), speech, dim=32)
        source = IntentData(n_train=64, n_val=16, n_test=16, templates=SPOKEN)
        return experiment(system, source, text_steps=4, steps=4, batch=8, lr=1e-3)
    if size == "small":
        return small()
    # A sentence encoder of XLM-R-large's size and Whisper-medium's encoder.
    shape = TransformerConfig(width=1024, depth=24, heads=16, scan=True, remat=True)
    text, speech = TextEncoder(shape, vocab=250_002, length=512), AudioEncoder(shape, n_mels=80)
    system = Config(text, speech, dim=768, dtype="bfloat16")
    source = IntentData(1_000_000, templates=SPOKEN, rate=16_000)
    large = experiment(system, source, text_steps=10_000, steps=100_000, batch=2048, lr=1e-4, vocab=250_002)
    return replace(large, sharding=(Rule(".*", "fsdp"),))


def get_proof() -> Proof:
    def arm(name: str, weights: Weights, kernel: float | None = None) -> Arm:
        return Arm(name, small(weights, 300, kernel))

    return Proof(
        claim="Targets weighted by a frozen text encoder make speech embeddings that zero-shot prompts classify better than one-hot targets "
        "do, if the weights are sharp; weights of the wrong rows do not.",
        metric="zero-shot intent accuracy",
        arms=(
            arm("sharp", "frozen", 0.1), arm("one-hot", "identity"), arm("sharp, wrong rows", "permuted", 0.1),
            arm("linear", "frozen"),
        ),
        expects=(
            Expect(
                better="sharp", worse="one-hot", margin=0.05,
                statement="weights exp((cos - 1) / 0.1) of the frozen text encoder add 5 points of zero-shot intent accuracy to plain contrast",
            ),
            Expect(
                better="sharp", worse="sharp, wrong rows", margin=0.05,
                statement="and 5 points to the same weights of other rows",
            ),
            Expect(
                better="linear", worse="one-hot", margin=0.02, headline=False,
                statement="the paper's linear weights add 2 points to plain contrast",
            ),
            Expect(
                better="sharp", worse="linear", margin=0.02, headline=False,
                statement="the sharp kernel is 2 points better than the paper's linear weights",
            ),
        ),
        seeds=(10, 11, 12),
        data="spoken intents by grammar, words as pairs of tones",
        notes="The sharp kernel is not the paper's. Linear weights are nearly uniform (cosines of 0 between intents and 1 within give a row of 128 "
        "pairs 9.5 % of its mass on its own intent, 5 % without weights): they smooth the labels, which any weights do. All arms share encoders, data, "
        "steps and learning rate, which was tuned for the one-hot arm. Chance is 1/20; transcripts in place of speech score 1.0.",
    )  # fmt: skip
