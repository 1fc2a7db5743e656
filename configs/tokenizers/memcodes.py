"""Memcodes: 4M-21's tokenizer of vectors by product quantisation (Bachmann et al., NeurIPS 2024)

An any-to-any vision model for tens of tasks and modalities, arXiv 2406.09406. A few ids per vector, each from its own codebook: for poses and global
embeddings. The variant poses is for SMPL poses at the paper's size.
    python -m experiments.train memcodes
"""

from dataclasses import replace

from mmrep import modality
from mmrep.config import Arm, Data, Expect, Experiment, Optim, Phase, Proof, Rule, Train
from mmrep.data.scenes.source import SceneData
from mmrep.data.scenes.world import WorldSpec
from mmrep.evals.tokens import Reconstruction
from mmrep.systems.tokenizers.memcodes import Config

SIZES = ("tiny", "small", "paper")
VARIANTS = ("poses",)
WORLD = WorldSpec(n_objects=(1, 3), distinct="none", rotation=0.4)
POSE = 6 * WORLD.n_objects[1]
# Mean of each slot of an object; the standard deviation is about 0.4.
MEAN = tuple(p * v for p in (1.0, 0.67, 0.33) for v in (1.0, 0.5, 0.5, 0.15, 0.97, 0.0))
SMALL = Config(
    "pose", (POSE,), MEAN, (0.4,), heads=8, codes=64, width=256, blocks=1, expansion=2, loss="smooth_l1"
)  # fmt: skip


def data(name: str, dim: int, n_train: int, batch: int) -> Data:
    source = SceneData(n_train, 1000, 1000, size=16, sensors=(name,), world=WORLD)
    return Data(source, (modality.vector(name, dim),), batch_size=batch, eval_batch_size=200)


def experiment(system: Config = SMALL, steps: int = 1000) -> Experiment:
    optim = Optim(lr=3e-3, warmup=steps // 20, weight_decay=0.01, b2=0.99)
    evals = (Reconstruction(system.name, system.codes, system.heads),)
    whole = data(system.name, system.dim, 8000, 256)
    return Experiment(system, whole, (Phase(steps=steps),), optim, evals, Train(log_every=50))


def get_config(size: str = "small", variant: str = "") -> Experiment:
    if size == "small":
        return experiment()
    if size == "tiny":
        small = data("pose", POSE, 64, 8)
        small = replace(small, source=replace(small.source, n_val=24, n_test=24), eval_batch_size=8)
        system = replace(SMALL, heads=4, codes=8, width=16)
        evals = (Reconstruction("pose", 8, 4),)
        return Experiment(system, small, (Phase(steps=4),), Optim(lr=1e-3), evals, Train(log_every=2))
    # Global embeddings of DINOv2-B, or SMPL poses: 15 epochs of a data set as large as ImageNet; the batch size is ours.
    system = Config("teacher", (768,), scan=True, dtype="bfloat16")
    if variant == "poses":
        system = Config("pose", (207,), codes=1024, loss="smooth_l1", scan=True, dtype="bfloat16")
    optim = Optim(lr=4e-4, warmup=6_250, weight_decay=0.05, b2=0.99)
    whole = data(system.name, system.dim, 1_281_167, 1024)
    train = Train(ema=0.99)
    return Experiment(system, whole, (Phase(steps=18_750),), optim, train=train, sharding=(Rule(".*", "fsdp"),))


def get_proof() -> Proof:
    arms = tuple(Arm(f"h={h}", experiment(replace(SMALL, heads=h))) for h in (1, 4, 8))
    return Proof(
        claim="More codebooks of the same size reconstruct a pose better, and their codes are used.",
        metric="pose PSNR",
        arms=arms,
        expects=(
            Expect("h=4", "h=1", 1.0, "4 ids > 1 id, PSNR of held-out poses in dB"),
            Expect("h=8", "h=4", 1.0, "8 ids > 4"),
            Expect("h=8/pose codes used", 0.5, 0.0, "more than half of the codes of 8 books occur"),
            Expect("h=4/pose codes used", 0.5, 0.0, "and of 4", headline=False),
            Expect("h=1/pose codes used", 0.5, 0.0, "and of one", headline=False),
        ),
        notes="Equal width, blocks, steps and 64 codes a book; the pose is 6 numbers a slot of up to 3 objects.",
    )  # fmt: skip
