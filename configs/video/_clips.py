"""What systems of clips share: their modalities of synthetic clips, CLIP's encoders, and the experiment around them."""

from typing import Any

from mmrep import modality
from mmrep.config import Data, Experiment, Optim, Phase, Tokenizer, Train
from mmrep.data.clips import ClipData, ClipSpec
from mmrep.nn.config import TransformerConfig, variant
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.nn.encoders.text import TextEncoder
from mmrep.nn.encoders.video import VideoEncoder

VOCAB = 64


def known(spec: ClipSpec) -> tuple[modality.Modality, ...]:
    """Which captions are true of which clips (see `mmrep.losses.contrastive.true_of`)."""
    told, shown = (spec.told_items,), (spec.shown_items,)
    return modality.ids("told", *told, vocab=spec.items), modality.ids("shown", *shown, vocab=spec.items)


def video(data: ClipData, codes: bool = False, **options: Any) -> modality.Modality:
    """Frames, or the codes in their place."""
    frames = data.spec.frames
    if codes:
        return modality.vector("video", frames, data.dim, field="codes")
    return modality.video("video", frames, data.size, **options)


def with_sound(
    data: ClipData, length: int, vocab: int = VOCAB, *, codes: bool = False, table: bool = False
) -> tuple[modality.Modality, ...]:
    """Frames, sound (or codes of both) and captions; of synthetic clips also which captions are true, and which clips have no sound.

    table: of a user's table with the columns video, audio and caption.
    """
    frames = data.spec.frames
    sound = modality.audio("sound", frames * data.hop, data.rate, field="audio" if table else "")
    if codes:
        sound = modality.vector("sound", frames, data.dim, field="sound_codes")
    words = modality.text("text", length, vocab, field="text" if table else "caption")
    more = () if table else (*known(data.spec), modality.label("sounds", data.spec.events + 1))
    return (video(data, codes), sound, words, *more)


def eos_text(shape: TransformerConfig, length: int, vocab: int = VOCAB) -> TextEncoder:
    """CLIP's text encoder: causal, pooled at EOS."""
    return TextEncoder(shape, vocab=vocab, length=length, causal=True, pool="eos")


def clip_b32() -> tuple[VideoEncoder, TextEncoder]:
    """CLIP's ViT-B/32 of each frame alone, and its text encoder; its weights are replaced by our initial ones."""
    image, patch = variant("B/32", scan=True, remat=True, activation="quick_gelu")
    words = TransformerConfig(width=512, depth=12, heads=8, scan=True, remat=True, activation="quick_gelu")
    return VideoEncoder(ImageEncoder(image, patch=patch, pool="cls", pre_norm=True)), eos_text(words, 77, 49_408)


def experiment(
    data: ClipData, parts: tuple[modality.Modality, ...], system: Any, evals: tuple[Any, ...], *, steps: int,
    batch: int = 64, lr: float = 2e-3, vocab: int = VOCAB,
) -> Experiment:  # fmt: skip
    return Experiment(
        system, Data(data, parts, Tokenizer(vocab, kind="word"), batch_size=batch), phases=(Phase(steps=steps),),
        optim=Optim(lr=lr, warmup=min(100, steps // 10)), evals=evals, train=Train(log_every=50),
    )  # fmt: skip
