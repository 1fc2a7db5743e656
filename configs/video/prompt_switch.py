"""Prompt Switch: frames exchange prompt tokens inside CLIP's image encoder, and a video's vector is their mean (Deng et al., ICCV 2023)

Prompt Switch: Efficient CLIP Adaptation for Text-Video Retrieval, arXiv 2308.07648. `small` and `paper` are trained on frames; the proof on
codes, the vectors of a frozen frame encoder.
    python -m experiments.train prompt_switch
    python -m experiments.prove prompt_switch

Your own clips: a Table with the columns `video` (a folder of frames, an animation, a .npy array) and `caption`:
Table("clips.csv", image=None, video="video", text="caption"), with the modalities `pair(data, system, table=True)`.
"""

from dataclasses import replace
from typing import Any

from configs.video import _clips
from configs.video._clips import eos_text
from mmrep import modality
from mmrep.config import Arm, Expect, Experiment, Optim, Proof, Rule
from mmrep.data.clips import ClipData, ClipSpec
from mmrep.data.scenes.world import TINTS
from mmrep.evals.order import FrameOrder
from mmrep.evals.suite import Foil, Retrieval, ZeroShot
from mmrep.evals.temporal import Highlights
from mmrep.nn.config import TransformerConfig, variant
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.systems.video.prompt_switch import Config

SIZES = ("tiny", "small", "paper")
LENGTH = 8
SAME = Foil("caption_foil", name="same", other="video", score="")
SHOWN = Highlights(name="localisation", fields=(("text", "clause"),))
GROUND = ZeroShot(TINTS, "ground", ("same on {}", "another on {}"), query="video", name="ground")
RETRIEVAL = Retrieval("text", "video", truth="text"), Retrieval("video", "text", truth="text")


def pair(data: ClipData, system: Config, *, codes: bool = False, table: bool = False) -> tuple[modality.Modality, ...]:
    """Frames (or codes) and captions."""
    field = "text" if table else "caption"
    return _clips.video(data, codes), modality.text("text", system.text.length, system.text.vocab, field=field)


def clips(frames: int, n: int = 4000, codes: bool = False, **settings: Any) -> ClipData:
    """Two events of the same kind or of two; the caption states which, and the ground: no sum over frames determines the first."""
    spec = ClipSpec(frames, 2, grounds=6, same=0.5, verbs=4 if codes else 1, caption="same")
    return ClipData(n, spec=spec, sensors=("codes" if codes else "video", "caption"), **settings)


def experiment(data: ClipData, system: Config, *, codes: bool = False, **settings: Any) -> Experiment:
    settings = {"evals": (SAME, GROUND)} | settings
    return _clips.experiment(data, pair(data, system, codes=codes), system, **settings)


def get_config(size: str = "small") -> Experiment:
    if size == "tiny":
        shape = TransformerConfig(width=32, depth=1, heads=4)
        system = Config(ImageEncoder(shape, pool="cls"), eos_text(shape, LENGTH), dim=32, prompts=2, caption_depth=1)
        return experiment(clips(4, 64, True, n_val=16, n_test=16, dim=16), system, steps=4, batch=8, codes=True)
    if size == "small":
        # Captions of two events in order, as users' captions describe what happens.
        shape = TransformerConfig(width=64, depth=2, heads=4)
        system = Config(ImageEncoder(shape, patch=6, pool="cls"), eos_text(shape, 12), prompts=6)
        spec = ClipSpec(12, 2, verbs=4, caption="order")
        data = ClipData(8000, spec=spec, sensors=("video", "caption", "clauses", "saliency"))
        order = Foil("caption_foil", name="order", other="video", score="")
        return experiment(data, system, steps=2500, lr=1e-3, evals=(*RETRIEVAL, order, FrameOrder(order), SHOWN))
    # ViT-B/32 on 6 frames of 224 pixels, MSR-VTT's 9,000 videos: 5 epochs of 180,000 pairs at batch 32.
    image, patch = variant("B/32", remat=True, activation="quick_gelu")
    text = _clips.clip_b32()[1]
    system = Config(
        ImageEncoder(image, patch=patch, pool="cls", pre_norm=True), text, dim=512, temperature=0.01, dtype="bfloat16"
    )
    data = clips(6, 180_000, size=224)
    large = experiment(data, system, steps=28_125, batch=32, vocab=49_408, evals=RETRIEVAL)
    new = "(video/(?!prompts|aggregate)|text|projection|scale).*"
    optim = Optim(lr=1e-5, warmup=2812, weight_decay=0.2, factors=((new, 0.1),))
    return replace(large, optim=optim, train=replace(large.train, ema=0.9999), sharding=(Rule(".*", "fsdp"),))


def get_proof() -> Proof:
    shape = TransformerConfig(width=64, depth=2, heads=4)
    text = eos_text(replace(shape, depth=1), LENGTH)
    data = clips(4, codes=True, n_test=400)

    def arm(name: str, **changes: Any) -> Arm:
        system = Config(ImageEncoder(shape, pool="cls"), text, **{"prompts": 4, "caption_weight": 0.0} | changes)
        return Arm(name, experiment(data, system, steps=400, codes=True))

    def ground(better: str) -> Expect:
        statement = f"{better}: the ground, which every frame shows, is told as well as from the mean without prompts"
        return Expect(better=f"{better}/ground accuracy", worse="mean/ground accuracy", slack=0.02, statement=statement)

    return Proof(
        claim="Prompts exchanged between frames let the mean of frame vectors hold what no sum over frames encoded alone can hold.",
        metric="same accuracy",
        arms=(
            arm("mean", prompts=0), arm("no exchange", switch=False, aggregate="own"), arm("switch alone", aggregate="own"),
            arm("aggregation alone", switch=False), arm("Prompt Switch"),
        ),
        expects=(
            Expect(
                better="Prompt Switch", worse="no exchange", margin=0.25,
                statement="whether two events are alike is told 25 points more often than with prompts that stay in their frames (chance 1/2)",
            ),
            Expect(better="switch alone", worse="no exchange", margin=0.2, statement="with the switch alone, 20 points more often"),
            ground("Prompt Switch"),
            Expect(
                better="Prompt Switch", worse="aggregation alone", headline=False,
                statement="the switch adds to what aggregation alone gives",
            ),
            Expect(
                better="no exchange", worse="mean", headline=False, slack=0.05,
                statement="prompts that stay in their frames are like none",
            ),
        ),
        seeds=(10, 11, 12),
        data="codes of synthetic clips",
        notes="Equal codes, text encoders, steps and rates; no captioner. A frame's prompts differ by its place in the chunk, so that a mean over "
        "frames encodes their order even without exchange: hence a task about the likeness of two frames. Without "
        "exchange every seed stays near chance; with it, by either way, some seeds are far above and others have not left chance at the last step: "
        "the spread over seeds, larger than the margins, makes the verdict, and more steps would be needed to tell late from never.",
    )  # fmt: skip
