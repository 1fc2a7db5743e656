"""ONE-PEACE: one attention and a feed-forward network a modality, extended to sounds after pictures (Wang et al., 2023)

ONE-PEACE: Exploring One General Representation Model Toward Unlimited Modalities, arXiv 2305.11172.
    python -m experiments.train one_peace
    python -m experiments.prove one_peace
Data: synthetic rooms, things that a picture, a sound and a caption show in their places. First images and text are trained, then sounds and
text with all else frozen. Data of your own: a Table with the columns `image`, `audio` and `caption`:
Table("triples.csv", audio="audio", rate=16_000), with the modalities `parts(system, table=True)`.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from mmrep import modality
from mmrep.config import Arm, Data, Expect, Experiment, Optim, Phase, Proof, Rule, Tokenizer, Train
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
    system: Config, source: Rooms, *, steps: tuple[int, int], batch: int, lr: float = 1e-3, begin: Any = None, **settings: Any
) -> Experiment:  # fmt: skip
    """Images and text, then sounds and text; the sound's denoising contrast has no part for text alone."""
    sound = replace(
        system, stage="sound", ratios=(0.15, 0.55, 0.4, 0.45), weights=tuple(w * (i > 0) for i, w in enumerate(system.weights))
    )  # fmt: skip
    phases = Phase("images", steps[0]), Phase("sounds", steps[1], system=sound, trainable=SOUND, begin=begin)
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


def few(begin: Any = None, **system: Any) -> Experiment:
    options = {"vocab": 40, "length": 6, "size": 12, "samples": 576, "sound_strides": (8, 8), "buckets": 16} | system
    return rooms(
        Config(shape(48, 2), shape(32, 1), **options), Rooms(), steps=(500, 300), batch=48, lr=2e-3, begin=begin
    )


def without_words(params: Params, extras: Extras) -> tuple[Params, Extras]:
    """The text branch's parameters in random order, each array within itself: as good as initial ones."""

    def change(tree: Mapping[str, Any], path: str) -> dict[str, Any]:
        found = {}
        for i, (name, leaf) in enumerate(sorted(tree.items())):
            place = f"{path}/{name}"
            if isinstance(leaf, Mapping):
                found[name] = change(leaf, place)
            elif "text" in place and "filler" not in place:
                found[name] = jax.random.permutation(jax.random.key(len(place) + i), leaf.reshape(-1)).reshape(
                    leaf.shape
                )
            else:
                found[name] = jnp.asarray(leaf)
        return found

    return change(params, ""), extras


def get_config(size: str = "small") -> Experiment:
    if size == "tiny":
        options = {"vocab": 40, "length": 6, "size": 12, "samples": 144, "sound_strides": (4, 4), "buckets": 8}
        source = Rooms(64, 16, 16, slot=16)
        return rooms(Config(shape(16, 1, 2), shape(16, 1, 2), **options), source, steps=(4, 4), batch=8)
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
    source = Rooms(1_000_000, grid=16, cell=16, kinds=100, things=8, slot=938, rate=16_000)
    optim = Optim(lr=5e-4, warmup=3000, b2=0.98, weight_decay=0.05, clip=3.0)
    return rooms(
        system, source, steps=(200_000, 10_000), batch=3072, optim=optim, sharding=(Rule(".*", "fsdp"),), train=Train(log_every=500)
    )  # fmt: skip


def get_proof() -> Proof:
    arms = {"joint": few(), "image alone": few(weights=(0.5, 1.0, 0.0, 0.0)), "random text": few(begin=without_words)}
    return Proof(
        claim="Denoising contrast of pairs lets a caption complete what is hidden of a picture, as contrast of pictures alone does not. Sounds "
        "added later, by captions alone, are aligned with pictures.",
        metric="hidden true",
        arms=tuple(Arm(name, config) for name, config in arms.items()),
        expects=(
            Expect("joint", "joint/hidden other", 0.2, "hidden things are completed by their own caption, not by another one"),
            Expect("joint", "image alone", 0.2, "and not without the contrast of pairs"),
            Expect("joint/image->sound R@10", "random text/image->sound R@10", 0.5, "pictures find sounds that they were never trained with"),
            Expect("joint/image->text R@1", "image alone/image->text R@1", 0.0, "the contrast of pairs costs retrieval", False, slack=0.15),
        ),
        seeds=(10, 11, 12),
        data="synthetic rooms: two things in nine places",
    )  # fmt: skip
