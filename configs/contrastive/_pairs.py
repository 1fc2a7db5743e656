"""What the dual encoders of this folder share: training on pairs of a picture of the made world and its caption."""

from typing import Any

from mmrep import modality
from mmrep.config import Data, Experiment, Optim, Phase, Tokenizer, Train
from mmrep.data.scenes import SceneData


def pairs(
    source: SceneData, system: Any, steps: int, batch: int, evals: tuple, lr: float = 1e-3, vocab: int = 512,
    weight_decay: float = 0.05,
) -> Experiment:  # fmt: skip
    """`system` has a tower `text`, whose length and vocabulary the captions take; `vocab` is how many of them the tokenizer fits."""
    pair = (
        modality.image("image", source.size, field="rgb"),
        modality.text("text", system.text.length, system.text.vocab, "caption"),
    )
    return Experiment(
        system, Data(source, pair, Tokenizer(vocab, "word"), batch), (Phase(steps=steps),),
        Optim(lr=lr, warmup=min(100, steps // 10), weight_decay=weight_decay), evals, Train(log_every=50),
    )  # fmt: skip
