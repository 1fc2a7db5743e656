"""UCASR: retrieval between audio and sheet music, each encoder pre-trained alone (Carvalho et al., MMSys 2023)

Self-Supervised Contrastive Learning for Robust Audio-Sheet Music Retrieval Systems, arXiv 2309.12158. Phases: two views of each side are
contrasted on unaligned material; then pairs are ranked after a CCA; then the CCA is computed from all training pairs.
    python -m experiments.train audio_sheet
    python -m experiments.prove audio_sheet

Your own snippets: a Table with the columns `sheet` (grey pictures, white paper) and `audio` (waveforms of one rate; leave out silent ones):
Table("snippets.csv", image="sheet", audio="audio", text=None, rate=22050), with the modalities `views(rate, samples, size, table=True)`;
unaligned material is another Table, given as the first phase's `data`.
"""

from dataclasses import replace
from typing import Any

from mmrep import modality
from mmrep.config import Arm, Data, Expect, Experiment, Optim, Phase, Proof, Rule, Train
from mmrep.data.augment import Loudness, Warp
from mmrep.data.music import Equalise, Grain, MusicData, Shift, Stain
from mmrep.systems.contrastive.audio_sheet import Config, Refine
from mmrep.systems.contrastive.audio_sheet.evals import PieceIdentification, Snippets
from mmrep.systems.contrastive.audio_sheet.model import Bands, enough

SIZES = ("tiny", "small", "paper")
EVALS = (Snippets("real"),)
PICTURE: tuple[Any, ...] = (Warp(turn=4.0, scale=(0.95, 1.05), shift=0.05), Stain(), Grain())
WAVE: tuple[Any, ...] = (Shift(0.08), Equalise(), Loudness(noise=0.1))
LOW = Bands(4000, 512, 200, 16, 230.0, 1900.0)


def views(
    rate: int, samples: int, size: tuple[int, int] = (32, 48), different: bool = True, table: bool = False
) -> tuple[modality.Modality, ...]:
    """The pair itself, and two augmented views of each side; without `different` both are the snippet itself. table: pictures of a Table."""
    field, channels = ("image", 3) if table else ("sheet", 1)
    picture, wave = (PICTURE, WAVE) if different else ((), ())
    found = [modality.image("sheet", size, channels, field), modality.audio("audio", samples, rate)]
    for i in (1, 2):
        found.append(modality.image(f"sheet_{i}", size, channels, field, augment=picture))
        found.append(modality.audio(f"audio_{i}", samples, rate, field="audio", augment=wave))
    return tuple(found)


def experiment(
    pairs: MusicData, system: Config, *, steps: int, alone: Any = None, first: int = 0, batch: int = 64, lr: float = 1e-3,
    different: bool = True, size: tuple[int, int] = (32, 48), evals: tuple = EVALS,
) -> Experiment:  # fmt: skip
    """`first` steps on `alone`, then `steps` on the pairs, then the CCA of them."""
    enough(batch, system.dim, "data.batch_size")
    data = Data(pairs, views(pairs.rate, pairs.samples, size, different), batch_size=batch)
    align = Optim(lr=lr, warmup=min(50, steps // 4), weight_decay=1e-5)
    phases: tuple[Phase, ...] = (
        Phase("align", steps, optim=align, trainable=(".*/(encoder|align)/.*",)), Phase("refine", run=Refine()),
    )  # fmt: skip
    if alone is not None:
        phases = (
            Phase("pretrain", first, alone, (".*/(encoder|pretrain)/.*",), replace(system, objective="pretrain")),
            *phases,
        )
    optim = Optim(lr=lr, warmup=min(50, max(first, 4) // 4), weight_decay=1e-5)
    return Experiment(system, data, phases, optim, evals, Train(log_every=50))


def vgg(*channels: int, **changes: Any) -> Config:
    return replace(Config(channels, channels, LOW, hidden=128), **changes)


def get_config(size: str = "small") -> Experiment:
    if size == "tiny":
        pairs = MusicData(n_train=32, n_val=8, n_test=16)
        alone = replace(pairs, domain="real", aligned=False, seed=1)
        return experiment(pairs, vgg(4, 8, out=4, hidden=8, dim=2), steps=2, alone=alone, first=2, batch=8)
    if size == "small":
        pairs = MusicData(n_train=500, n_test=400, snippets=10)
        alone = MusicData(n_train=8000, domain="real", aligned=False, seed=1)
        evals = (*EVALS, PieceIdentification(domain="real"))
        return experiment(pairs, vgg(12, 24, 48), steps=500, alone=alone, first=1500, evals=evals)
    # 84 frames of 20 a second, 92 bands; staves of 80 x 100; 180 to 300 epochs of 32,768 or 65,536 snippets, then 32,768 pairs an epoch.
    bands = Bands()
    pairs = MusicData(32_768, rate=bands.rate, seconds=84 * bands.hop / bands.rate)
    alone = replace(pairs, n_train=65_536, domain="real", aligned=False, seed=1)
    large = experiment(pairs, Config(), steps=25_600, alone=alone, first=150_000, batch=128, lr=4e-4, size=(80, 100))
    return replace(large, sharding=(Rule(".*", "fsdp"),))


def get_proof() -> Proof:
    pairs, system = MusicData(n_train=80, n_val=10, n_test=400), vgg(4, 12, 24, dim=16)

    def arm(name: str, domain: Any = None, different: bool = True) -> Arm:
        alone = MusicData(2000, n_val=10, n_test=10, domain=domain, aligned=False, seed=1) if domain else None
        return Arm(
            name, experiment(pairs, system, steps=150, alone=alone, first=150, batch=32, lr=2e-3, different=different)
        )

    return Proof(
        claim="With 80 aligned pairs, encoders pre-trained alone by contrast of two augmented views retrieve better where test material is noisy.",
        metric="MRR [1]",
        arms=(
            arm("scratch"), arm("pre-trained", "real"), arm("identical views", "real", False), arm("clean pre-trained", "clean"),
        ),
        expects=(
            Expect(better="pre-trained", worse="scratch", margin=0.06, statement="noisy snippets are found better than from scratch"),
            Expect(better="pre-trained", worse="identical views", margin=0.02, statement="views without augmentation do less"),
            Expect(better="pre-trained/MRR [0]", worse="scratch/MRR [0]", margin=0.05, headline=False, statement="so are clean ones"),
            Expect(better="pre-trained", worse="clean pre-trained", headline=False, statement="pre-training on noisy material beats clean material"),
        ),
        seeds=(13, 14, 15),
        data="synthetic melodies as staves and waveforms",
        notes="150 steps on the pairs in every arm, after 150 steps of pre-training on 2,000 snippets whose audio and sheets are of different melodies. "
              "Chance of the MRR among 200 is .03. Refinement by all 80 pairs in every arm. Seeds 10 to 12 had been seen in part, with recordings and "
              "scans that differed little from one another: there, identical views did as well on one seed. Since then each has a loudness, a "
              "noise level, a filter, and stains of its own, and the augmentations have the authors' equaliser, frequency mask and slow noise.",
    )  # fmt: skip
