"""UnIVAL's sizes, and its variant."""

from dataclasses import replace
from typing import Any

from configs.fusion.unival.base import model, rooms
from mmrep.config import Experiment, Pretrained, Rule, Train
from mmrep.data.rooms import Rooms
from mmrep.errors import ConfigError
from mmrep.nn.config import TransformerConfig
from mmrep.nn.encoders.audio import AudioEncoder
from mmrep.nn.encoders.conv import ConvEncoder
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.nn.encoders.video import VideoEncoder


def with_sound(config: Experiment, sound: Any, steps: int) -> Experiment:
    """Sounds, which the model has not been trained with, from the model of images and videos."""
    system = replace(config.system, sound=sound, modalities=("sound",))
    tasks: Any = config.data.source
    stages = ((("sound",), steps),)
    start = (Pretrained(config, (("net/", "net/"), ("decoder/", "decoder/"))),)
    trainable = ("net/(sound.*|prompt.*|transformer/.*)", "decoder/.*")
    found = rooms(system, tasks.source, tasks.source, stages=stages, batch=config.data.batch_size, optim=config.optim)
    words: Any = found.data.tokenizer
    words = replace(words, sources=config.sources)
    return replace(
        found,
        data=replace(found.data, tokenizer=words),
        phases=(replace(found.phases[0], start=start, trainable=trainable),),
    )


def get_config(size: str = "small", variant: str = "") -> Experiment:
    if variant not in ("", "sound") or size not in ("tiny", "small", "paper") or (variant and size == "paper"):
        raise ConfigError(f"size {size!r} has no variant {variant!r}: choose tiny or small for sound")
    if size == "tiny":
        shape = TransformerConfig(width=16, depth=1, heads=2)
        frames = VideoEncoder(ImageEncoder(shape, patch=4))
        system = model(16, 1, 80, 6, 2, image=ConvEncoder((8, 16), stem_stride=2, groups=4), video=frames)
        of, steps, batch = Rooms(64, 16, 16, frames=2, slot=16, ordered=True), 4, 8
    elif size == "small":
        shape = TransformerConfig(width=96, depth=2, heads=4)
        system = model(
            96,
            2,
            96,
            8,
            image=ConvEncoder((32, 64, 96)),
            video=VideoEncoder(ImageEncoder(replace(shape, depth=1), patch=8)),
        )
        of, steps, batch = (
            Rooms(20_000, grid=4, cell=8, kinds=24, things=3, slot=256, rate=8000, frames=3, ordered=True),
            1000,
            48,
        )
    else:
        shape = TransformerConfig(width=768, depth=6, heads=12)
        frames = VideoEncoder(ImageEncoder(shape, patch=16))
        wide = model(
            768, 6, 51_000, 64, 12, image=ConvEncoder((256, 512, 1024), blocks=10, stem_stride=4), video=frames
        )
        of = Rooms(4_000_000, grid=8, cell=28, kinds=100, things=8, slot=7500, rate=48_000, frames=8, ordered=True)
        stages = (("image",), 150_000), (("image", "video"), 90_000)
        return rooms(
            replace(wide, prompt=80), of, of, stages=stages, batch=2048, lr=1e-4, bins=1000, sharding=(Rule(".*", "fsdp"),),
            train=Train(log_every=500),
        )  # fmt: skip
    config = rooms(system, of, of, stages=((("image",), steps), (("image", "video"), steps)), batch=batch)
    sound = AudioEncoder(shape, sample_rate=of.rate, n_fft=64, hop=of.slot // 4, n_mels=16)
    return with_sound(config, sound, steps) if variant else config
