"""MMTrail on synthetic trailers and clips, and on annotated records."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from configs.video import _clips
from mmrep import modality
from mmrep.config import Data, Experiment, Optim, Phase, Tokenizer, Train
from mmrep.data.clips import ClipData, ClipSpec
from mmrep.data.tables import Table
from mmrep.evals.suite import Retrieval
from mmrep.nn.config import TransformerConfig
from mmrep.nn.encoders.audio import AudioEncoder
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.nn.encoders.text import TextEncoder
from mmrep.nn.encoders.vector import VectorEncoder
from mmrep.nn.encoders.video import VideoEncoder
from mmrep.systems.video.mmtrail import Config
from mmrep.systems.video.mmtrail.data import TrailerData

VOCAB, LENGTH = 64, 16
QUERIES = (
    Retrieval("text", "clip", query_fields=(("text", "music_query"),), group="music", ks=(1, 10), name="music"),
    Retrieval("text", "clip", query_fields=(("text", "visual_query"),), group="seen", ks=(1, 10), name="visual"),
    Retrieval("text", "video", query_fields=(("text", "visual_query"),), group="seen", ks=(1, 10), name="picture"),
)


def experiment(
    source: Any,
    parts: tuple,
    system: Config,
    *,
    steps: int,
    batch: int = 64,
    lr: float = 2e-3,
    vocab: int = VOCAB,
    evals: tuple = (),
) -> Experiment:
    data = Data(source, parts, Tokenizer(vocab, kind="word"), batch_size=batch)
    optim = Optim(lr=lr, warmup=min(50, steps // 10))
    return Experiment(system, data, phases=(Phase(steps=steps),), optim=optim, evals=evals, train=Train(log_every=50))


def codes(source: TrailerData, width: int = 48, **settings: Any) -> Experiment:
    text = TextEncoder(TransformerConfig(width=width, depth=1, heads=4), vocab=VOCAB, length=LENGTH)
    system = Config(VectorEncoder((width,)), VectorEncoder((width,)), text, dim=width)
    parts = (
        modality.vector("video", source.dim),
        modality.vector("audio", source.dim),
        modality.text("text", LENGTH, VOCAB),
    )
    return experiment(source, parts, system, evals=QUERIES, **settings)


def pixels(data: ClipData, system: Config, more: tuple[Any, ...] = (), **settings: Any) -> Experiment:
    """more: evaluations beside retrieval."""
    text = modality.text("text", system.text.length, system.text.vocab, field="caption")
    parts = _clips.video(data), modality.audio("audio", data.spec.frames * data.hop, data.rate, field="sound"), text
    return experiment(data, parts, system, evals=(Retrieval("text", "clip", truth="text"), *more), **settings)


def towers(width: int, depth: int, patch: int, rate: int) -> Config:
    shape = TransformerConfig(width=width, depth=depth, heads=4)
    video, text = VideoEncoder(ImageEncoder(shape, patch=patch)), TextEncoder(shape, vocab=VOCAB, length=16)
    return Config(video, AudioEncoder(shape, n_mels=32, sample_rate=rate, n_fft=256, hop=128), text)


def clips(n: int, events: int = 1, more: tuple[str, ...] = (), **settings: Any) -> ClipData:
    """Captions of one event, seen, heard or both.   events: of a clip.   more: sensors."""
    spec = ClipSpec(8, events, sounds=1, modes=("seen", "heard", "both"), tones=4)
    return ClipData(n, spec=spec, sensors=("video", "sound", "caption", *more), **settings)


def annotated(
    records: str | Path, frames: int = 8, size: int = 32, seconds: float = 4.0, sound: bool = True, steps: int = 1000
) -> Experiment:
    """Training on the records of experiments.annotate. sound: False where some clip has none."""
    source = Table(
        str(records),
        image=None,
        video="video",
        audio="audio" if sound else None,
        text="merge_caption",
        group="video_id",
        split=None,
    )
    system = replace(
        towers(64, 2, 8, 16_000), text=TextEncoder(TransformerConfig(width=64, depth=2), vocab=1024, length=32)
    )
    parts: tuple = (modality.video("video", frames, size), modality.text("text", 32, 1024))
    if sound:
        parts = (*parts, modality.audio("audio", round(16_000 * seconds)))
    else:
        system = replace(system, audio=None)
    found = experiment(source, parts, system, steps=steps, vocab=1024, evals=(Retrieval("text", "clip"),))
    return replace(found, data=replace(found.data, tokenizer=Tokenizer(1024)))
