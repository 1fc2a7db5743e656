"""CoAVT: learned queries between sound and vision, encoded together, and text (Zhu et al., 2024)

CoAVT: A Cognition-Inspired Unified Audio-Visual-Text Pre-Training Model, arXiv 2401.12264. `small` and `paper` are trained on frames and
waveforms; the proof on codes, the vectors of frozen frame and audio encoders.
    python -m experiments.train coavt
    python -m experiments.prove coavt
Your own clips: a Table with the columns `video` (a folder of frames, an animation, a .npy array), `audio` and `caption`:
Table("clips.csv", image=None, video="video", audio="audio", rate=4000), with the modalities `configs.video._clips.with_sound(..., table=True)`.
"""

from dataclasses import replace
from typing import Any

from configs.video import _clips
from mmrep.config import Arm, Expect, Experiment, Optim, Proof, Rule
from mmrep.data.clips import ClipData, ClipSpec
from mmrep.data.clips.timeline import TIMBRES, TONES
from mmrep.evals.suite import Retrieval
from mmrep.evals.written import Written
from mmrep.nn.config import TransformerConfig, variant
from mmrep.nn.encoders.audio import AudioEncoder
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.nn.encoders.video import CodesEncoder, VideoEncoder
from mmrep.systems.fusion.coavt import Config

SIZES = ("tiny", "small", "paper")
LENGTH, VOCAB = 18, 64
BY = tuple(
    Retrieval("text", other, ks=(1,), score="score", truth="text", name=other) for other in ("clip", "video", "sound")
)
WRITTEN = Written("written", words=(*TIMBRES, *TONES[:8]))


def clips(n: int = 4000, codes: bool = False, frames: int = 8, **settings: Any) -> ClipData:
    """Two scenes and two sounds; captions name all that is seen and all that is heard. Some clips have no sound."""
    spec = ClipSpec(frames, 2, sounds=2, silent=0.1, verbs=4 if codes else 1, caption="all", modes=("both",))
    sensors = ("codes", "sound_codes", "caption") if codes else ("video", "sound", "caption")
    return ClipData(n, spec=spec, sensors=sensors, **settings)


def experiment(
    data: ClipData, system: Config, evals: tuple[Any, ...] = (*BY, WRITTEN), *, codes: bool = False, **settings: Any
) -> Experiment:
    return _clips.experiment(
        data, _clips.with_sound(data, system.length, system.vocab, codes=codes), system, evals, **settings
    )


def get_config(size: str = "small") -> Experiment:
    if size == "tiny":
        shape = TransformerConfig(width=32, depth=1, heads=4)
        data = clips(64, True, 4, n_val=16, n_test=16, dim=16)
        query = replace(shape, norm="post")
        system = Config(CodesEncoder(32), CodesEncoder(32), shape, query, 4, VOCAB, LENGTH, pool="mean", dim=32)
        return experiment(data, system, steps=4, batch=8, codes=True)
    if size == "small":
        shape = TransformerConfig(width=64, depth=2, heads=4)
        data = clips(8000, frames=6)
        sound = AudioEncoder(shape, sample_rate=data.rate, n_fft=256, hop=64, n_mels=32)
        video = VideoEncoder(ImageEncoder(shape, patch=6, pool="cls"))
        system = Config(video, sound, shape, replace(shape, norm="post"), 8, VOCAB, LENGTH)
        return experiment(data, system, steps=2500, lr=1e-3)
    # ViT-B of 11 layers for each modality and one joint layer, 32 queries before BERT-base; 10 frames and 10 s at 16 kHz.
    image, patch = variant("B/16", depth=11, scan=True, remat=True)
    sound = AudioEncoder(image, n_mels=128, strides=(4, 4))
    video = VideoEncoder(ImageEncoder(image, patch=patch), attention="joint")
    query = TransformerConfig(width=768, depth=12, heads=12, norm="post", scan=True, remat=True)
    system = Config(video, sound, replace(image, depth=1, scan=False), query, 32, 30_522, 40, dim=256, dtype="bfloat16")
    data = clips(1_000_000, frames=10, size=224, rate=16_000, hop=16_000)
    large = experiment(data, system, BY, steps=200_000, batch=512, vocab=30_522)
    optim = Optim(lr=1e-4, warmup=10_000, weight_decay=0.05, b2=0.98)
    return replace(large, optim=optim, sharding=(Rule(".*", "fsdp"),))


def get_proof() -> Proof:
    shape = TransformerConfig(width=48, depth=1, heads=4)
    data = clips(codes=True, noise=2.0, sound_noise=0.3, n_test=400)

    def arm(name: str, streams: tuple[str, ...], pool: str = "mean") -> Arm:
        system = Config(
            CodesEncoder(48), CodesEncoder(48), shape, replace(shape, norm="post"), 8, VOCAB, LENGTH, streams, pool, 48,
            match_weight=0.0, lm_weight=0.0,
        )  # fmt: skip
        return Arm(name, experiment(data, system, BY, steps=400, codes=True))

    return Proof(
        claim="Contrasting sound alone and vision alone with the text, beside both together, lets a text find a clip by the picture alone.",
        metric="video R@1",
        arms=(arm("all streams", ("av", "a", "v")), arm("joint only", ("av",)), arm("all streams, max", ("av", "a", "v"), "max")),
        expects=(
            Expect(
                better="all streams", worse="joint only", margin=0.05,
                statement="with the picture alone, all streams are 5 points better than the joint one alone",
            ),
            Expect(
                better="all streams/sound R@1", worse="joint only/sound R@1", slack=0.02,
                statement="and with the sound alone no more than 2 points worse",
            ),
            Expect(
                better="all streams, max", worse="all streams", headline=False,
                statement="the largest product of a query is better than their mean",
            ),
        ),
        seeds=(10, 11, 12),
        data="synthetic clips as codes of frozen encoders, the picture's noisy, the sound's clean; captions name all of both",
    )  # fmt: skip
