"""CreamFL: a server and clients of other modalities learn from each other's representations (Yu et al., ICLR 2023)

Multimodal Federated Learning via Contrastive Representation Ensemble, arXiv 2302.08888.
    python -m experiments.train creamfl
    python -m experiments.prove creamfl
On your own data: data.source = Federated(public, (("a", Filtered(table, "client", ("hospital a",))), ...)), Tables with the columns image
and caption, label for clients of one modality, and one in `extra` that names the client; system.public is the number of public records.
"""

from dataclasses import replace
from typing import Any

from mmrep import modality
from mmrep.config import Arm, Data, Expect, Experiment, Optim, Proof, Rule, Tokenizer, Train
from mmrep.data.things import Things
from mmrep.data.views import View, Views
from mmrep.evals.suite import Retrieval
from mmrep.nn.config import TransformerConfig, variant
from mmrep.nn.encoders.conv import ConvEncoder
from mmrep.nn.encoders.gru import GruText
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.nn.encoders.text import TextEncoder
from mmrep.nn.encoders.vector import VectorEncoder
from mmrep.systems.continual.creamfl import Client, Config
from mmrep.systems.continual.creamfl.data import Federated, Filtered
from mmrep.systems.continual.creamfl.evals import Trust
from mmrep.systems.continual.creamfl.rounds import Aggregate, Broadcast, rounds

SIZES = ("tiny", "small", "paper")
EVALS = (Retrieval("image", "text", two_way=True), Trust())
SHARP = Aggregate(0.1)


# fmt: off
def pictures(
    image: ImageEncoder, text: TextEncoder, conv: ConvEncoder, gru: GruText, kinds: tuple[str, ...], *, size: tuple[int, int], public: int,
    private: int, tests: int, dim: int, batch: int, steps: int, count: int, participants: int = 0, lr: float = 1e-3,
) -> Experiment:  # fmt: skip
    """Clients of `kinds` ("image", "text", "both") with half of the classes each; the server's encoders are transformers, theirs are smaller."""
    world = Things(public, tests, tests, factors=(8,) * 4, picture=size)
    clients, sources = [], []
    parts = [modality.image("image", size, field="picture", patch=image.patch), modality.text("text", text.length, text.vocab)]
    for k, kind in enumerate(kinds):
        name, some = f"c{k}", tuple((k + j) % 8 for j in range(4))
        sources.append((name, Filtered(replace(world, n_train=2 * private, seed=1 + k), "label", some)))
        encoders = conv if kind != "text" else None, gru if kind != "image" else None
        clients.append(Client(name, *encoders, classes=0 if kind == "both" else 8))
        if kind != "text":
            parts.append(modality.image(f"{name}_image", size, field=f"{name}_picture"))
        if kind != "image":
            parts.append(modality.text(f"{name}_text", text.length, text.vocab))
        if kind != "both":
            parts.append(modality.label(f"{name}_label", 8))
    parts.append(modality.label("row", max(public, tests)))
    system = Config(image, text, tuple(clients), public, dim)
    return Experiment(
        system, Data(Federated(world, tuple(sources)), tuple(parts), Tokenizer(text.vocab, kind="word"), batch_size=batch),
        phases=rounds(system, count, server=steps, private=steps, contrast=steps, distil=steps, broadcast=Broadcast(participants)),
        optim=Optim(lr=lr, warmup=min(5, steps), weight_decay=0.0), evals=EVALS, train=Train(log_every=50),
    )  # fmt: skip

# fmt: on


def get_config(size: str = "small") -> Experiment:
    kinds = ("image", "text", "both")
    if size == "tiny":
        shape = TransformerConfig(width=16, depth=1, heads=2)
        return pictures(
            ImageEncoder(shape, patch=4), TextEncoder(shape, vocab=64, length=8), ConvEncoder((8,)), GruText(8, 64), kinds, size=(8, 8),
            public=24, private=16, tests=16, dim=16, batch=8, steps=2, count=1,
        )  # fmt: skip
    if size == "small":
        shape = TransformerConfig(width=64, depth=2, heads=4)
        return pictures(
            ImageEncoder(shape, patch=8), TextEncoder(shape, vocab=64, length=8), ConvEncoder((16, 32)), GruText(32, 64), kinds * 2,
            size=(32, 32), public=1000, private=600, tests=500, dim=64, batch=64, steps=60, count=4,
        )  # fmt: skip
    # 50,000 public pairs, ViT-B/16 and BERT-base; the 10 clients that take part in a round: 3 of images, 3 of texts, 4 of both.
    shape, patch = variant("B/16", scan=True, remat=True)
    words = TransformerConfig(width=768, depth=12, heads=12, norm="post", scan=True, remat=True)
    large = pictures(
        ImageEncoder(shape, patch=patch, pool="cls"), TextEncoder(words, vocab=30_522, length=32, pool="cls"),
        ConvEncoder((64, 128, 256, 512), blocks=2, stem_stride=4), GruText(256, 30_522, words=300), (*kinds, *kinds, *kinds, "both"),
        size=(224, 224), public=50_000, private=10_000, tests=5000, dim=256, batch=128, steps=390, count=30, lr=2e-4,
    )  # fmt: skip
    return replace(large, sharding=(Rule(".*", "fsdp"),))


# fmt: off
def vectors(*, gather: Aggregate = SHARP, alone: bool = False, count: int = 5, steps: int = 60, **changes: Any) -> Experiment:
    """300 public pairs of four classes; four clients of 600 pairs and four classes each, and one of images and one of texts alone."""
    views = tuple(View(m, 32, noise=0.6, private=8, bend=1.0) for m in ("image", "text"))
    world = Views(views, 300, 300, 500, classes=8, only=(0, 1, 2, 3))
    new, classes = (4, 5, 6, 7), {"a": (4, 5, 6, 7), "b": (2, 3, 4, 5), "c": (0, 1, 6, 7), "d": (1, 3, 5, 7)}
    server, modest = VectorEncoder((128,)), VectorEncoder((48,))
    clients, sources, parts = [], [], [modality.vector("image", 32), modality.vector("text", 32)]
    for k, (name, only) in enumerate((classes | {"i": new, "t": new}).items()):
        sources.append((name, replace(world, n_train=600, only=only, draw=k + 1)))
        clients.append(client := Client(name, modest if name != "t" else None, modest if name != "i" else None, 0 if name in classes else 8))
        parts += [modality.vector(f"{name}_{m}", 32) for m in client.encoders]
        parts += [modality.label(f"{name}_label", 8)] if client.classes else []
    system = replace(Config(server, server, tuple(clients), 300, 32, objective="infonce", temperature=0.1), **changes)
    own = dict.fromkeys(("private", "contrast", "distil"), 0 if alone else steps)
    return Experiment(
        system, Data(Federated(world, tuple(sources), replace(world, only=())), (*parts, modality.label("row", 500)), batch_size=100, eval_batch_size=500),
        phases=rounds(system, count, server=2 * steps if alone else steps, **own, gather=gather),
        optim=Optim(lr=2e-3, weight_decay=0.0), evals=EVALS, train=Train(log_every=100),
    )  # fmt: skip

# fmt: on


def get_proof() -> Proof:
    metric = "R@10"
    few: tuple[str, ...] = ("c", "d")
    broken = Aggregate(0.1, broken=few)

    faulty = replace(vectors(gather=broken), evals=(*EVALS[:-1], Trust(few)))
    return Proof(
        claim="A server learns of classes that only its clients have from their features of public samples, needs the contrast between "
        "modalities for it, and gives little weight to clients whose features are noise.",
        metric=metric,
        arms=(
            Arm("creamfl", vectors()), Arm("server alone", vectors(alone=True)), Arm("no inter", vectors(inter=False)),
            Arm("broken", faulty),
        ),
        expects=(
            Expect(better="creamfl", worse="server alone", margin=0.1, statement="the server retrieves all classes better than from the public pairs alone"),
            Expect(better="creamfl", worse="no inter", margin=0.03, statement="and better than without the contrast between modalities"),
            Expect(better=0.1, worse="broken/trust of few", statement="two of five clients that return noise have at most a tenth of the weight"),
        ),
        seeds=(10, 11, 12),
        data="one latent vector of eight classes, seen by two sensors",
        notes="300 public pairs of four classes; four clients of 600 pairs and one of images and one of texts, with four classes each; tests have all "
        "eight. Equal steps of the server. Seed 200 had R@10 0.256, 0.059 for the server alone, 0.177 without the contrast of modalities, and a weight "
        "of 0.015 for the broken clients; margins are about half. In the plan's pilots weights by agreement were no better than equal ones for "
        "retrieval. The temperature of the weights is 0.1; at the authors' 1 they are nearly equal.",
    )  # fmt: skip
