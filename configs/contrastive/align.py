"""ALIGN: a dual encoder on noisy pairs (Jia et al., ICML 2021)

Scaling Up Visual and Vision-Language Representation Learning With Noisy Text Supervision, arXiv 2102.05918.
    python -m experiments.train align      # 3,000 steps of 128 pairs
    python -m experiments.prove align      # 12 trainings of 1,000 steps of 64 pairs
Of 500 held-out scenes the proof finds the caption at rank 1 for 0.37 after 16k pairs of which half are false, for 0.12 after 1k clean
ones and for 0.03 after 1k of which half are false.
"""

from dataclasses import replace

from configs.contrastive._pairs import pairs
from mmrep.config import Arm, Expect, Experiment, Optim, Proof, Rule
from mmrep.data.scenes import CaptionSpec, Noise, SceneData, WorldSpec
from mmrep.data.scenes.world import COLOURS, SHAPES
from mmrep.evals.suite import Retrieval, ZeroShot
from mmrep.nn.towers import ImageTower, TextTower
from mmrep.systems.contrastive.align import Config
from mmrep.systems.contrastive.align.evals import QueryArithmetic

VOCAB, LENGTH = 512, 18
EVALS = (
    Retrieval("image", "text", group="caption"),
    Retrieval("text", "image", group="caption"),
    ZeroShot(SHAPES[:8], "shape", ("a {}", "a small {}", "a big {}"), name="zero-shot shape"),
    ZeroShot(COLOURS[:8], "colour", tuple(f"a {{}} {s}" for s in SHAPES[:8]), name="zero-shot colour"),
    QueryArithmetic(COLOURS[:8]),
)


def scenes(n: int, rho: float = 0.0, size: int = 32, **splits: int) -> SceneData:
    """n scenes of 1 to 3 objects; a share rho of the captions is false: half another scene's, the rest generic or one attribute wrong."""
    caption = CaptionSpec("list", place=False, setting=False)
    return SceneData(n, size=size, world=WorldSpec(n_objects=(1, 3)), caption=caption, noise=Noise(rho), **splits)


def experiment(
    source: SceneData, system: Config, steps: int, batch: int, lr: float = 1e-3, vocab: int = VOCAB
) -> Experiment:
    return pairs(source, system, steps, batch, EVALS, lr, vocab)


def get_config(size: str = "small") -> Experiment:
    if size == "tiny":
        text = TextTower(64, LENGTH, 32, 2, 4)
        system = Config(ImageTower(32, 2, 4, 8), text, 32)
        return experiment(scenes(64, 0.5, n_val=16, n_test=16), system, 4, 8, vocab=64)
    if size == "small":
        system = Config(ImageTower(64, 3, 4, 4), TextTower(VOCAB, LENGTH, 64, 2, 4), 64, sigma=0.1)
        return experiment(scenes(16_000, 0.5), system, 3000, 128)
    # EfficientNet-L2 and BERT-Large become the ViT and transformer of their widths; LAMB, 1.2 M steps, batch 16,384.
    image, text = (
        ImageTower(1408, 39, 16, 17, scan=True, remat=True),
        TextTower(100_000, 64, 1024, 24, 16, scan=True, remat=True),
    )
    large = experiment(
        scenes(1_000_000, size=289), Config(image, text, 640, dtype="bfloat16"), 1_200_000, 16_384, vocab=100_000
    )
    optim = Optim("lamb", lr=1e-3, schedule="linear", warmup=10_000, weight_decay=1e-5)
    return replace(large, optim=optim, sharding=(Rule(".*", "fsdp"),))


def get_proof() -> Proof:
    system = Config(ImageTower(48, 2, 4, 8), TextTower(VOCAB, LENGTH, 48, 2, 4), 48, sigma=0.1)

    def arm(name: str, n: int, rho: float) -> Arm:
        return Arm(name, experiment(scenes(n, rho), system, 1000, 64, 2e-3))

    curve = tuple(arm(f"noisy-{n // 1000}k", n, 0.5) for n in (1000, 4000, 16_000))
    expects = (
        Expect("noisy-16k", "clean-1k", 0.08, "16k pairs of which half are false beat 1k clean pairs by 8 points of R@1"),
        Expect("clean-1k", "noisy-1k", 0.0, "at equal size, noise hurts: the gain is scale's"),
        Expect("noisy-16k/arithmetic accuracy", "noisy-16k/arithmetic image-only", 0.0, "image + new colour - old colour finds the recoloured scene", False),
        Expect("noisy-16k/arithmetic accuracy", "noisy-16k/arithmetic text-only", 0.0, "and better than the colour word alone", False),
    )  # fmt: skip
    return Proof(
        "Scale pays for noise: a plain dual encoder on 16 times more pairs, half of them false, beats clean training on few.",
        "image->text R@1", (arm("clean-1k", 1000, 0.0), *curve), expects,
        notes="The curve over 1k, 4k and 16k noisy pairs shows where the crossing lies. Equal steps for all arms.",
    )  # fmt: skip
