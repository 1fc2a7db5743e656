"""MGCA: radiographs and reports aligned as wholes, token by token, and by prototypes (Wang et al., NeurIPS 2022)

Multi-Granularity Cross-modal Alignment for Generalized Medical Visual Representation Learning, arXiv 2210.06044.
    python -m experiments.train mgca
    python -m experiments.prove mgca
A user's own Table or Folder needs an image and its report (column caption) in each record; without the field owner leave Pointing out of the
evals. The synthetic images hold findings at places of a grid, and a report names each of them.
"""

from dataclasses import replace
from typing import Any

from mmrep import modality
from mmrep.config import Arm, Data, Expect, Experiment, Optim, Phase, Proof, Rule, Tokenizer, Train
from mmrep.data.things import Things
from mmrep.evals.grounding import Pointing
from mmrep.evals.precision import Precision
from mmrep.evals.suite import Retrieval
from mmrep.nn.config import TransformerConfig, variant
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.nn.encoders.regions import RegionTower
from mmrep.nn.encoders.text import TextEncoder
from mmrep.systems.contrastive.mgca import WARM, Config
from mmrep.systems.contrastive.mgca.evals import SamePrototype

SIZES = ("tiny", "small", "paper")
EVALS = (
    Retrieval("image", "text"),
    Retrieval("text", "image"),
    Precision("image", "image", "labels", name="same finding"),
    SamePrototype(),
)


def patients(n: int, tests: int, places: int = 9, **options: Any) -> Things:
    """Two to four of 16 findings, each of four grades, at random places; reports name them by one of two synonyms, with words of no finding."""
    return Things(n, tests, tests, (16, 4), objects=4, absent=2, places=places, synonyms=2, fillers=3, **options)


def experiment(
    system: Config, source: Things, image: modality.Modality, *, warm: int, steps: int, batch: int, lr: float, evals: tuple = (*EVALS, Pointing()),
    **optim: Any,
) -> Experiment:  # fmt: skip
    """`warm` steps with frozen prototypes, then `steps`."""
    text = system.text
    parts = (image, modality.text("text", text.length, text.vocab))
    phases = (Phase("warm", warm, trainable=WARM), Phase("all", steps))
    return Experiment(
        system, Data(source, parts, Tokenizer(text.vocab, kind="word"), batch_size=batch), phases,
        Optim(lr=lr, warmup=max(1, min(warm, steps) // 4), **optim), evals, Train(log_every=50),
    )  # fmt: skip


def pictures(n: int, tests: int, side: int, patch: int, places: int = 9) -> tuple[Things, modality.Modality]:
    return patients(n, tests, places, picture=(side, side)), modality.image(
        "image", (side, side), field="picture", patch=patch
    )


def get_config(size: str = "small") -> Experiment:
    if size == "tiny":
        shape = TransformerConfig(width=16, depth=1, heads=2)
        text = TextEncoder(replace(shape, norm="post"), vocab=64, length=14, pool="cls")
        system = Config(ImageEncoder(shape, patch=6, pool="cls"), text, 16, prototypes=6)
        return experiment(system, *pictures(64, 16, 18, 6), warm=2, steps=4, batch=8, lr=1e-3)
    if size == "small":
        shape = TransformerConfig(width=64, depth=2, heads=4)
        text = TextEncoder(replace(shape, norm="post"), vocab=64, length=14, pool="cls")
        system = Config(ImageEncoder(shape, patch=12, pool="cls"), text, 64, hidden=128, cta=0.1, prototypes=32)
        return experiment(system, *pictures(8000, 500, 36, 12), warm=125, steps=1375, batch=64, lr=1e-3)
    # ViT-B/16 at 224 pixels and BERT-base: 50 epochs of 217,000 pairs of MIMIC-CXR.
    image, patch = variant("B/16", scan=True, remat=True)
    text = TextEncoder(replace(image, norm="post"), vocab=28_996, length=112, pool="cls")
    system = Config(ImageEncoder(image, patch=patch, pool="cls"), text, hidden=2048, dtype="bfloat16")
    large = experiment(
        system, *pictures(217_000, 5000, 224, patch, places=16), warm=1500, steps=73_500, batch=144, lr=2e-5, evals=EVALS,
        weight_decay=0.05, b2=0.999,
    )  # fmt: skip
    return replace(large, sharding=(Rule(".*", "fsdp"),))


def get_proof() -> Proof:
    """Four to six of 16 findings, one a region; a report names each by one word, in random order between two words of no finding."""
    source = Things(4000, 500, 500, (16,), objects=6, absent=2, places=6, synonyms=2, fillers=2, noise=0.5)
    shape = TransformerConfig(width=48, depth=1, heads=4)
    text = TextEncoder(shape, vocab=64, length=source.words + 2, pool="cls")
    regions = modality.vector("image", source.regions, source.dim, field="regions")
    mgca = Config(RegionTower(shape, blocks=False), text, 128, cta=0.1, prototypes=24)
    learned = ("image.*", "text(?!/encoder/positions).*")

    def arm(name: str, **changes: Any) -> Arm:
        made = experiment(replace(mgca, **changes), source, regions, warm=100, steps=800, batch=64, lr=2e-3)
        warm, whole = made.phases
        phases = replace(warm, trainable=learned), replace(whole, trainable=(*learned, "prototypes"))
        return Arm(name, replace(made, phases=phases))

    recall, same = "image->text R@1", "prototypes same"
    return Proof(
        claim="Token-wise alignment makes words point to what they name, and prototypes give image and report of a patient one cluster.",
        metric="pointing accuracy",
        arms=(arm("MGCA"), arm("ITA", cta=0.0, cpa=0.0), arm("shuffled", shuffled=True)),
        expects=(
            Expect(better="MGCA", worse="ITA", margin=0.13, statement="words point to their finding 13 points more often than with whole inputs alone"),
            Expect(better="MGCA", worse="MGCA/pointing chance", margin=0.14, statement="and 14 points more often than by chance"),
            Expect(better=f"MGCA/{recall}", worse=f"ITA/{recall}", slack=0.08, margin=-0.08, statement="retrieval loses at most 8 points"),
            Expect(
                better=f"MGCA/{same}", worse=f"shuffled/{same}", margin=0.25,
                statement="image and report have one prototype more often than with shuffled pairs in the prototype loss",
            ),
            Expect(better=f"MGCA/{same}", worse=f"ITA/{same}", margin=0.03, headline=False, statement="and than without that loss, where pairs are alike as well"),
            Expect(
                better="MGCA/same finding mAP", worse="ITA/same finding mAP", headline=False,
                statement="prototypes join patients of one finding (not expected)",
            ),
        ),
        seeds=(10, 11, 12),
        data="made findings (noisy codes in the place of pixels)",
        notes="The weight of the token loss is 0.1, not the paper's 0.7, which in a short run drowns the other losses. The loss compares tokens of one example "
        "only: with two words for a finding it pushes them to different regions, and empty regions, positions of words and attention among regions each "
        "let it fall without words pointing to what they name. Here a finding has one word, regions are encoded alone, and the positions of words, "
        "whose order is random, stay as they were drawn. Without the token loss tokens have the heads of whole inputs.",
    )  # fmt: skip
