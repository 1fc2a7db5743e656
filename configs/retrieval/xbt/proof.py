"""XBT's proof on made pairs of vectors: the new model is the better one, though trained on pictures of another domain than the gallery's."""

from dataclasses import replace

from configs.retrieval.xbt.base import PHI
from mmrep import modality
from mmrep.config import Arm, Data, Expect, Experiment, Optim, Phase, Pretrained, Proof, Train
from mmrep.data.views import View, Views
from mmrep.nn.encoders.vector import VectorEncoder
from mmrep.systems.retrieval.xbt import Config, DualConfig, procrustes_phi
from mmrep.systems.retrieval.xbt.evals import Compatibility

DIM = 48
MODALITIES = (modality.vector("image", DIM), modality.vector("text", DIM))


def sample(n: int, draw: int, shift: float = 0.0) -> Views:
    """Pairs of the deployed domain, or with `shift` with pictures of another one."""
    image = View("image", DIM, noise=0.5, private=8, private_scale=0.5, shift=shift)
    views = (image, View("text", DIM, noise=0.5, private=8, private_scale=0.5))
    return Views(views, n, draw=draw)


TEXTS, PAIRS = sample(6000, 2), sample(600, 3)


def model(dim: int) -> DualConfig:
    return DualConfig(VectorEncoder((96,)), VectorEncoder((96,)), dim)


SYSTEM = Config(model(12), model(32), hidden=48, lora_rank=8, lora_pattern=".*/(dense0|out)")


def experiment(system: Config, phases: tuple[Phase, ...], evals: tuple = (Compatibility(),)) -> Experiment:
    data = Data(sample(400, 0), MODALITIES, batch_size=64)
    return Experiment(system, data, phases, Optim(lr=2e-3, warmup=20, weight_decay=0.01), evals, Train(log_every=50))


MODELS = experiment(
    SYSTEM,
    (
        Phase("old", 150, sample(400, 0), ("old/.*",), replace(SYSTEM, stage="old")),
        Phase("new", 600, sample(6000, 1, shift=0.5), ("new/.*",), replace(SYSTEM, stage="new")),
    ),
    evals=(),
)  # fmt: skip


def arm(
    name: str, text: bool = True, pairs: bool = True, adapters: bool = True, procrustes: bool = False, shuffled: bool = False,
    texts: Views = TEXTS,
) -> Arm:  # fmt: skip
    system = replace(SYSTEM, hidden=None if procrustes else SYSTEM.hidden, shuffled=shuffled)
    start = tuple(Pretrained(MODELS, ((f"{n}/", f"{n}/"),), follow_seed=True) for n in ("old", "new"))
    slow = Optim(lr=2e-3, warmup=20, weight_decay=0.0, factors=(("phi/.*", 0.1),) if text else ())
    stages = [
        Phase("text", 400, texts, PHI, replace(system, stage="text")),
        Phase("pairs", 300, PAIRS, (*PHI, *(("lora/.*",) if adapters else ())), replace(system, stage="pairs"), slow),
    ]  # fmt: skip
    kept = [phase for phase, wanted in zip(stages, (text, pairs)) if wanted]
    if procrustes:
        kept = [Phase("procrustes", data=TEXTS, run=procrustes_phi)]
    return Arm(name, experiment(system, (replace(kept[0], start=start), *kept[1:])))


def xbt() -> Proof:
    images, texts = "image->text new/old R@1", "text->image new/old R@1"
    arms = (
        arm("XBT"), arm("texts alone", pairs=False), arm("few texts", texts=PAIRS), arm("no text stage", text=False),
        arm("no adapters", adapters=False), arm("Procrustes", procrustes=True), arm("wrong texts", shuffled=True),
    )  # fmt: skip
    return Proof(
        claim="phi from texts, then few pairs through adapters, lets a new model's queries beat the old queries on the old gallery.",
        metric=images,
        arms=arms,
        expects=(
            Expect(
                better="XBT",
                worse="XBT/image->text old/old R@1",
                margin=0.03,
                statement="pictures: the criterion holds by 3 points",
            ),
            Expect(
                better=f"XBT/{texts}",
                worse="XBT/text->image old/old R@1",
                margin=0.05,
                statement="texts: the criterion holds by 5 points",
            ),
            Expect(
                better="XBT",
                worse="texts alone",
                margin=0.06,
                statement="the pairs close the gap of the pictures by 6 points",
            ),
            Expect(
                better="XBT",
                worse="no adapters",
                margin=0.035,
                statement="phi alone gains less from the pairs than with adapters",
            ),
            Expect(
                better="XBT/image->text new/new R@1",
                worse="XBT/image->text old/old R@1",
                margin=0.18,
                headline=False,
                statement="the new model is the better one in the gallery's domain",
            ),
            Expect(
                better="XBT",
                worse="few texts",
                headline=False,
                statement="a text stage on the texts of the pairs alone is worse",
            ),
            Expect(
                better="XBT",
                worse="no text stage",
                margin=0.15,
                headline=False,
                statement="without the text stage nothing ties phi to the old space",
            ),
            Expect(
                better="XBT",
                worse="Procrustes",
                margin=0.04,
                headline=False,
                statement="an orthogonal map of texts does not suffice",
            ),
            Expect(better=0.01, worse="wrong texts", headline=False, statement="nothing is learned from wrong texts"),
        ),
        seeds=(13, 14, 15),
        data="made attributes (noisy vectors in the place of pictures and texts)",
        notes="Reconstructed from the paper's summary. The new model was trained on pictures of another domain than the gallery's, the few pairs "
        "are of the gallery's: in one domain the second stage adds nothing. The noise was set on seed 200 so that the old model finds a third "
        "of its pairs. Seeds 10 to 12 have been seen, with a domain so far away that the new model was worse on the gallery's pictures than the old "
        "one, which the paper's upgrade excludes; it is half as far now. Margins are about half of the mean effects on seeds 200 to 202.",
    )
