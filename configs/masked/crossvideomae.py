"""CrossVideoMAE: a masked autoencoder of videos, contrasted with frames of the same video (Ahamed et al., arXiv 2025)

CrossVideoMAE: Self-Supervised Image-Video Representation Learning with Masked Autoencoders, arXiv 2502.07811. The image branch is frozen and
comes from another experiment: CLIP on frames here (`frames`), or an image MAE's published weights by Pretrained(file="vit-mae-folder",
parts=(("", "frames/"),)) in the phase's `start`.
    python -m experiments.train crossvideomae
    python -m experiments.prove crossvideomae

Your own clips: Table("clips.csv", image=None, video="video", text=None) with a column `video` (a folder of frames, an animation, a .npy
array); a label column as `extra` for the probes.
"""

from dataclasses import replace
from typing import Any

from mmrep import modality
from mmrep.config import Arm, Data, Expect, Experiment, Optim, Phase, Pretrained, Proof, Rule, Tokenizer, Train
from mmrep.data.augment import Colour, EachFrame
from mmrep.data.clips import ClipData, ClipSpec
from mmrep.data.clips.moments import FrameData
from mmrep.evals.suite import Probe, Retrieval
from mmrep.nn.config import TransformerConfig, variant
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.nn.encoders.text import TextEncoder
from mmrep.nn.encoders.video import VideoEncoder
from mmrep.systems.contrastive.clip import Config as Clip
from mmrep.systems.masked.crossvideomae import Config

SIZES = ("tiny", "small", "paper")
# One draw for all frames of a clip, another for each view: hue says nothing of the pairing.
COLOUR = Colour(brightness=0.2, contrast=0.3, saturation=0.5, hue=180.0)
TRAINED = ("(?!frames/).*",)
EVALS = (
    Probe("video", "shape", name="shape"),
    Probe("video", "verb", name="motion"),
    Retrieval("shared_video", "shared_frame", name="frame"),
)
WORDS = 32


def parts(frames: int, size: int, field: str = "video") -> tuple[modality.Modality, ...]:
    return tuple(
        modality.video(n, frames, size, field=field, augment=(EachFrame(COLOUR),)) for n in ("video", "view", "frames")
    )


def clips(n: int, frames: int = 4, size: int = 16, **settings: Any) -> ClipData:
    """One object that moves; its shape and its motion are to be probed."""
    return ClipData(
        n,
        spec=ClipSpec(frames, 1, shapes=6, colours=8, verbs=6, grounds=6),
        sensors=("video", "caption"),
        size=size,
        **settings,
    )


def experiment(
    source: ClipData, system: Config, *, steps: int, batch: int = 64, lr: float = 2e-3, start: tuple = ()
) -> Experiment:
    data = Data(source, parts(source.spec.frames, source.size), batch_size=batch)
    trainable = (".*",) if system.train_image else TRAINED
    return Experiment(
        system, data, phases=(Phase(steps=steps, trainable=trainable, start=start),),
        optim=Optim(lr=lr, warmup=min(100, steps // 10), weight_decay=0.05, b2=0.95), evals=EVALS, train=Train(log_every=50),
    )  # fmt: skip


def frames(image: ImageEncoder, source: ClipData, steps: int) -> Experiment:
    """CLIP of single frames and the words for their shapes: the image branch that has learnt what the videos do not tell."""
    text = TextEncoder(TransformerConfig(width=32, depth=1, heads=4), vocab=WORDS, length=4)
    pair = modality.image("image", source.size, augment=(COLOUR,)), modality.text("text", 4, WORDS)
    data = Data(FrameData(source), pair, Tokenizer(WORDS, kind="word"), batch_size=64)
    return Experiment(
        Clip(image, text, dim=32),
        data,
        phases=(Phase(steps=steps),),
        optim=Optim(lr=2e-3, warmup=50, weight_decay=0.05),
    )


def taken(donor: Experiment) -> tuple[Pretrained, ...]:
    return (Pretrained(donor, (("image/encoder/", "frames/"),)),)


def vits(width: int, depth: int, patch: int = 4, tube: int = 2, **changes: Any) -> Config:
    shape = TransformerConfig(width=width, depth=depth, heads=4)
    image = ImageEncoder(shape, patch=patch)
    return Config(
        VideoEncoder(image, "joint", tube), image, replace(shape, width=width // 2, depth=1), dim=64, **changes
    )


def get_config(size: str = "small") -> Experiment:
    if size == "tiny":
        system = vits(16, 1, mask_video=0.75, mask_image=0.5, train_image=True)
        return experiment(clips(64, n_val=16, n_test=16), system, steps=4, batch=8)
    if size == "small":
        source, system = clips(4000, 8, 24), vits(64, 3, mask_video=0.85)
        donor = frames(system.image, clips(4000, 8, 24, seed=1), 1500)
        return experiment(source, system, steps=3000, start=taken(donor))
    # Kinetics-400, 800 epochs: ViT-B/16 on 16 frames of 224 pixels, MAE's decoder; the image branch starts from an image MAE's weights.
    image, patch = variant("B/16", scan=True, remat=True)
    vit = ImageEncoder(image, patch=patch)
    decoder = TransformerConfig(width=512, depth=4, heads=8, scan=True)
    system = Config(VideoEncoder(vit, "joint", 2), vit, decoder)
    large = experiment(clips(240_000, 16, 224), system, steps=375_000, batch=512, lr=1.5e-4 * 512 / 256)
    return replace(large, optim=replace(large.optim, warmup=18_750), sharding=(Rule(".*", "fsdp"),))


def get_proof() -> Proof:
    source, base = clips(1000, n_val=300, n_test=500), vits(32, 2, mask_video=0.5)
    start = taken(frames(base.image, clips(3000, seed=99), 600))
    probes = (*EVALS[:2], Probe("frames", "shape", name="image"))

    def arm(name: str, start: tuple = start, **changes: Any) -> Arm:
        found = experiment(source, replace(base, **changes), steps=500, batch=48, start=start)
        return Arm(name, replace(found, evals=probes))

    return Proof(
        claim="What a frozen image encoder represents of frames passes into a video encoder through the pairing of a video and its frames.",
        metric="shape accuracy",
        arms=(
            arm("cross", intra=0.0), arm("MAE", (), intra=0.0, cross=0.0), arm("shuffled", intra=0.0, shuffled=True),
            arm("untrained", (), intra=0.0),
        ),
        expects=(
            Expect(better="cross", worse="MAE", margin=0.13, statement="shapes are probed better than in a masked autoencoder of videos alone"),
            Expect(better="cross", worse="shuffled", margin=0.09, statement="frames of random videos do not do it"),
            Expect(better="cross", worse="untrained", margin=0.09, statement="nor does an image encoder that was not trained"),
            Expect(better="cross/motion accuracy", worse="MAE/motion accuracy", headline=False, slack=0.15, statement="its cost in motion is below 0.15"),
        ),
        seeds=(10, 11, 12),
        data="synthetic clips as pixels",
        notes="The image encoder is CLIP on other clips' frames and the words for their shapes, the same for all seeds; its own probe is \"image accuracy\". "
        "Half of the tubes are hidden: a quarter of these small clips seldom shows the whole object. Shuffled frames are permuted anew each step, and a "
        "video may get its own: were it never its partner, a video encoder would learn to tell it apart.",
    )  # fmt: skip
