"""MultiModN: a state passed through one encoder a modality, skipping missing ones (Swamy et al., NeurIPS 2023)

MultiModN: Multimodal, Multi-Task, Interpretable Modular Networks, arXiv 2309.14118.
    python -m experiments.train multimodn
    python -m experiments.prove multimodn
Data: `small` takes scikit-learn's digits, a modality a quadrant; which one is missing depends on the class. A table of your own needs a column for each
label (whole numbers) and either a column of lists of numbers for each modality, Table("rows.jsonl", image=None, text=None, extra=("vitals", "labs"),
label="died"), or single columns, Grouped(Table("rows.csv", ..., extra=("pulse", "pressure")), (("vitals", ("pulse", "pressure")),)); an empty
cell is a missing number. `model.call("trace", ...)` gives every task's probabilities after each modality.
"""

from dataclasses import replace
from typing import Any

from mmrep.config import Arm, Data, Expect, Experiment, Optim, Phase, Proof, Train
from mmrep.data.sources import Table
from mmrep.errors import ConfigError
from mmrep.evals.answers import Answers
from mmrep.modality import label, vector
from mmrep.systems.fusion.multimodn import Config, Task
from mmrep.systems.fusion.multimodn.data import TabularData

SIZES = ("tiny", "small", "paper")
SHAPES = {"digits": (4, 16, ("high", "odd")), "cancer": (3, 10, ("malignant",))}
HAIM = {
    "demographics": 6,
    "vision": 1024,
    "notes": 768,
    "echo": 768,
    "radiology": 768,
    "chart": 99,
    "labs": 242,
    "procedures": 110,
}


def tabular(
    name: str = "digits", missing: float = 0.8, *, last: bool = True, steps: int = 600, batch: int = 64, **system: Any
) -> Experiment:
    """The first modality is missing by class; its encoder comes `last`, or first. Tests: complete, and with the classes flipped."""
    number, size, tasks = SHAPES[name]
    order = tuple(f"m{k}" for k in range(number))
    order = (*order[1:], order[0]) if last else order
    parts = (*(vector(m, size, missing=True) for m in order), *(label(t, 2) for t in tasks))
    sizes: dict[str, int] = {"n_val": 50, "n_test": 200} if name == "cancer" else {}
    evals = [Answers(f"{t}_logits", t, measure="auroc", name=t) for t in tasks]
    flipped = Answers(
        f"{tasks[0]}_logits", tasks[0], measure="auroc", fields=(("m0", "m0_flipped"),), name=f"{tasks[0]} flipped"
    )
    return Experiment(
        Config(order, tuple(Task(t) for t in tasks), **system),
        Data(TabularData(name, missing, **sizes), parts, batch_size=batch, eval_batch_size=100),
        phases=(Phase(steps=steps),), optim=Optim(lr=3e-3, warmup=steps // 20), evals=(*evals, flipped), train=Train(log_every=50),
    )  # fmt: skip


def paper() -> Experiment:
    """MIMIC-IV as HAIM's embeddings; 100 epochs of 45,050 samples."""
    source = Table(
        "haim.jsonl", image=None, text=None, label="mortality", extra=(*HAIM, "cardiomegaly"), group="patient"
    )
    tasks = ("label", "cardiomegaly")
    system = Config(
        tuple(HAIM), tuple(Task(t) for t in tasks), state=50, encoder="early", hidden=(32, 32), decoder=(32, 32), dropout=0.2,
        squash=True,
    )  # fmt: skip
    parts = (*(vector(m, size, missing=True) for m, size in HAIM.items()), *(label(t, 2) for t in tasks))
    return Experiment(
        system, Data(source, parts, batch_size=16), phases=(Phase(steps=281_500),),
        optim=Optim(lr=1e-3, schedule="constant", weight_decay=0.0, b2=0.999, clip=None),
        evals=tuple(Answers(f"{t}_logits", t, measure="auroc", name=t) for t in tasks), train=Train(log_every=500),
    )  # fmt: skip


def get_config(size: str = "small") -> Experiment:
    if size == "tiny":
        config = tabular(steps=4, batch=16, state=8, hidden=(8,), decoder=(8,), change=1.0)
        return replace(config, optim=replace(config.optim, warmup=0))
    if size == "small":
        return tabular(state=50, decoder=(32,), steps=2000)
    if size == "paper":
        return paper()
    raise ConfigError(f"size is {size!r}: choose {', '.join(SIZES)}")


def get_proof() -> Proof:
    flipped, complete = "high flipped auroc", "high auroc"
    parallel: dict[str, Any] = {"fusion": "parallel", "hidden": (64,)}
    arms = {
        "multimodn": tabular(), "mean fill": tabular(**parallel), "flag": tabular(**parallel, flags=True),
        "constant fill": tabular(**parallel, fill=-5.0), "modality dropout": tabular(**parallel, forget=0.3),
        "last step only": tabular(supervised="last"), "first": tabular(last=False),
        "all there": tabular(missing=0.0), "parallel, all there": tabular(missing=0.0, **parallel),
        "cancer": tabular("cancer"), "cancer constant fill": tabular("cancer", **parallel, fill=-5.0),
    }  # fmt: skip
    malignant = "malignant flipped auroc"
    return Proof(
        claim="Skipping a missing modality keeps what its absence says about the class out of the prediction, if its encoder comes last and "
        "every step is supervised; parallel fusion takes it in through a constant or a flag.",
        metric=flipped,
        arms=tuple(Arm(name, experiment) for name, experiment in arms.items()),
        expects=(
            Expect(
                "multimodn", "constant fill", 0.3,
                statement="where the modality is missing for the other class in the test, MultiModN ranks better than parallel fusion with a constant",
            ),
            Expect("multimodn", "flag", 0.04, statement="and better than parallel fusion with a flag for what is missing"),
            Expect(
                "multimodn", "last step only", 0.04,
                statement="without supervision of the steps before the last encoder, that is lost",
            ),
            Expect(
                "all there/" + complete, "parallel, all there/" + complete, slack=0.02,
                statement="on complete data nothing is lost against parallel fusion",
            ),
            Expect(
                "multimodn", "first", 0.2, headline=False,
                statement="the class leaks through the skip where that modality's encoder comes first",
            ),
            Expect(
                "multimodn", "mean fill", slack=0.03, headline=False,
                statement="filling with the mean of standardised numbers does as well",
            ),
            Expect(
                "multimodn", "modality dropout", slack=0.03, headline=False,
                statement="modality dropout in parallel fusion does as well",
            ),
            Expect(f"cancer/{malignant}", f"cancer constant fill/{malignant}", 0.2, headline=False, statement="breast cancer, the same"),
        ),
        seeds=(10, 11, 12),
        data="scikit-learn's digits (four quadrants) and breast cancer (three tables)",
    )  # fmt: skip
