"""Symile on its two kinds of data: XOR bits, and images named by words and speech together."""

from mmrep import modality
from mmrep.config import Data, Experiment, Optim, Phase, Tokenizer, Train
from mmrep.nn.config import TransformerConfig
from mmrep.nn.encoders.audio import AudioEncoder
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.nn.encoders.text import TextEncoder
from mmrep.nn.encoders.vector import VectorEncoder
from mmrep.systems.contrastive.symile import Config, Objective
from mmrep.systems.contrastive.symile.data import PolyglotData, XorData
from mmrep.systems.contrastive.symile.evals import Predict

SHAPE = TransformerConfig(width=48, depth=1, heads=4)
WORDS = PolyglotData()


def xor(p: float, objective: Objective = "symile") -> Experiment:
    """Linear encoders of 3 bits each: c = a XOR b with probability p, else c = a."""
    evals = (
        Predict("b", ("a", "c"), objective, group="b_id"),
        Predict("c", ("a", "b"), objective, group="c_id"),
        Predict("c", ("a",), objective, group="c_id"),
        Predict("c", ("a",), objective, averaged=("b",), group="c_id", name="c|a, b averaged"),
    )
    system = Config(tuple((n, VectorEncoder()) for n in "abc"), dim=16, objective=objective, temperature=1 / 0.74)
    parts = tuple(modality.vector(n, 4) for n in "abc")
    return Experiment(
        system, Data(XorData(p=p, n_test=2000), parts, batch_size=256, eval_batch_size=1000), phases=(Phase(steps=400),),
        optim=Optim(lr=0.05, warmup=20), evals=evals, train=Train(log_every=100),
    )  # fmt: skip


def polyglot(
    objective: Objective = "symile", *, steps: int = 800, batch: int = 128, lr: float = 2e-3, dim: int = 128,
    transformer: TransformerConfig = SHAPE, source: PolyglotData = WORDS,
) -> Experiment:  # fmt: skip
    """Image, text and speech; text and speech together determine the image."""
    vocab, length = 6 + 20 * source.languages, source.languages + 2
    parts = (
        modality.image("image", source.size),
        modality.text("text", length, vocab),
        modality.audio("speech", source.samples, source.rate),
        *((modality.vector("present", 3),) if source.missing else ()),
    )
    encoders = (
        ("image", ImageEncoder(transformer, patch=4)),
        ("text", TextEncoder(transformer, vocab=vocab, length=length)),
        ("speech", AudioEncoder(transformer, sample_rate=source.rate, n_fft=128, hop=64, n_mels=24, strides=(2,))),
    )
    evals = (
        Predict("image", ("text", "speech"), objective, group="class", candidates=20),
        Predict("image", ("text",), objective, group="class", candidates=20),
    )
    return Experiment(
        Config(encoders, dim=dim, objective=objective, missing=source.missing > 0),
        Data(source, parts, Tokenizer(vocab, kind="word"), batch_size=batch, eval_batch_size=250),
        phases=(Phase(steps=steps),), optim=Optim(lr=lr, warmup=min(100, steps // 10)), evals=evals, train=Train(log_every=50),
    )  # fmt: skip


def small() -> Experiment:
    return polyglot(steps=3000)
