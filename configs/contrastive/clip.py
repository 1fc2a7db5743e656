"""CLIP: a dual encoder with a contrastive loss over the batch (Radford et al., ICML 2021)

Learning Transferable Visual Models From Natural Language Supervision, arXiv 2103.00020; with system.loss=sigmoid SigLIP, 2303.15343.
    python -m experiments.train clip
    python -m experiments.prove clip
    python -m experiments.bench clip --size bench
"""

from dataclasses import replace
from typing import Any

from configs.contrastive._image_text import image_text
from mmrep.config import Arm, Expect, Experiment, Optim, Proof, Rule
from mmrep.data.scenes import CaptionSpec, Noise, SceneData, WorldSpec
from mmrep.data.scenes.world import COLOURS, SHAPES
from mmrep.evals.suite import Retrieval, ZeroShot
from mmrep.nn.config import TransformerConfig, variant
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.nn.encoders.text import TextEncoder
from mmrep.systems.contrastive.clip import Config

SIZES = ("tiny", "small", "bench", "paper")
VOCAB, LENGTH = 512, 40
EVALS = (
    Retrieval("image", "text"),
    Retrieval("text", "image"),
    ZeroShot(SHAPES[:8], "shape", templates=tuple(f"a {c} {{}}" for c in COLOURS[:8]), name="zero-shot shape"),
    ZeroShot(COLOURS[:8], "colour", templates=tuple(f"a {{}} {s}" for s in SHAPES[:8]), name="zero-shot colour"),
)


def encoders(
    image: TransformerConfig, text: TransformerConfig, *, patch: int, vocab: int = VOCAB, length: int = LENGTH
) -> dict[str, Any]:
    """CLIP's: a ViT with a class token and a LayerNorm before its blocks, a causal text transformer pooled at EOS."""
    return {
        "image": ImageEncoder(image, patch=patch, pool="cls", pre_norm=True),
        "text": TextEncoder(text, vocab=vocab, length=length, causal=True, pool="eos"),
    }


def scenes(n: int, size: int = 32, shuffled: bool = False, **splits: int) -> SceneData:
    """n scenes of 1 to 3 objects; `shuffled` gives every training image the caption of another scene."""
    noise = Noise(1.0, other=1.0, generic=0.0, attribute=0.0) if shuffled else Noise()
    caption = CaptionSpec("list", place=False, setting=False)
    return SceneData(n, size=size, world=WorldSpec(n_objects=(1, 3)), caption=caption, noise=noise, **splits)


def get_config(size: str = "small") -> Experiment:
    if size == "tiny":
        shape = TransformerConfig(width=32, depth=2, heads=4)
        system = Config(**encoders(shape, shape, patch=8, vocab=64), dim=32)
        return image_text(scenes(64, n_val=16, n_test=16), system, steps=4, batch=8, evals=EVALS, vocab=64)
    if size == "small":
        shape = TransformerConfig(width=64, depth=3, heads=4)
        return image_text(
            scenes(16_000), Config(**encoders(shape, shape, patch=4)), steps=3000, batch=128, evals=EVALS
        )  # fmt: skip
    if size == "bench":  # for experiments.bench: the data is irrelevant
        shape = TransformerConfig(width=192, depth=6, heads=3)
        system = Config(**encoders(shape, shape, patch=8, vocab=8192, length=32), dim=128)
        return image_text(scenes(1000, 64), system, steps=1000, batch=64, evals=EVALS, vocab=8192)
    # ViT-B/32 and GPT-2's small transformer: 400 M pairs, 32 epochs at batch 32,768.
    image, patch = variant("B/32", scan=True, remat=True)
    text = TransformerConfig(width=512, depth=12, heads=8, scan=True, remat=True)
    system = Config(**encoders(image, text, patch=patch, vocab=49_408, length=77), dim=512, dtype="bfloat16")
    large = image_text(scenes(1_000_000, 224), system, steps=390_000, batch=32_768, evals=EVALS, vocab=49_408)
    optim = Optim(lr=5e-4, warmup=2000, weight_decay=0.2, b2=0.98, eps=1e-6)
    return replace(large, optim=optim, sharding=(Rule(".*", "fsdp"),))


def get_proof() -> Proof:
    shape = TransformerConfig(width=48, depth=2, heads=4)
    system = Config(**encoders(shape, shape, patch=8))

    def arm(name: str, shuffled: bool = False, **changes: Any) -> Arm:
        changed = replace(system, **changes)
        return Arm(
            name, image_text(scenes(8000, shuffled=shuffled), changed, steps=500, batch=64, evals=EVALS, lr=3e-3)
        )

    back, zero_shot = "text->image R@1", "zero-shot shape accuracy"
    return Proof(
        claim="The contrastive loss learns retrieval in fewer steps than predicting the words of the caption (figure 2).",
        metric="image->text R@1",
        arms=(arm("clip"), arm("words", loss="words"), arm("shuffled", shuffled=True)),
        expects=(
            Expect(
                better="clip", worse="words", margin=0.02,
                statement="after equal steps the contrastive loss retrieves more captions than word prediction",
            ),
            Expect(better=f"clip/{back}", worse=f"words/{back}", margin=0.02, statement="and more images"),
            Expect(
                better=0.01, worse="shuffled", statement="with captions of other scenes retrieval stays near the chance of 0.002"
            ),
            Expect(
                better=f"clip/{zero_shot}", worse=f"words/{zero_shot}", headline=False,
                statement="zero-shot shapes, too, are learned in fewer steps",
            ),
        ),
        notes="Equal image encoders, data, batches and steps; the words arm has no text encoder. On validation the words arm was tried at three "
        "learning rates (1e-3, 3e-3, 1e-2) and CLIP at two (1e-3, 3e-3): 3e-3 was best for both. Ranked by the mean log-probability of their words, "
        "captions of common words come first for every image (validation R@1 0.03 image to text, against 0.24 text to image), which made the gap "
        "seem far larger; so word frequencies are divided out (0.16). A bag of words does not bind colours to shapes: part of the gap is due to "
        "that. An arm with the sigmoid loss was left out for time.",
    )  # fmt: skip
