"""Training on pairs of a rendered scene and its caption, shared by this folder's image-text systems."""

from typing import Any

from mmrep import modality
from mmrep.config import Data, Experiment, Optim, Phase, Tokenizer, Train
from mmrep.data.scenes import SceneData


def image_text(
    source: SceneData, system: Any, *, steps: int, batch: int, evals: tuple, lr: float = 1e-3, vocab: int = 512,
    weight_decay: float = 0.05,
) -> Experiment:  # fmt: skip
    """`system.text` has the captions' length and vocabulary; the tokenizer is fitted with `vocab` ids."""
    pair = (
        modality.image("image", source.size, field="rgb"),
        modality.text("text", system.text.length, system.text.vocab, field="caption"),
    )
    return Experiment(
        system, Data(source, pair, Tokenizer(vocab, kind="word"), batch_size=batch), phases=(Phase(steps=steps),),
        optim=Optim(lr=lr, warmup=min(100, steps // 10), weight_decay=weight_decay), evals=evals, train=Train(log_every=50),
    )  # fmt: skip
