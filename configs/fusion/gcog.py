"""gCOG: six architectures on instructions over images, tested on more distractors, new pairings and deeper tasks (Ito et al., ICLR 2024)

On the generalization capacity of neural networks during generic multimodal reasoning, arXiv 2401.15030.
    python -m experiments.train gcog --system.kind cross
    python -m experiments.train gcog --variant systematic
    python -m experiments.prove gcog
Data: `mmrep.data.gcog` samples tasks and images and solves them. Data of your own needs a column with the tokens of each instruction (lists of 8
ids, EOS last), one with those of each image (lists of 3 ids, EOS last) and one with the number of the answer:
Table("tasks.jsonl", image=None, text=None, extra=("instruction", "cells"), label="answer").
"""

from typing import Any

from mmrep.config import Arm, Data, Expect, Experiment, Optim, Phase, Proof, Train
from mmrep.data.gcog import GcogData, tokens
from mmrep.errors import ConfigError
from mmrep.evals.answers import Answers
from mmrep.modality import ids, label
from mmrep.systems.fusion.gcog import Config

SIZES = ("tiny", "small", "paper")
VARIANTS = ("systematic", "pairs", "productive")
ONE = ("exist", "go", "getcolor", "getshape")


def gcog(data: GcogData, *, steps: int, batch: int, lr: float, log: int = 100, **system: Any) -> Experiment:
    """Accuracy by operator on the test split, with more distractors, and where the test has other tasks on the validation split."""
    parts = (
        ids("instruction", tokens(data.depth), 8, vocab=data.vocab), ids("image", data.grid**2 + 1, 3, vocab=data.vocab),
        label("answer", data.answers),
    )  # fmt: skip
    evals = [Answers("logits", "answer", by="operator", name="test")]
    evals += [
        Answers("logits", "answer", fields=(("image", f"image_{n}"),), name=f"{n} distractors") for n in data.tested
    ]
    if data.split != "distractors":
        evals.append(Answers("logits", "answer", split="val", name="tasks of training"))
    return Experiment(
        Config(answers=data.answers, vocab=data.vocab, **system), Data(data, parts, batch_size=batch, eval_batch_size=250),
        phases=(Phase(steps=steps),), optim=Optim(lr=lr, warmup=steps // 20), evals=tuple(evals), train=Train(log_every=log),
    )  # fmt: skip


def few(**system: Any) -> Experiment:
    """Four operators on 5 x 5 cells, 6 shapes and 6 colours; trained with at most 3 distractors."""
    data = GcogData(12_000, 500, 1000, 5, 6, 6, ONE, distractors=3, tested=(8, 16))
    return gcog(data, steps=900, batch=128, lr=2e-3, **{"width": 64, "heads": 4} | system)


def get_config(size: str = "small", variant: str = "") -> Experiment:
    if variant not in ("", *VARIANTS):
        raise ConfigError(f"variant is {variant!r}: choose {', '.join(VARIANTS)}")
    split: Any = variant or "distractors"
    if size == "tiny":
        data = GcogData(64, 16, 16, 4, 5, 5, distractors=2, tested=(4,) if not variant else (), split=split, deep=3)
        return gcog(data, steps=4, batch=8, lr=2e-3, width=16, heads=2)
    if size == "small":
        data = GcogData(20_000, 1000, 2000, 6, 8, 8, distractors=3, tested=(8, 16), split=split, deep=5)
        return gcog(data, steps=3000, batch=128, lr=2e-3, width=96, heads=4)
    if size == "paper":
        data = GcogData(40_000, 1000, 8000, 10, 26, 10, distractors=5, tested=(10, 20, 30, 40), split=split, deep=7)
        if variant == "systematic":
            data = GcogData(
                40_000, 1000, 8000, 10, 10, 10, distractors=5, tested=(10,), split="systematic", overlap=True
            )
        config = gcog(data, steps=100_000, batch=64, lr=1e-4, log=500, width=256, heads=1, ids="raw")
        return config
    raise ConfigError(f"size is {size!r}: choose {', '.join(SIZES)}")


def get_proof() -> Proof:
    arms = {
        "cross-attention": few(), "averaged keys": few(kind="averaged"), "dual stream": few(kind="dual"),
        "one block": few(kind="single"), "Perceiver": few(kind="perceiver"), "no image": few(hide="image"),
    }  # fmt: skip
    return Proof(
        claim="Networks that can look up the image by the instruction, with cross-attention, learn the tasks and keep them under more "
        "distractors; without look-up they do neither.",
        metric="16 distractors accuracy",
        arms=tuple(Arm(name, config) for name, config in arms.items()),
        expects=(
            Expect("cross-attention", 0.85, statement="trained with at most 3 distractors, cross-attention answers with 16"),
            Expect(
                "cross-attention", "averaged keys", 0.3, statement="not where its keys are averaged to one, the mechanism switched off"
            ),
            Expect("cross-attention", "dual stream", 0.3, statement="nor do two streams that are only added"),
            Expect("Perceiver", "dual stream", 0.3, headline=False, statement="latents that attend to both in turn do, too"),
            Expect("cross-attention", "one block", 0.3, headline=False, statement="one block over both does not"),
            Expect(
                "cross-attention/test accuracy", "averaged keys/test accuracy", 0.15, headline=False,
                statement="without look-up the task itself is not learnt",
            ),
            Expect(0.4, "no image/test accuracy", headline=False, statement="the instruction alone does not give the answer"),
        ),
        seeds=(10, 11, 12),
        data="gCOG: four operators on 5 x 5 cells, 6 shapes, 6 colours",
    )  # fmt: skip
