"""ONE-PEACE: one attention and a feed-forward network a modality, extended to sounds after pictures (Wang et al., 2023)

ONE-PEACE: Exploring One General Representation Model Toward Unlimited Modalities, arXiv 2305.11172.
    python -m experiments.train one_peace
    python -m experiments.prove one_peace
Data: synthetic rooms, things that a picture, a sound and a caption show in their places. First images and text are trained, then sounds and
text with all else frozen. Data of your own: a Table with the columns `image`, `audio` and `caption`:
Table("triples.csv", audio="audio", rate=16_000), with the modalities `parts(system, table=True)`.
"""

from dataclasses import replace
from typing import Any
from zlib import crc32

import jax
import jax.numpy as jnp

from mmrep import modality
from mmrep.config import Arm, Data, Expect, Experiment, Optim, Phase, Pretrained, Proof, Rule, Tokenizer, Train
from mmrep.data.rooms import Rooms
from mmrep.evals.suite import Retrieval
from mmrep.modality import Modality
from mmrep.nn.config import TransformerConfig
from mmrep.system import Extras, Params
from mmrep.systems.fusion.one_peace import SOUND, Config
from mmrep.systems.fusion.one_peace.evals import Hidden

SIZES = ("tiny", "small", "paper")


def parts(system: Config, rate: int = 4000, table: bool = False) -> tuple[Modality, ...]:
    return (
        modality.image("image", system.size), modality.text("text", system.length, system.vocab, field="text" if table else "caption"),
        modality.audio("sound", system.samples, rate, field="audio" if table else ""),
    )  # fmt: skip


def rooms(
    system: Config, source: Rooms, *, steps: tuple[int, int], batch: int, lr: float = 1e-3, **settings: Any
) -> Experiment:  # fmt: skip
    """Images and text, then sounds and text; the sound's denoising contrast has no part for text alone."""
    sound = replace(
        system, stage="sound", ratios=(0.15, 0.55, 0.4, 0.45), weights=tuple(w * (i > 0) for i, w in enumerate(system.weights))
    )  # fmt: skip
    phases = Phase("images", steps[0]), Phase("sounds", steps[1], system=sound, trainable=SOUND)
    evals = (
        Retrieval("image", "text", ks=(1,), two_way=True), Retrieval("sound", "text", ks=(1,)), Retrieval("image", "sound", ks=(1, 10)), Hidden(),
    )  # fmt: skip
    options = {
        "optim": Optim(lr=lr, warmup=min(100, steps[0] // 10), weight_decay=0.05, clip=3.0),
        "train": Train(log_every=50),
    } | settings
    return Experiment(
        system, Data(source, parts(system, source.rate), Tokenizer(system.vocab, "word"), batch_size=batch, eval_batch_size=100),
        phases=phases, evals=evals, **options,
    )  # fmt: skip


def shape(width: int, depth: int, heads: int = 4, **options: Any) -> TransformerConfig:
    return TransformerConfig(width=width, depth=depth, heads=heads, mlp_ratio=2.0, sub_norm=True, **options)


def few(**system: Any) -> Experiment:
    options = {"vocab": 40, "length": 6, "size": 8, "samples": 256, "sound_strides": (8, 8), "buckets": 16} | system
    return rooms(Config(shape(48, 2), shape(32, 1), **options), Rooms(grid=2), steps=(800, 300), batch=48, lr=2e-3)


def images(**system: Any) -> Experiment:
    """The first stage alone."""
    whole = few(**system)
    return replace(whole, phases=whole.phases[:1], evals=(whole.evals[0], whole.evals[3]))


def after(first: Experiment, sounds: bool = True, begin: Any = None) -> Experiment:
    """An arm that starts from the trained `first`, once a seed: the stage of sounds follows, or nothing."""
    start, whole = (Pretrained(first, (("net/", "net/"),), follow_seed=True),), few()
    if sounds:
        return replace(whole, phases=(replace(whole.phases[1], start=start, begin=begin),), evals=whole.evals[1:3])
    return replace(first, phases=(Phase("images", run=unchanged, start=start),))


def unchanged(params: Params, extras: Extras, context: Any) -> tuple[Params, Extras]:
    return params, extras


def without_words(params: Params, extras: Extras) -> tuple[Params, Extras]:
    """The text branch's parameters in random order, each array within itself: as good as initial ones."""

    def change(path: Any, leaf: Any) -> Any:
        place = jax.tree_util.keystr(path, simple=True, separator="/")
        if "text" not in place or "filler" in place:
            return jnp.asarray(leaf)
        return jax.random.permutation(jax.random.key(crc32(place.encode())), leaf.reshape(-1)).reshape(leaf.shape)

    return jax.tree_util.tree_map_with_path(change, params), extras


def get_config(size: str = "small") -> Experiment:
    if size == "tiny":
        system = Config(shape(16, 1, 2), shape(16, 1, 2), vocab=40, length=6, size=12, samples=144, sound_strides=(4, 4), buckets=8)  # fmt: skip
        return rooms(system, Rooms(64, 16, 16, slot=16), steps=(4, 4), batch=8)
    if size == "small":
        source = Rooms(20_000, grid=4, cell=8, kinds=24, things=3, slot=256, rate=8000)
        system = Config(
            shape(96, 3), shape(64, 2), vocab=64, length=8, size=32, strides=(4, 2), samples=4096, sound_strides=(8, 8), span=2
        )  # fmt: skip
        return rooms(system, source, steps=(1000, 600), batch=48)
    wide = shape(1536, 40, 24, remat=True)
    system = Config(
        replace(wide, mlp_dim=6144), TransformerConfig(width=768, depth=2, heads=12, mlp_dim=2048, sub_norm=True), vocab=50_264, length=72,
        size=256, strides=(4, 2, 2), samples=240_000, sound_strides=(5, 2, 2, 2, 2, 2, 2), buckets=256, convs=5, kernel=19, groups=16,
        layer_scale=1e-6, span=5, parts=64, dtype="bfloat16",
    )  # fmt: skip
    return rooms(
        system, Rooms(1_000_000, grid=16, cell=16, kinds=100, things=8, slot=938, rate=16_000), steps=(200_000, 10_000), batch=3072,
        optim=Optim(lr=5e-4, warmup=3000, b2=0.98, weight_decay=0.05, clip=3.0), sharding=(Rule(".*", "fsdp"),), train=Train(log_every=500),
    )  # fmt: skip


def get_proof() -> Proof:
    first = images()
    arms = {
        "joint": after(first, sounds=False), "image alone": images(weights=(0.5, 1.0, 0.0, 0.0)), "sounds": after(first),
        "random text": after(first, begin=without_words),
    }  # fmt: skip
    return Proof(
        claim="Denoising contrast of pairs lets a caption complete what is hidden of a picture, as contrast of pictures alone does not. Sounds "
        "added later, by captions alone, are aligned with pictures.",
        metric="hidden true",
        arms=tuple(Arm(name, config) for name, config in arms.items()),
        expects=(
            Expect("joint", "joint/hidden other", 0.075, "hidden things are completed by their own caption, not by another one"),
            Expect("joint", "image alone", 0.1, "and not without the contrast of pairs"),
            Expect("sounds/image->sound R@10", "random text/image->sound R@10", 0.48, "pictures find sounds that they were never trained with"),
            Expect("joint/image->text R@1", "image alone/image->text R@1", 0.0, "the contrast of pairs costs retrieval", False, slack=0.15),
        ),
        seeds=(10, 11, 12),
        data="synthetic rooms: two things in four places",
        notes="The stage of images and text is trained once a seed: its model is the arm \"joint\", and both stages of sounds start from it. Margins are halves of the effects on seed 200.",
    )  # fmt: skip
