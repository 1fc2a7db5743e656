"""HiTeA: moments aligned with the words that describe them, and with the whole video they are part of (Ye et al., ICCV 2023)

HiTeA: Hierarchical Temporal-Aware Video-Language Pre-training, arXiv 2212.14546. `small` and `paper` are trained on frames; the proof on
codes, the vectors of a frozen frame encoder.
    python -m experiments.train hitea
    python -m experiments.prove hitea

Your own clips: a Table with the columns `video` (a folder of frames, an animation, a .npy array) and `caption`:
Table("clips.csv", image=None, video="video", text="caption"), with the modalities `pair(data, system, table=True)`.
"""

from dataclasses import replace
from typing import Any

from configs.video import _clips
from mmrep import modality
from mmrep.config import Arm, Expect, Experiment, Optim, Proof, Rule
from mmrep.data.clips import ClipData, ClipSpec
from mmrep.evals.order import FrameOrder
from mmrep.evals.suite import Foil, Retrieval
from mmrep.evals.temporal import Highlights
from mmrep.nn.config import TransformerConfig, variant
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.nn.encoders.text import TextEncoder
from mmrep.nn.encoders.video import CodesEncoder, VideoEncoder
from mmrep.systems.video.hitea import Config
from mmrep.systems.video.hitea.evals import PhraseChoice

SIZES = ("tiny", "small", "paper")
LENGTH, VOCAB = 10, 32
ORDER = Foil("caption_foil", name="order", other="video", score="")
EVALS = (Retrieval("text", "video", truth="text", ks=(1, 5)), PhraseChoice(), ORDER, FrameOrder(ORDER))
SHOWN = Highlights(name="localisation", fields=(("text", "clause"),))
NO_FUSION: dict[str, Any] = {f"{name}_weight": 0.0 for name in ("mtre", "vtm", "mlm", "plm")}


def pair(data: ClipData, system: Config, *, codes: bool = False, table: bool = False) -> tuple[modality.Modality, ...]:
    """Frames (or codes) and captions."""
    field = "text" if table else "caption"
    return _clips.video(data, codes), modality.text("text", system.text.length, system.text.vocab, field=field)


def clips(n: int = 4000, codes: bool = False, **settings: Any) -> ClipData:
    """Two events of an actor and a verb, each at least as long as a moment; captions describe both and their order."""
    spec = ClipSpec(12, 2, shortest=4, shapes=8, colours=1, verbs=8, caption="order")
    return ClipData(n, spec=spec, sensors=("codes" if codes else "video", "caption", "clauses", "spans"), **settings)


def experiment(data: ClipData, system: Config, *, codes: bool = False, **settings: Any) -> Experiment:
    settings = {"vocab": VOCAB, "evals": EVALS} | settings
    return _clips.experiment(data, pair(data, system, codes=codes), system, **settings)


def get_config(size: str = "small") -> Experiment:
    if size == "tiny":
        shape = TransformerConfig(width=32, depth=1, heads=4)
        data = clips(64, True, n_val=16, n_test=16, dim=16)
        system = Config(CodesEncoder(32, shape), TextEncoder(shape, vocab=VOCAB, length=LENGTH, pool="cls"), dim=32)
        return experiment(data, system, steps=4, batch=8, codes=True)
    if size == "small":
        shape = TransformerConfig(width=64, depth=2, heads=4)
        video = VideoEncoder(ImageEncoder(shape, patch=12), attention="joint")
        system = Config(video, TextEncoder(shape, vocab=VOCAB, length=LENGTH, pool="cls"))
        data = clips(8000)
        data = replace(data, sensors=(*data.sensors, "saliency"))
        return experiment(data, system, steps=2500, batch=48, lr=1e-3, evals=(*EVALS, SHOWN))
    # A joint ViT-B/16 on 16 frames for the paper's MViTv2-B, BERT's 6 + 6 layers; 5 M pairs of images and web videos, 10 epochs.
    image, patch = variant("B/16", scan=True, remat=True)
    words = TransformerConfig(width=768, depth=6, heads=12, norm="post", scan=True, remat=True)
    text = TextEncoder(words, vocab=30_522, length=64, pool="cls")
    video = VideoEncoder(ImageEncoder(image, patch=patch), attention="joint")
    system = Config(video, text, fusion_depth=6, dim=256, moment=4, dtype="bfloat16")
    data = clips(5_000_000, size=224)
    data = replace(data, spec=replace(data.spec, frames=16))
    large = experiment(data, system, steps=50_000, batch=1024, vocab=30_522)
    optim = Optim(lr=1e-4, warmup=2000, weight_decay=0.02, factors=(("video/.*", 0.5),))
    return replace(large, optim=optim, sharding=(Rule(".*", "fsdp"),))


def get_proof() -> Proof:
    shape = TransformerConfig(width=64, depth=1, heads=4)
    text = TextEncoder(shape, vocab=VOCAB, length=LENGTH, pool="cls")
    data = clips(codes=True, n_test=400)

    def arm(name: str, evals: tuple[Any, ...] = EVALS[:2], **changes: Any) -> Arm:
        system = Config(CodesEncoder(64, shape), text, **NO_FUSION | changes)
        return Arm(name, experiment(data, system, steps=500, batch=48, codes=True, evals=evals))

    mean = PhraseChoice(temperature=None)
    return Proof(
        claim="A moment contrasted with the words of a caption is aligned with those that describe it, not with the caption as a whole.",
        metric="phrase accuracy",
        arms=(
            arm("contrast only", cme_weight=0.0), arm("whole caption", cme="whole"),
            arm("mean of words", (EVALS[0], mean), cme="mean"), arm("CME"),
            arm("CME and MTRE", EVALS, mtre_weight=1.0),
        ),
        expects=(
            Expect(
                better="CME", worse="contrast only", margin=0.3,
                statement="by the words of the two phrases in their caption, a moment finds its own 30 points more often than with the video-text contrast alone",
            ),
            Expect(better="CME", worse=0.5, margin=0.25, statement="and 25 points more often than by chance, 1/2"),
            Expect(better="CME", worse="whole caption", margin=0.25, statement="and than with the moment contrasted with its whole caption"),
            Expect(
                better="CME/text->video R@1", worse="contrast only/text->video R@1", slack=0.03,
                statement="retrieval of whole videos loses nothing",
            ),
            Expect(
                better="mean of words", worse="CME", headline=False, slack=0.05,
                statement="the mean of the words, without attention, does as well",
            ),
            Expect(
                better="CME/phrase alone accuracy", worse="contrast only/phrase alone accuracy", headline=False, slack=0.03,
                statement="a phrase encoded without its caption is found as often by the contrast alone",
            ),
            Expect(
                better="CME and MTRE/order accuracy drop", worse=0.1, headline=False,
                statement="with the frames in another order, the order of events is told 10 points less often",
            ),
        ),
        seeds=(10, 11, 12),
        data="codes of synthetic clips",
        notes="Equal codes, encoders, steps and rates; chance of a phrase is 1/2. Each arm's words are pooled as in its training. "
        "The phrases are words of the encoded caption: encoded alone, they are texts like others, which the contrast alone aligns. "
        "That the words are pooled by attention, not by their mean, does not matter with two phrases.",
    )  # fmt: skip
