"""HBI: words and frames as players of a game, on three levels of merged tokens (Jin et al., CVPR 2023)

Video-Text as Game Players: Hierarchical Banzhaf Interaction for Cross-Modal Representation Learning, arXiv 2303.14369. `small` and `paper`
are trained on frames; the proof on codes, the vectors of a frozen frame encoder.
    python -m experiments.train hbi
    python -m experiments.prove hbi

Your own clips: a Table with the columns `video` (a folder of frames, an animation, a .npy array) and `caption`:
Table("clips.csv", image=None, video="video", text="caption"), with the modalities video and text.
"""

from dataclasses import replace
from typing import Any

from configs.video import _clips
from configs.video._clips import eos_text
from mmrep import modality
from mmrep.config import Arm, Expect, Experiment, Optim, Phase, Proof, Rule
from mmrep.data.clips import ClipData, ClipSpec
from mmrep.evals.suite import Retrieval
from mmrep.nn.config import TransformerConfig
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.nn.encoders.video import CodesEncoder, VideoEncoder
from mmrep.systems.video.hbi import Config
from mmrep.systems.video.hbi.evals import Fidelity, Interactions, hubs

SIZES = ("tiny", "small", "paper")
LENGTH = 8
TRAINED = "(text|video|scale|weights_text|weights_video)/.*"


def phases(system: Config, wti: int, estimator: int, main: int) -> tuple[Phase, ...]:
    """The similarity, then the estimator on it while it is frozen, then all with the frozen estimator as the teacher; a phase of 0 steps is left out."""
    found = (
        (wti, Phase("wti", max(wti, 1), system=replace(system, objective="wti"), trainable=(TRAINED,))),
        (estimator, Phase("estimator", max(estimator, 1), system=replace(system, objective="estimator"), trainable=("teacher/.*",), optim=Optim(lr=3e-3))),
        (main, Phase("hbi", max(main, 1), system=system, trainable=(TRAINED, "(merge_text|merge_video|student)/.*"))),
    )  # fmt: skip
    return tuple(phase for steps, phase in found if steps)


def experiment(
    data: ClipData,
    system: Config,
    steps: tuple[int, int, int],
    *,
    codes: bool = False,
    fidelity: bool = False,
    **settings: Any,
) -> Experiment:
    words = modality.text("text", system.text.length, system.text.vocab, field="caption")
    evals: tuple[Any, ...] = (
        Retrieval("text", "video", score="score", truth="text"), Retrieval("video", "text", score="score", truth="text"),
    )  # fmt: skip
    evals += (Fidelity(),) if fidelity else ()
    parts = (_clips.video(data, codes), words)
    base = _clips.experiment(data, parts, system, evals, steps=sum(steps), **settings)
    return replace(base, phases=phases(system, *steps))


def clips(n: int = 4000, codes: bool = True, **settings: Any) -> ClipData:
    spec = ClipSpec(6, 2, shapes=8, colours=8, verbs=4 if codes else 1, caption="one")
    return ClipData(n, spec=spec, sensors=("codes" if codes else "video", "caption"), **settings)


def coded(width: int = 32, **changes: Any) -> Config:
    shape = TransformerConfig(width=width, depth=1, heads=4)
    return replace(
        Config(CodesEncoder(width), eos_text(shape, LENGTH), dim=width, heads=4, samples=None, width=width // 2),
        **changes,
    )


def get_config(size: str = "small") -> Experiment:
    if size == "tiny":
        system = coded(16, samples=20, ratios=(0.5, 0.75))
        tiny = experiment(clips(64, n_val=16, n_test=16, dim=16), system, (2, 2, 4), codes=True, batch=8)
        return replace(tiny, evals=(*tiny.evals, Interactions()))
    if size == "small":
        shape = TransformerConfig(width=64, depth=2, heads=4)
        video = VideoEncoder(
            ImageEncoder(shape, patch=6, pool="cls"), temporal=TransformerConfig(width=64, depth=1, heads=4)
        )
        system = Config(video, eos_text(shape, LENGTH), samples=100, width=32)
        small = experiment(clips(8000, codes=False), system, (1000, 300, 1500), lr=1e-3)
        return replace(small, evals=(*small.evals, Interactions()))
    # MSR-VTT: CLIP ViT-B/32 with a temporal transformer of 4 layers, 12 frames, 24 words; 5 epochs of 9,000 clips with 20 captions each.
    video, text = _clips.clip_b32()
    video = replace(video, temporal=TransformerConfig(width=768, depth=4, heads=12, activation="quick_gelu"))
    system = Config(video, replace(text, length=24), dim=512)
    data = replace(clips(180_000, codes=False, size=224), spec=ClipSpec(12, 2))
    large = experiment(data, system, (7000, 1400, 7000), batch=128, lr=1e-4, vocab=49_408)
    factors = (("video/encoder/frames/.*", 1e-3), ("text/encoder/.*", 1e-3))
    return replace(
        large, optim=Optim(lr=1e-4, weight_decay=0.2, warmup=700, factors=factors), sharding=(Rule(".*", "fsdp"),)
    )


def weak(seed: int) -> dict[str, float]:
    """No hubs."""
    return hubs(seed, 0.0)


def strong(seed: int) -> dict[str, float]:
    """Offsets of words and of frames of standard deviation 0.3."""
    return hubs(seed, 0.3)


def get_proof() -> Proof:
    # BOS, three words, EOS: no padding, whose coalitions would be enumerated in vain.
    text = eos_text(TransformerConfig(width=32, depth=1, heads=4), 5)
    game = experiment(clips(), replace(coded(text=text), width=64), (200, 400, 0), codes=True, fidelity=True)
    return Proof(
        claim="The estimator learns exact interactions, and interactions find true word-frame pairs behind hubs where the similarity does not.",
        metric="interaction AUROC",
        arms=(Arm("strong hubs", run=strong), Arm("no hubs", run=weak), Arm("estimator", game)),
        expects=(
            Expect(better="strong hubs", worse="strong hubs/similarity AUROC", margin=0.08, statement="with strong hubs interactions find more true pairs than the similarity"),
            Expect(better="estimator/R2 estimator", worse="estimator/R2 similarity", margin=0.09, statement="the estimator explains more of the exact interactions of unseen pairs than the similarity does"),
            Expect(better="estimator/R2 estimator", worse="estimator/R2 centring", margin=0.06, statement="and than the similarity with means of rows and columns taken away"),
            Expect(better="estimator/Spearman estimator", worse="estimator/Spearman similarity", headline=False, statement="ranks within a pair are nearer, too"),
            Expect(better="strong hubs", worse="strong hubs/centring AUROC", slack=0.05, headline=False, statement="subtracting means of rows and columns does as well"),
            Expect(better="no hubs/similarity AUROC", worse="no hubs", headline=False, statement="without hubs the similarity is the better one"),
        ),
        seeds=(10, 11, 12),
        data="made similarities with hubs; synthetic clips as codes",
        notes="Interactions also depend on the weights of words and frames, which the estimator does not have as an input: its R2 has a ceiling below 1. "
        "Frames of one event have near-equal interactions; ranks among them are noise, which is why ranks are no headline.",
    )  # fmt: skip
