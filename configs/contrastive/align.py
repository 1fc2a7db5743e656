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
from mmrep.nn.config import TransformerConfig
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.nn.encoders.text import TextEncoder
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
        shape = TransformerConfig(width=32, depth=2, heads=4)
        system = Config(ImageEncoder(shape, patch=8), TextEncoder(shape, vocab=64, length=LENGTH), dim=32)
        return experiment(scenes(64, 0.5, n_val=16, n_test=16), system, 4, 8, vocab=64)
    if size == "small":
        image = ImageEncoder(TransformerConfig(width=64, depth=3, heads=4), patch=4)
        text = TextEncoder(TransformerConfig(width=64, depth=2, heads=4), vocab=VOCAB, length=LENGTH)
        system = Config(image, text, dim=64, temperature=0.1)
        return experiment(scenes(16_000, 0.5), system, 3000, 128)
    # EfficientNet-L2 and BERT-Large become the ViT and transformer of their widths; LAMB, 1.2 M steps, batch 16,384.
    of_image = TransformerConfig(width=1408, depth=39, heads=16, scan=True, remat=True)
    of_text = TransformerConfig(width=1024, depth=24, heads=16, scan=True, remat=True)
    image, text = ImageEncoder(of_image, patch=17), TextEncoder(of_text, vocab=100_000, length=64)
    system = Config(image, text, dim=640, dtype="bfloat16")
    large = experiment(scenes(1_000_000, size=289), system, 1_200_000, 16_384, vocab=100_000)
    optim = Optim("lamb", lr=1e-3, schedule="linear", warmup=10_000, weight_decay=1e-5)
    return replace(large, optim=optim, sharding=(Rule(".*", "fsdp"),))


def get_proof() -> Proof:
    shape = TransformerConfig(width=48, depth=2, heads=4)
    image, text = ImageEncoder(shape, patch=8), TextEncoder(shape, vocab=VOCAB, length=LENGTH)
    system = Config(image, text, dim=48, temperature=0.1)

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
