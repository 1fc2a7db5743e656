"""ALIGN: a dual encoder trained on a large noisy set of image-text pairs (Jia et al., ICML 2021)

Scaling Up Visual and Vision-Language Representation Learning With Noisy Text Supervision, arXiv 2102.05918.
    python -m experiments.train align
    python -m experiments.prove align
"""

from dataclasses import replace

from configs.contrastive._image_text import image_text
from mmrep.config import Arm, Expect, Experiment, Optim, Proof, Rule
from mmrep.data.scenes import CaptionSpec, Noise, SceneData, WorldSpec
from mmrep.data.scenes.world import COLOURS, SHAPES
from mmrep.evals.arithmetic import QueryArithmetic
from mmrep.evals.suite import Retrieval, ZeroShot
from mmrep.nn.config import TransformerConfig
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.nn.encoders.text import TextEncoder
from mmrep.systems.contrastive.align import Config

SIZES = ("tiny", "small", "paper")
VOCAB, LENGTH = 512, 18
EVALS = (
    Retrieval("image", "text", group="caption"),
    Retrieval("text", "image", group="caption"),
    ZeroShot(SHAPES[:8], "shape", templates=("a {}", "a small {}", "a big {}"), name="zero-shot shape"),
    ZeroShot(COLOURS[:8], "colour", templates=tuple(f"a {{}} {s}" for s in SHAPES[:8]), name="zero-shot colour"),
    QueryArithmetic(COLOURS[:8]),
)


def scenes(n: int, false: float = 0.0, size: int = 32, **splits: int) -> SceneData:
    """n scenes of 1 to 3 objects. A share `false` of the captions is false: half of another scene, the rest generic or wrong in one attribute."""
    caption = CaptionSpec("list", place=False, setting=False)
    return SceneData(n, size=size, world=WorldSpec(n_objects=(1, 3)), caption=caption, noise=Noise(false), **splits)


def get_config(size: str = "small") -> Experiment:
    if size == "tiny":
        shape = TransformerConfig(width=32, depth=2, heads=4)
        system = Config(ImageEncoder(shape, patch=8), TextEncoder(shape, vocab=64, length=LENGTH), dim=32)
        return image_text(scenes(64, 0.5, n_val=16, n_test=16), system, steps=4, batch=8, evals=EVALS, vocab=64)
    if size == "small":
        image = ImageEncoder(TransformerConfig(width=64, depth=3, heads=4), patch=4)
        text = TextEncoder(TransformerConfig(width=64, depth=2, heads=4), vocab=VOCAB, length=LENGTH)
        system = Config(image, text, dim=64, temperature=0.1)
        return image_text(scenes(16_000, 0.5), system, steps=3000, batch=128, evals=EVALS)
    # EfficientNet-L2 and BERT-Large become the ViT and transformer of their widths; LAMB, 1.2 M steps, batch 16,384.
    of_image = TransformerConfig(width=1408, depth=39, heads=16, scan=True, remat=True)
    of_text = TransformerConfig(width=1024, depth=24, heads=16, scan=True, remat=True)
    image, text = ImageEncoder(of_image, patch=17), TextEncoder(of_text, vocab=100_000, length=64)
    system = Config(image, text, dim=640, dtype="bfloat16")
    large = image_text(
        scenes(1_000_000, size=289), system, steps=1_200_000, batch=16_384, evals=EVALS, vocab=100_000
    )  # fmt: skip
    optim = Optim("lamb", lr=1e-3, schedule="linear", warmup=10_000, weight_decay=1e-5)
    return replace(large, optim=optim, sharding=(Rule(".*", "fsdp"),))


def get_proof() -> Proof:
    shape = TransformerConfig(width=48, depth=2, heads=4)
    image, text = ImageEncoder(shape, patch=8), TextEncoder(shape, vocab=VOCAB, length=LENGTH)
    system = Config(image, text, dim=48, temperature=0.1)

    def arm(name: str, n: int, false: float) -> Arm:
        return Arm(name, image_text(scenes(n, false), system, steps=1000, batch=64, evals=EVALS, lr=2e-3))

    curve = tuple(arm(f"noisy-{n // 1000}k", n, 0.5) for n in (1000, 4000, 16_000))
    whole = "noisy-16k/arithmetic accuracy"
    return Proof(
        claim="A large noisy training set beats a small clean one: a dual encoder on 16 times more pairs, half of them false, retrieves better.",
        metric="image->text R@1",
        arms=(arm("clean-1k", 1000, 0.0), *curve),
        expects=(
            Expect(
                better="noisy-16k", worse="clean-1k", margin=0.08,
                statement="16k pairs, half of them false, beat 1k clean pairs by 8 points of R@1",
            ),
            Expect(better="clean-1k", worse="noisy-1k", statement="at equal size, noise hurts: the gain is due to scale"),
            Expect(
                better=whole, worse="noisy-16k/arithmetic image-only", headline=False,
                statement="image + new colour - old colour retrieves the recoloured scene better than the image alone",
            ),
            Expect(
                better=whole, worse="noisy-16k/arithmetic text-only", headline=False,
                statement="and better than the colour word alone",
            ),
        ),
        notes="The curve over 1k, 4k and 16k noisy pairs shows where noisy training overtakes clean training. Equal steps for all arms.",
    )  # fmt: skip
