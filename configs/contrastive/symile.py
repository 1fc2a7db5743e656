"""Symile: one objective for three or more modalities (Saporta et al., NeurIPS 2024)

"""

from mmrep import modality
from mmrep.config import Data, Experiment, Optim, Phase, Tokenizer, Train
from mmrep.data.polyglot import PolyglotData
from mmrep.data.xor import XorData
from mmrep.nn.towers import AudioTower, ImageTower, TextTower, VectorTower
from mmrep.systems.contrastive.symile import Config, Predict


def xor(p: float, objective: str = "symile", steps: int = 400, batch: int = 256, lr: float = 0.05, dim: int = 16) -> Experiment:
    """Linear encoders of 3 bits each: c = a XOR b with probability p, else a."""
    data = Data(XorData(p=p, n_test=2000), tuple(modality.vector(n, 4) for n in "abc"), batch_size=batch, eval_batch_size=1000)
    evals = (
        Predict("b", ("a", "c"), objective, "b_id"),
        Predict("c", ("a", "b"), objective, "c_id"),
        Predict("c", ("a",), objective, "c_id"),
    )
    system = Config(tuple((n, VectorTower()) for n in "abc"), dim, objective, scale=0.74)
    return Experiment(system, data, (Phase(steps=steps),), Optim(lr=lr, warmup=20), evals, Train(log_every=100))


def towers(width: int, depth: int, vocab: int):
    return (
        ("image", ImageTower(width, depth, 4, 4)),
        ("text", TextTower(vocab, 12, width, depth, 4)),
        ("speech", AudioTower(width, depth, 4, 4000, 128, 64, 24, (2,))),
    )


def polyglot(objective: str = "symile", steps: int = 1500, batch: int = 128, lr: float = 2e-3, dim: int = 128, width: int = 48, source: PolyglotData = PolyglotData(), scale=1/.07, negatives='n') -> Experiment:
    vocab = 5 + 1 + 20 * source.languages
    parts = (
        modality.image("image", source.size),
        modality.text("text", 12, vocab),
        modality.audio("speech", source.samples, source.rate),
    )
    data = Data(source, parts, Tokenizer(vocab, "word"), batch, 250)
    evals = (
        Predict("image", ("text", "speech"), objective, "class", 20),
        Predict("image", ("text",), objective, "class", 20),
    )
    system = Config(towers(width, 1, vocab), dim, objective, scale=scale, negatives=negatives)
    return Experiment(system, data, (Phase(steps=steps),), Optim(lr=lr, warmup=100), evals, Train(log_every=50))


def get_config(size: str = "small") -> Experiment:
    return polyglot()
