"""OneEncoder: modalities aligned one after the other through a frozen universal projection (Faye et al., 2024)

OneEncoder: A Lightweight Framework for Progressive Alignment of Modalities, arXiv 2409.11059.
    python -m experiments.train oneencoder
    python -m experiments.prove oneencoder
On your own data: --data.source a Table with the columns image, text and speech; weights of frozen encoders by Phase.start, e.g.
Pretrained(file="vit", parts=(("", "encoder_image/"),)). Without them the frozen encoders are random.
"""

from dataclasses import replace
from typing import Any

from mmrep import modality
from mmrep.config import Arm, Data, Expect, Experiment, Optim, Phase, Proof, Rule, Tokenizer, Train
from mmrep.data.emoji import Emoji
from mmrep.data.views import View, Views
from mmrep.evals.suite import Retrieval
from mmrep.nn.config import TransformerConfig, variant
from mmrep.nn.encoders.audio import AudioEncoder
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.nn.encoders.regions import RegionTower
from mmrep.nn.encoders.text import TextEncoder
from mmrep.systems.contrastive.oneencoder import UP, Config

SIZES = ("tiny", "small", "paper")
BASE = ("head_(image|text)/.*", "token_(image|text)/.*", "tokenmap_base/.*", "up/.*")


def added(name: str) -> tuple[str, ...]:
    return tuple(f"{part}_{name}/.*" for part in ("head", "token", "tokenmap"))


def phases(config: Config, name: str, against: str, *, base: int, add: int, unfrozen: bool = False, data: Any = None) -> tuple[Phase, ...]:  # fmt: skip
    """Image and text first; then modality `name` against `against`, all else frozen (`unfrozen`: the projection is trained, an ablation)."""
    later = replace(config, pair=(name, against), learns=(name,))
    return (
        Phase("base", base, trainable=BASE),
        Phase(name, add, data=data, system=later, trainable=(*added(name), *(("up/.*",) if unfrozen else ()))),
    )


def spoken(
    image: ImageEncoder, text: TextEncoder, speech: AudioEncoder, up: TransformerConfig, *, size: int, seconds: float, base: int, add: int,
    batch: int, limit: int = 0,
) -> Experiment:  # fmt: skip
    """Pictures and names of emoji, then speech through the names: speech is never paired with a picture."""
    config = Config((("image", image), ("text", text), ("speech", speech)), up)
    source = Emoji(
        size=size,
        languages=("en",),
        speech_languages=("en",),
        english=1.0,
        match_language=True,
        seconds=seconds,
        limit=limit,
    )
    parts = (
        modality.image("image", size), modality.text("text", text.length, text.vocab),
        modality.audio("speech", int(16_000 * seconds), 16_000),
    )  # fmt: skip
    evals = tuple(Retrieval(q, t) for q, t in (("image", "text"), ("speech", "text"), ("speech", "image")))
    return Experiment(
        config, Data(source, parts, Tokenizer(min(text.vocab, 1024), kind="unigram"), batch_size=batch),
        phases=phases(config, "speech", "text", base=base, add=add), optim=Optim(lr=1e-3, weight_decay=1e-3), evals=evals, train=Train(log_every=50),
    )  # fmt: skip


def vectors(
    against: str = "image", unfrozen: bool = False, base: int = 400, add: int = 300, source: Views | None = None, **changes: Any
) -> Experiment:  # fmt: skip
    """Three sensors of one latent vector; audio is aligned with `against` on 1,500 pairs."""
    views = source or Views(tuple(View(n, 16, tokens=5, noise=0.4) for n in ("image", "text", "audio")))
    frozen = RegionTower(TransformerConfig(width=32, depth=1, heads=2), blocks=False)
    up = TransformerConfig(width=32, depth=1, heads=4, mlp_dim=64, norm="post", activation="relu")
    config = Config(tuple((n, frozen) for n in ("image", "text", "audio")), up, **changes)
    few = replace(views, draw=1, n_train=min(1500, views.n_train))
    evals = tuple(Retrieval(q, t) for q, t in (("audio", "text"), ("audio", "image"), ("image", "text")))
    parts = tuple(modality.vector(n, 5, 16) for n in ("image", "text", "audio"))
    return Experiment(
        config, Data(views, parts, batch_size=min(128, views.n_train // 8)), phases=phases(config, "audio", against, base=base, add=add, unfrozen=unfrozen, data=few),
        optim=Optim(lr=1e-2, weight_decay=1e-3), evals=evals, train=Train(log_every=50),
    )  # fmt: skip


def get_config(size: str = "small") -> Experiment:
    if size == "tiny":
        source = Views(tuple(View(n, 16, tokens=5) for n in ("image", "text", "audio")), 64, 16, 16)
        return vectors(base=4, add=4, source=source)
    if size == "small":
        shape = TransformerConfig(width=96, depth=2, heads=4)
        up = replace(UP, width=64, mlp_dim=256)
        return spoken(
            ImageEncoder(shape, patch=8), TextEncoder(shape, vocab=1024, length=32), AudioEncoder(shape, n_mels=40, strides=(2, 2)), up,
            size=32, seconds=1.0, base=1500, add=800, batch=64,
        )  # fmt: skip
    # Frozen ViT-B/16, BERT-base and an audio transformer of wav2vec 2's size.
    image, patch = variant("B/16", scan=True)
    wide = TransformerConfig(width=768, depth=12, heads=12, scan=True)
    large = spoken(
        ImageEncoder(image, patch=patch, pool="cls"), TextEncoder(wide, vocab=30_522, length=128), AudioEncoder(wide), UP,
        size=224, seconds=10.0, base=400_000, add=100_000, batch=64,
    )  # fmt: skip
    return replace(large, sharding=(Rule(".*", "fsdp"),))


def get_proof() -> Proof:
    transitive, kept = "audio->text R@1", "image->text R@1"
    return Proof(
        claim="A new modality that is aligned with one modality through the frozen projection is aligned with the other, without a pair of them; "
        "what was aligned before stays.",
        metric=transitive,
        arms=(
            Arm("through images", vectors()), Arm("direct", vectors("text")), Arm("unfrozen", vectors(unfrozen=True)),
            Arm("no token", vectors(token=False)),
        ),
        expects=(
            Expect(better="through images", worse=0.1, statement="audio finds its text without any such pair (chance 0.002)"),
            Expect(
                better="through images", worse="direct", margin=-0.08, slack=0.08,
                statement="nearly as well as after direct pairs: 8 points less at most",
            ),
            Expect(
                better=f"through images/{kept}", worse=f"unfrozen/{kept}", margin=0.12,
                statement="with the projection trained further, image and text drift apart",
            ),
            Expect(
                better=f"through images/{kept}", worse=f"direct/{kept}", slack=1e-9, margin=-1e-9, headline=False,
                statement="frozen, their retrieval is the same whatever is added",
            ),
            Expect(
                better="through images", worse="no token", margin=0.01, headline=False, statement="the modality token helps (not expected at this size)"
            ),
        ),
        seeds=(10, 11, 12),
        data="one latent vector seen by three sensors of five tokens; frozen random encoders",
        notes="4,000 pairs of image and text, 1,500 of audio and image; 5,700 numbers are trained for audio, about a sixth of all.",
    )  # fmt: skip
