"""Emoji: contrastive learning of pictures, names in 12 languages and speech of 1,300 concepts

Three encoders and CLIP's loss over all three pairs (Radford et al. 2021, arXiv 2103.00020; the pairwise baseline of Symile, arXiv 2411.01053).
    make train
    python -m experiments.train emoji --size locked    # frozen EfficientNet-Lite0 and MiniLM under linear maps (requirements-pretrained.txt)
The test split was evaluated with two configs: this one, and one whose image encoder has no oriented gradients.
"""

from dataclasses import replace
from typing import Any

from configs.recipes import _emoji_locked
from mmrep import modality
from mmrep.config import Arm, Data, Expect, Experiment, Optim, Phase, Proof, Rule, Tokenizer, Train
from mmrep.data.augment import Colour, Cutout, DropPieces, Warp
from mmrep.data.emoji import CATEGORIES, Emoji
from mmrep.evals.suite import Retrieval, ZeroShot
from mmrep.nn.config import TransformerConfig, variant
from mmrep.nn.encoders.audio import AudioEncoder
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.nn.encoders.ngram import NgramEncoder
from mmrep.nn.encoders.sketch import SketchEncoder
from mmrep.nn.encoders.text import TextEncoder
from mmrep.systems.contrastive.symile import Config
from mmrep.systems.recipes.emoji import HeldVoice, RidgeBaseline

SIZES = ("tiny", "small", "paper", "locked")
SIDES = ("image", "text", "speech")
LENGTH, VOCAB, SECONDS = 48, 4096, 1.5  # characters of a text, different ones, the longest speech
SPEECH = AudioEncoder(TransformerConfig(width=64, depth=1, heads=4), n_fft=512, hop=320, n_mels=48)
# A mirror image keeps its name but for arrows and hands that point, a few of the 1,300 concepts.
PICTURE = (Warp(16.0, (0.8, 1.12), 1.16, 0.12, 0.08, mirror=0.5), Colour(0.08, 0.2, 0.24, 12.0, 0.1), Cutout(0.35, 0.3))


def text_in(language: str) -> tuple[tuple[str, str], ...]:
    return (("text", f"text_{language}"),)


UNSEEN_VOICE = (("speech", "speech_en_unseen_voice"),)
PAIRS = tuple(
    Retrieval(a, b) for a, b in (
        ("image", "text"), ("text", "image"), ("speech", "image"), ("image", "speech"), ("speech", "text"), ("text", "speech"),
    )
)  # fmt: skip
EVALS = (
    PAIRS[0], RidgeBaseline(), RidgeBaseline(features="gradients"), *PAIRS[1:],
    Retrieval("text", "text", query_fields=text_in("en"), target_fields=text_in("de"), name="English->German text"),
    Retrieval("text", "text", query_fields=text_in("de"), target_fields=text_in("en"), name="German->English text"),
    Retrieval("text", "text", query_fields=text_in("en"), target_fields=text_in("id"), name="English->Indonesian text (not in training)"),
    Retrieval("image", "text", target_fields=text_in("id"), name="image->Indonesian text (not in training)"),
    Retrieval("image", "text", target_fields=text_in("pt"), name="image->Portuguese text (not in training)"),
    Retrieval("speech", "text", query_fields=UNSEEN_VOICE, name="speech->text, voice not in training"),
    Retrieval("speech", "image", query_fields=UNSEEN_VOICE, name="speech->image, voice not in training"),
)  # fmt: skip
FLAGS = (Retrieval("image", "text", split="flags_test", name="flags of regions, image->text"),)
CATEGORY = (ZeroShot(CATEGORIES, "category", name="zero-shot category"),)


def experiment(
    source: Any, system: Config, steps: int, batch: int, optim: Optim, ema: float, evals: tuple, size: int = 32
) -> Experiment:
    parts = (
        modality.image("image", size, augment=PICTURE),
        modality.text("text", LENGTH, VOCAB, augment=(DropPieces(0.1),)),
        modality.audio("speech", int(SECONDS * 16_000)),
    )
    data = Data(source, parts, Tokenizer(VOCAB, "char"), batch, 128)
    return Experiment(
        system, data, (Phase(steps=steps),), optim, evals, Train(ema=ema, log_every=20, checkpoint_every=300)
    )


def get_config(size: str = "small") -> Experiment:
    if size == "tiny":
        speech = AudioEncoder(TransformerConfig(width=32, depth=1, heads=4), n_fft=512, hop=640, n_mels=32)
        encoders = SketchEncoder((16, 32)), NgramEncoder(32, buckets=512), speech
        system = Config(tuple(zip(SIDES, encoders)), 32, "pairwise", smoothing=0.1)
        return experiment(Emoji(size=32, limit=60), system, 4, 8, Optim(), 0.9, (*PAIRS, *CATEGORY))
    if size == "small":
        encoders = SketchEncoder((64, 128)), NgramEncoder(128), SPEECH
        system = Config(tuple(zip(SIDES, encoders)), 128, "pairwise", smoothing=0.1)
        optim = Optim(lr=1.5e-3, warmup=90, weight_decay=0.3)
        return experiment(Emoji(keywords=0.3), system, 1800, 64, optim, 0.99, (*EVALS, *CATEGORY, *FLAGS))
    if size == "locked":
        return _emoji_locked.get_config(SPEECH, int(SECONDS * 16_000))
    image, patch = variant("B/8", scan=True, remat=True)
    shape = replace(image, width=512, heads=8)
    encoders = (
        ImageEncoder(image, patch=patch, pool="map"),
        TextEncoder(shape, vocab=VOCAB, length=LENGTH),
        AudioEncoder(shape, n_mels=80),
    )
    system = Config(tuple(zip(SIDES, encoders)), 512, "pairwise", dtype="bfloat16")
    optim = Optim(lr=5e-4, warmup=2000, weight_decay=0.2)
    whole = experiment(
        Emoji(size=128, keywords=0.3), system, 100_000, 1024, optim, 0.9999, (*EVALS, *CATEGORY, *FLAGS), 128
    )
    return replace(whole, sharding=(Rule(".*", "fsdp"),))


VOICE = "en_linda"
SEEN = tuple(
    Retrieval(a, b, "train", **{side: (("speech", f"speech_{VOICE}"),)}, name=f"seen concepts {a}->{b}")
    for a, b, side in (("speech", "image", "query_fields"), ("image", "speech", "target_fields"))
)


def pivot(shuffled: bool = False) -> Experiment:
    """A quick training on few concepts, in which pictures and English names are contrasted, and names and speech, without one voice.

    Nothing is augmented: the concepts of the evaluation are those of the training.
    """
    english = Emoji(languages=("en",), speech_languages=("en",), english=1.0, keywords=0.3, variants=False, limit=300)
    encoders = SketchEncoder((48, 96)), NgramEncoder(96), SPEECH
    system = Config(tuple(zip(SIDES, encoders)), 96, "pairwise", pairs=(("image", "text"), ("text", "speech")))
    e = experiment(
        HeldVoice(english, VOICE, shuffled), system, 400, 64, Optim(lr=1e-3, warmup=25, weight_decay=0.1), 0.98, SEEN
    )
    return replace(e, data=replace(e.data, modalities=tuple(replace(m, augment=()) for m in e.data.modalities)))


def get_proof() -> Proof:
    there, back = (f"seen concepts {way} " for way in ("speech->image", "image->speech"))
    return Proof(
        "Pictures and speech that are never paired in training meet through text: speech in a voice that training lacks finds the pictures of its concepts.",
        f"{there}R@10",
        (Arm("pivot", pivot()), Arm("shuffled", pivot(shuffled=True))),
        (
            Expect("pivot", f"pivot/{there}chance_R@10", 0.2, "speech finds pictures: above chance"),
            Expect(f"pivot/{back}R@10", f"pivot/{back}chance_R@10", 0.14, "and pictures find speech"),
            Expect("pivot", "shuffled", 0.2, "above training in which names link pictures and speech of different concepts"),
            Expect(f"pivot/{back}R@10", f"shuffled/{back}R@10", 0.14, "and so in the other direction"),
        ),
        seeds=(10, 11, 12),
        data="real (emoji; speech is synthetic)",
        notes="Equal encoders, steps and data, about 220 concepts. The loss contrasts pictures with English names and names with speech alone (cf. ImageBind, "
        "2305.05665). Of the concepts seen in training, a voice is left out. With shuffled clips the names that pictures and speech share are of different "
        "concepts. Concepts that training lacks are no part of the proof: in a pilot they were hardly above chance.",
    )  # fmt: skip
