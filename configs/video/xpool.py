"""X-Pool: a video's frames are pooled by the attention of the text that it is compared with (Gorti et al., CVPR 2022)

X-Pool: Cross-Modal Language-Video Attention for Text-Video Retrieval, arXiv 2203.15086. `small` and `paper` are trained on frames; the
proof on codes, the vectors of a frozen frame encoder.
    python -m experiments.train xpool
    python -m experiments.prove xpool

Your own clips: a Table with the columns `video` (a folder of frames, an animation, a .npy array) and `caption`:
Table("clips.csv", image=None, video="video", text="caption"), with the modalities `pair(data, system, table=True)`.
"""

from dataclasses import replace
from typing import Any

from configs.video import _clips
from configs.video._clips import eos_text, known
from mmrep import modality
from mmrep.config import Arm, Expect, Experiment, Optim, Proof, Rule
from mmrep.data.clips import ClipData, ClipSpec
from mmrep.evals.attention import FrameAttention
from mmrep.evals.suite import Retrieval
from mmrep.nn.config import TransformerConfig
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.nn.encoders.video import CodesEncoder, VideoEncoder
from mmrep.systems.video.xpool import Config

SIZES = ("tiny", "small", "paper")
LENGTH = 8


def pair(data: ClipData, system: Config, *, codes: bool = False, table: bool = False) -> tuple[modality.Modality, ...]:
    """Frames (or codes) and captions; of synthetic clips also which captions are true of which clips."""
    words = modality.text("text", system.text.length, system.text.vocab, field="text" if table else "caption")
    return (_clips.video(data, codes), words, *(() if table else known(data.spec)))


def clips(events: int, codes: bool, n: int = 4000, frames_each: int = 0, **settings: Any) -> ClipData:
    """Clips of several events; the caption describes one of them. A frame alone shows no verb, so only codes have them."""
    spec = ClipSpec(frames_each * events or 12, events, shapes=10, colours=10, verbs=6 if codes else 1)
    return ClipData(n, spec=spec, sensors=("codes" if codes else "video", "caption", "spans"), **settings)


def experiment(data: ClipData, system: Config, *, steps: int, codes: bool = False, **settings: Any) -> Experiment:
    evals: tuple[Any, ...] = (
        Retrieval("text", "video", score="score", truth="text"),
        Retrieval("video", "text", score="score", truth="text"),
    )
    evals += (FrameAttention(),) if system.pool in ("text", "constant") else ()
    return _clips.experiment(data, pair(data, system, codes=codes), system, evals, steps=steps, **settings)


def get_config(size: str = "small") -> Experiment:
    if size == "tiny":
        shape = TransformerConfig(width=32, depth=1, heads=4)
        data = clips(2, True, 64, 2, n_val=16, n_test=16, dim=16)
        system = Config(CodesEncoder(32), eos_text(shape, LENGTH), dim=32, dropout=0.1)
        return experiment(data, system, steps=4, batch=8, codes=True)
    if size == "small":
        shape = TransformerConfig(width=64, depth=2, heads=4)
        video = VideoEncoder(ImageEncoder(shape, patch=6, pool="cls"))
        system = Config(video, eos_text(shape, LENGTH), dim=64, dropout=0.1)
        return experiment(clips(4, False, 8000, 2, size=24), system, steps=2000, lr=1e-3)
    # 12 frames of 224 pixels of MSR-VTT's 9,000 videos: 5 epochs of 180,000 pairs at batch 32.
    system = Config(*_clips.clip_b32(), dim=512, dropout=0.3, temperature=0.01, dtype="bfloat16")
    large = experiment(clips(4, False, 180_000, size=224), system, steps=28_125, batch=32, vocab=49_408)
    optim = Optim(lr=1e-5, warmup=2812, weight_decay=0.2, factors=(("(video|text|scale)/.*", 0.1),))
    return replace(large, optim=optim, sharding=(Rule(".*", "fsdp"),))


def get_proof() -> Proof:
    words = eos_text(TransformerConfig(width=64, depth=1, heads=4), LENGTH)

    def arm(name: str, pool: Any, events: int) -> Arm:
        system = Config(CodesEncoder(64), words, dim=64, pool=pool)
        return Arm(name, experiment(clips(events, True, n_test=512), system, steps=400, codes=True))

    arms = (
        ("X-Pool", "text"),
        ("mean", "mean"),
        ("self-attention", "self"),
        ("learned query", "constant"),
        ("top 3", "top"),
    )
    return Proof(
        claim="Frames pooled by the text's attention find the clip whose text describes one part of it; vectors of the clip alone do not.",
        metric="text->video R@1",
        arms=(*(arm(n, p, 4) for n, p in arms), arm("X-Pool, one scene", "text", 1), arm("mean, one scene", "mean", 1)),
        expects=(
            Expect(
                better="X-Pool", worse="mean", margin=0.3,
                statement="where the text describes one of 4 scenes, X-Pool's R@1 is 30 points above that of mean pooling",
            ),
            Expect(
                better="X-Pool", worse="learned query", margin=0.3,
                statement="and above that of the same block with a learned query in place of the text",
            ),
            Expect(
                better="X-Pool, one scene", worse="mean, one scene", slack=0.02,
                statement="where the clip is one scene, nothing is lost",
            ),
            Expect(
                better="X-Pool/attention over even", worse=2.0, headline=False,
                statement="the text attends to the frames of its scene at least twice as much as evenly",
            ),
            Expect(
                better="X-Pool", worse="top 3", headline=False,
                statement="X-Pool is better than the sum of the 3 most similar frames",
            ),
        ),
        seeds=(10, 11, 12),
        data="codes of synthetic clips",
        notes="Equal codes, text encoders, steps and rates; every clip of which the text is true counts as found.",
    )  # fmt: skip
