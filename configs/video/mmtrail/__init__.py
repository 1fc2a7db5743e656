"""MMTrail: clips of trailers, their sound and merged captions in one space (Chi et al., arXiv 2024)

MMTrail: A Multimodal Trailer Video Dataset with Language and Music Descriptions, arXiv 2407.20962: a pipeline from videos to captioned clips,
and a dual encoder of three modalities trained on them. `small` and `paper` are trained on frames and waveforms, the proof on codes.
    python -m experiments.annotate FOLDER --out clips
    python -m experiments.train mmtrail
    python -m experiments.prove mmtrail

A user's own videos: annotate them, then mmrep.train(annotated("clips/records.jsonl"), "runs/clips"). Clips of one video stay in one split.
"""

from dataclasses import replace

from configs.video import _clips
from configs.video.mmtrail.base import annotated, clips, codes, pixels, towers
from configs.video.mmtrail.proof import get_proof
from mmrep.config import Experiment, Rule
from mmrep.evals.temporal import Highlights
from mmrep.nn.config import TransformerConfig
from mmrep.nn.encoders.audio import AudioEncoder
from mmrep.systems.video.mmtrail import Config
from mmrep.systems.video.mmtrail.data import TrailerData

SIZES = ("tiny", "small", "paper")
__all__ = ["SIZES", "annotated", "get_config", "get_proof"]


def get_config(size: str = "small") -> Experiment:
    if size == "tiny":
        return codes(TrailerData(n_train=64, n_val=16, n_test=16), 16, steps=4, batch=8)
    if size == "small":
        # Clips of two events, so that a sentence is about some of the frames.
        shown = Highlights(name="localisation", fields=(("text", "clause"),))
        data = clips(6000, 2, ("clauses", "saliency"))
        return pixels(data, towers(64, 2, 8, 4000), (shown,), steps=2000, lr=1e-3)
    # 2 M clips: CLIP's ViT-B/32 of 8 frames and its text encoder, a transformer as large over 10 s of sound.
    video, text = _clips.clip_b32()
    shape = TransformerConfig(width=768, depth=12, heads=12, scan=True, remat=True)
    data = clips(2_000_000, size=224, rate=16_000, hop=20_000)
    large = pixels(
        data,
        Config(video, AudioEncoder(shape, n_mels=128), text, 512, dtype="bfloat16"),
        steps=20_000,
        batch=1024,
        lr=5e-4,
    )
    return replace(large, sharding=(Rule(".*", "fsdp"),))
