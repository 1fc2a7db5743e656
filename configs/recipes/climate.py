"""Climate: MultiMAE on real rasters, the monthly sea-surface climate of the world

Multi-modal masked autoencoding (Bachmann et al., ECCV 2022, arXiv 2204.01678) of sea and air temperature, humidity, wind, pressure and relief.
Cells without ship data are missing; blocks of the world are held out in all months. There is no published size.
    python -m experiments.train climate
"""

from dataclasses import replace

from mmrep import modality
from mmrep.config import Arm, Data, Expect, Experiment, Optim, Phase, Proof, Train
from mmrep.data.climate import COVER, Climate
from mmrep.modality import Modality
from mmrep.nn.config import TransformerConfig
from mmrep.nn.maps import DenseModality, dense
from mmrep.systems.masked.multimae import Config, Task
from mmrep.systems.recipes.climate import MissingVariable, ProbedVariable

SIZES = ("tiny", "small")
TILE, PATCH = (12, 12), 3
# Mean and standard deviation of the training cells, which `Climate` scales to [0, 1].
STATISTICS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "sst": ((0.61,), (0.26,)), "airt": ((0.65,), (0.21,)), "speh": ((0.45,), (0.26,)), "wind": ((0.36, 0.5), (0.18, 0.12)),
    "slp": ((0.71,), (0.13,)), "relief": ((0.23,), (0.17,)), "sky": ((0.5, 0.6), (0.28, 0.18)),
}  # fmt: skip


def modalities() -> tuple[Modality, ...]:
    numbers = (
        modality.image(name, TILE, len(mean), patch=PATCH, mean=mean, std=std)
        for name, (mean, std) in STATISTICS.items()
    )
    return (*numbers, modality.label_map("cover", TILE, len(COVER), patch=PATCH))


PARTS = modalities()
MAPS: tuple[DenseModality, ...] = tuple(dense(m, class_dim=8) if m.classes else dense(m) for m in PARTS)
SST, AIRT, SPEH, WIND, SLP, RELIEF, SKY, HOLES = MAPS
TASKS = tuple(Task(m.name) for m in (SST, AIRT, SPEH, WIND, SLP))
SMALL = Config(
    MAPS, TASKS, num_encoded_tokens=24, position_base=10.0,
    encoder=TransformerConfig(width=64, depth=3, heads=4, epsilon=1e-6, scan=True),
    decoder=TransformerConfig(width=48, depth=1, heads=4, epsilon=1e-6),
)  # fmt: skip
GIVEN = (RELIEF, SKY, HOLES)
AIR, WINDS, MOIST = (
    MissingVariable(AIRT, (SST, *GIVEN)), MissingVariable(WIND, (SST, SLP, *GIVEN)), MissingVariable(SPEH, (SST, *GIVEN)),
)  # fmt: skip
PROBE = ProbedVariable("wspd", (SLP,))


def data(source: Climate, batch: int) -> Data:
    return Data(source, PARTS, batch_size=batch, eval_batch_size=100)


def experiment(system: Config = SMALL, steps: int = 1500, evals: tuple = (AIR, WINDS, MOIST, PROBE)) -> Experiment:
    optim = Optim(lr=2e-3, warmup=steps // 20, weight_decay=0.05, b2=0.95)
    return Experiment(system, data(Climate(), 32), (Phase(steps=steps),), optim, evals, Train(log_every=50))


def get_config(size: str = "small") -> Experiment:
    if size == "small":
        return experiment()
    system = replace(
        SMALL,
        num_encoded_tokens=12,
        encoder=replace(SMALL.encoder, width=32, depth=2, heads=2),
        decoder=replace(SMALL.decoder, width=16, heads=2),
    )
    evals = MissingVariable(AIRT, (SST, *GIVEN), limit=40), ProbedVariable("wspd", (SLP,), labelled=40)
    source = data(Climate(sample=True), 8)  # two months, in this package
    return Experiment(system, source, (Phase(steps=4),), Optim(lr=1e-3), evals, Train(log_every=2))


def get_proof() -> Proof:
    alone = replace(SMALL, maps=(SLP,), tasks=(Task("slp"),), num_encoded_tokens=4)
    one_in = replace(SMALL, maps=(SLP,), targets=(SST, AIRT, SPEH, WIND), num_encoded_tokens=4)
    probe = f"{PROBE.label} skill"
    return Proof(
        claim="On real rasters with missing values and held-out blocks of the world, masked autoencoding across variables predicts a missing variable "
        "better than ridge regression, and gives better features of one variable than masked autoencoding of that variable alone.",
        metric=probe,
        arms=(
            Arm("multi", experiment()),
            Arm("alone", experiment(alone, evals=(PROBE,))),
            Arm("one input", experiment(one_in, evals=(PROBE,))),
            Arm("own modality", experiment(replace(SMALL, own_modality_only=True))),
        ),
        expects=(
            Expect(f"multi/{WINDS.label} skill over ridge", 0.0, 0.02, "wind from pressure and sea temperature: MultiMAE > ridge"),
            Expect(f"multi/{AIR.label} skill over ridge", 0.0, 0.02, "air from sea temperature: MultiMAE > ridge"),
            Expect("multi", "alone", 0.02, "unseen wind speed from tokens of pressure: all variables in training > pressure alone"),
            Expect(f"multi/{AIR.label} skill", 0.0, 0.0, "air: MultiMAE > the mean of its month and latitude", headline=False),
            Expect(f"multi/{WINDS.label} skill", 0.0, 0.0, "wind: MultiMAE > the mean of its month and latitude", headline=False),
            Expect(f"multi/{MOIST.label} skill over ridge", 0.0, 0.0, "humidity: MultiMAE > ridge", headline=False),
            Expect("multi", "one input", 0.0, "all variables as inputs > all predicted from pressure", headline=False),
            Expect(f"multi/{WINDS.label} skill", f"own modality/{WINDS.label} skill", 0.1, "decoders of their own modality cannot predict wind", headline=False),
        ),
        data="real: COADS monthly climatology and ETOPO relief (ferret-datasets)",
        notes="Blocks of 30 degrees held out in all months, at least 6 degrees from any training cell; 79 test tiles of 8 blocks. Skill is over "
        "the training mean of the same month and latitude; for model and ridge both are inputs, as the map `sky`. Steps and margins were set on val.",
    )  # fmt: skip
