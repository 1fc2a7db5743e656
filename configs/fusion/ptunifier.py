"""PTUnifier: prompts from a pool in the place of a missing modality (Chen et al., ICCV 2023)

Towards Unifying Medical Vision-and-Language Pre-training via Soft Prompts, arXiv 2302.08958.
    python -m experiments.train ptunifier
    python -m experiments.prove ptunifier
Own data needs an `image` (a picture) and a `caption`; with `id` int32, rows of equal id match. `small` trains on synthetic scenes in the place of
radiographs; the proof on findings as codes, a vector for each.
"""

from dataclasses import replace

from mmrep import modality
from mmrep.config import Arm, Data, Expect, Experiment, Optim, Phase, Proof, Rule, Tokenizer, Train
from mmrep.data.scenes import CaptionSpec, SceneData, WorldSpec
from mmrep.data.scenes.world import COLOURS, SHAPES
from mmrep.data.things import Things
from mmrep.evals.suite import Probe, Retrieval
from mmrep.nn.config import TransformerConfig, variant
from mmrep.systems.fusion.ptunifier import Config
from mmrep.systems.fusion.ptunifier.evals import Judged, PoolUse

SIZES = ("tiny", "small", "paper")
WORLD = WorldSpec(n_objects=(2, 2), shapes=SHAPES[:6], colours=COLOURS[:6], sizes=("big",), distinct="each", grid=2)
VOCAB, LENGTH = 320, 14
NEW = (("(image_blocks|text_blocks|words|patches)/.*|cls", 0.2),)  # the encoders' rate over that of new parts


def scenes(n_train: int = 6000, n_eval: int = 256, size: int = 32) -> SceneData:
    return SceneData(n_train, n_eval, n_eval, size=size, world=WORLD, caption=CaptionSpec(attributes=("colour",)))


def evals(group: str, label: str, text: str, pool: int) -> tuple:
    single = Retrieval("image", "text", ks=(1,), group=group, two_way=True, name="single")
    return (single, Probe("image", label), Judged(text), PoolUse(pool))


def system(width: int, depth: int, **fields: object) -> Config:
    shape = TransformerConfig(width=width, depth=depth, heads=max(width // 32, 2))
    post = replace(shape, norm="post")
    return Config(shape, post, replace(post, depth=2), vocab=VOCAB, length=LENGTH, **fields)


def experiment(config: Config, steps: int, n_train: int = 6000, n_eval: int = 256, batch: int = 64) -> Experiment:
    parts = modality.image("image", 32, field="rgb"), modality.text("text", LENGTH, VOCAB, field="caption")
    data = Data(
        scenes(n_train, n_eval), parts, Tokenizer(VOCAB, kind="word"), batch_size=batch, eval_batch_size=min(n_eval, 64)
    )
    optim = Optim(lr=1e-3, warmup=steps // 10, weight_decay=0.01)
    found = evals("caption", "shape", "caption", config.pool)
    return Experiment(config, data, (Phase(steps=steps),), optim, found, Train(log_every=max(steps // 20, 1)))


def get_config(size: str = "small") -> Experiment:
    if size == "tiny":
        config = system(32, 1, pool=8, image_prompts=4, text_prompts=3, dim=16, itc_weight=1.0)
        return experiment(replace(config, fusion=replace(config.fusion, depth=1)), 4, 64, 16, 8)
    if size == "small":
        return experiment(system(96, 2, itc_weight=1.0), 2000)
    # CLIP's ViT-B/16 and BERT-base, six co-attention layers; 100k steps at batch 256 on ROCO, MedICaT and MIMIC-CXR.
    shape, patch = variant("B/16", scan=True, remat=True)
    post = replace(shape, norm="post")
    config = Config(
        shape, post, replace(post, depth=6, scan=False), patch, 30522, 64, 2048, 49, 32, dim=768, dtype="bfloat16"
    )  # fmt: skip
    parts = modality.image("image", 288, field="rgb"), modality.text("text", 64, 30522, field="caption")
    data = Data(scenes(size=288), parts, Tokenizer(30522), batch_size=256, eval_batch_size=64)
    optim = Optim(lr=5e-5, warmup=10_000, weight_decay=0.01, factors=NEW)
    return Experiment(config, data, (Phase(steps=100_000),), optim, (), sharding=(Rule(".*", "fsdp"),))


def findings(stand_in: str = "pool", itc_weight: float = 1.0, steps: int = 400) -> Experiment:
    """Four findings of six kinds: a code for each in the image, a word for each in the report."""
    source = Things(6000, 300, 400, factors=(6,) * 4, noise=0.6, dim=24)
    shape = TransformerConfig(width=48, depth=1, heads=4)
    post = replace(shape, norm="post")
    config = Config(
        shape, post, post, 0, 288, 6, pool=64, image_prompts=4, text_prompts=4, stand_in=stand_in, dim=32, itc_weight=itc_weight
    )  # fmt: skip
    parts = modality.vector("image", 4, 24, field="regions"), modality.text("text", 6, 288)
    data = Data(source, parts, Tokenizer(288, kind="word"), batch_size=48, eval_batch_size=100)
    optim = Optim(lr=2e-3, warmup=40, weight_decay=0.01)
    return Experiment(
        config, data, (Phase(steps=steps),), optim, evals("text", "label", "text", 64), Train(log_every=100)
    )


def get_proof() -> Proof:
    single, pairs = "single R@1", "judged accuracy"
    return Proof(
        claim="One fusion network, trained with stand-ins for the missing modality, serves single inputs as well as pairs.",
        metric=single,
        arms=(
            Arm("pools", findings()), Arm("static", findings("static")), Arm("none", findings("none")),
            Arm("pairs only", findings(itc_weight=0.0)),
        ),
        expects=(
            Expect(
                better="pools", worse="pairs only", margin=0.3,
                statement="single inputs find their pair 30 points more often than in a network that was trained on pairs alone",
            ),
            Expect(
                better=f"pools/{pairs}", worse=f"pairs only/{pairs}", slack=0.02,
                statement="and pairs are judged no more than 2 points worse",
            ),
            Expect(
                better="pools", worse="static", headline=False,
                statement="prompts that the input chooses are better than the same ones for all inputs (a tie is expected here)",
            ),
            Expect(
                better="pools", worse="none", headline=False,
                statement="and better than none (a tie is expected here: all information is in the input that is there)",
            ),
        ),
        seeds=(10, 11, 12),
        data="made findings, as codes in the place of a radiograph and as words of a report",
    )  # fmt: skip
