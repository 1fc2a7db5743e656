"""4M beyond its small size: the published ones, a super-resolution stage, learnt tokens, and shapes to time."""

from dataclasses import replace

from configs.masked.fourm import ACCURACY, LEVELS, MADE, SMALL, data, made, streams
from mmrep import modality
from mmrep.config import Experiment, Optim, Phase, Pretrained, Rule
from mmrep.data.tokenised import Tokenised
from mmrep.systems.masked.fourm import Config
from mmrep.systems.masked.fourm.evals import SuperResolution, TokenAccuracy
from mmrep.systems.masked.fourm.masking import Mixture, Stream
from mmrep.systems.masked.fourm.model import BASE
from mmrep.systems.masked.fourm.panels import Panels
from mmrep.systems.masked.fourm.schedules import Target
from mmrep.systems.masked.fourm.tokens import Levels


def paper(size: str) -> Experiment:
    """4M-7 B, L and XL without boxes and features, which the made world's tokens here do not have."""
    whole = *streams(14, 16, 30_000, 256)[:1], *(Stream(n, v, (14, 14)) for n, v in
             (("rgb", 16384), ("depth", 8192), ("normals", 8192), ("semseg", 4096))), Stream("caption", 30_000, length=256)  # fmt: skip
    levels = Levels("rgb", (25, 25, 25)), Levels("depth", (8192,)), Levels("normals", (20, 20, 20))
    width, depth, heads = {"paper": (768, 12, 12), "large": (1024, 24, 16), "xlarge": (2048, 24, 32)}[size]
    shape = replace(BASE, width=width, depth=depth, heads=heads, scan=True, remat=True)
    system = Config(whole, SMALL.mixtures[:2], levels, encoder=shape, decoder=shape, dtype="bfloat16")
    optim = Optim(lr=3.2e-3 if size != "xlarge" else 6.4e-4, warmup=4_800, weight_decay=0.05, b2=0.95, clip=None)
    scenes = data(224, 12_000_000, 5000, 8192, 30_000, 256)
    return Experiment(system, scenes, (Phase(steps=238_000),), optim, sharding=(Rule(".*", "fsdp"),))


def superres(steps: int = 3000, start: Experiment | None = None) -> Experiment:
    """`small` trained on to make colour on a grid of twice the side from colour, the caption and what is made already (appendix)."""
    every = *SMALL.streams, Stream("rgb_fine", 216, (16, 16))
    up = Mixture((0.0, 5.0, 0.0, 0.0, 0.0, 0.5, 2.0), (0.0,) * 6 + (1.0,))
    levels = *LEVELS, Levels("rgb_fine", (6, 6, 6))
    system = replace(SMALL, streams=every, mixtures=(up,), levels=levels, n_input=128, n_target=128)
    stage = (Target("rgb_fine", "maskgit", 8, temperature=0.0),)
    base = made(
        system, evals=(TokenAccuracy(("rgb",), ("rgb_fine",)), SuperResolution("rgb", "rgb_fine", stage), Panels())
    )
    parts = *base.data.modalities, modality.image("rgb_fine", 32, field="rgb")
    phase = Phase("superres", steps, start=(Pretrained(start or made(evals=()), follow_seed=True),))
    optim = replace(base.optim, warmup=steps // 20)
    return replace(base, data=replace(base.data, modalities=parts), phases=(phase,), optim=optim)


# Pictures of captions: classes from the caption, colour from both, colour from the caption at once.
WHOLE = (("caption", "all"),)
CAPTIONED = (
    Mixture((0.0,) * 5 + (1.0,), (0.0, 0.0, 0.0, 0.0, 1.0, 0.0), keep=WHOLE),
    Mixture((0.0, 0.0, 0.0, 0.0, 2.0, 2.0), (0.0, 1.0, 0.0, 0.0, 0.0, 0.0), keep=WHOLE),
    Mixture((0.0,) * 5 + (1.0,), (0.0, 1.0, 0.0, 0.0, 0.0, 0.0), 0.5, WHOLE),
)


def captions(steps: int = 1000, start: Experiment | None = None) -> Experiment:
    """`small` trained on to draw captions, and that alone (the paper's variants fine-tuned for text to image)."""
    evals = (*(replace(e, limit=200) for e in MADE), ACCURACY, Panels())
    base = made(replace(SMALL, mixtures=CAPTIONED), evals=evals)
    phase = Phase("captions", steps, start=(Pretrained(start or made(evals=()), follow_seed=True),))
    return replace(base, phases=(phase,), optim=replace(base.optim, lr=1e-3, warmup=steps // 20))


def tokens() -> Experiment:
    """`small` with colour as the ids of a trained `vqvae` (--size fourm), written beforehand by experiments.tokenize."""
    base = made(replace(SMALL, levels=LEVELS[1:]))
    parts = (modality.label_map("rgb", 8, 216, field="rgb_ids") if m.name == "rgb" else m for m in base.data.modalities)
    source = Tokenised(base.data.source, "rgb_ids", "runs/tokens/fourm-rgb")
    return replace(base, data=replace(base.data, source=source, modalities=tuple(parts)))


def bench(images: int, vocab: int = 2048, words: int = 4096) -> Experiment:
    """So many 8 x 8 streams of ids and a caption, at equal budgets: what a step costs must not depend on how many there are."""
    names = [f"map{i}" for i in range(images)]
    every = *(Stream(n, vocab, (8, 8)) for n in names), Stream("caption", words, length=32)
    parts = *(modality.label_map(n, 8, vocab) for n in names), modality.text("caption", 32, words)
    even = (0.5,) * len(every)
    shape = replace(BASE, width=192, depth=6, heads=3)
    system = Config(every, (Mixture(even, even),), n_input=64, n_target=64, encoder=shape, decoder=shape)
    whole = replace(data(32, 256, 8, 32, words, 32), modalities=parts)  # timed on random ids; the source is not read
    return Experiment(system, whole, (Phase(steps=20),), Optim(lr=1e-4, b2=0.95, clip=None))
