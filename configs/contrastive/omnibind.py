"""OmniBind: spaces of many specialists bound into one by projectors and routers (Wang et al., ICLR 2025)

OmniBind: Large-scale Omni Multimodal Representation via Binding Spaces, arXiv 2407.11895.
    python -m experiments.train omnibind
    python -m experiments.prove omnibind
On your own data: data.source = PseudoTuples(Stored(train=(("audio_clap", "corpora/audio_clap"), ...), test=(...), unpaired=True), experts), a folder of
experiments.embed or an .npy array for each modality and expert, named <modality>_<expert>: nothing is paired in train, rows are in test.
"""

from typing import Any

from mmrep import modality
from mmrep.config import Arm, Data, Expect, Experiment, Optim, Phase, Proof, Rule, Train
from mmrep.systems.contrastive.omnibind import Config, Expert
from mmrep.systems.contrastive.omnibind.data import PseudoTuples, Specialists
from mmrep.systems.contrastive.omnibind.evals import AllPairs
from mmrep.systems.contrastive.omnibind.model import field

SIZES = ("tiny", "small", "paper")
GOOD, BAD = 0.2, 2.0
RIGHT = (("tones", "solids"), ("beats", "colours"), ("shapes",))


def bound(
    experts: tuple[Expert, ...], hears: dict[str, tuple[float, ...]], *, n: int, tests: int, batch: int, project: int, route: int,
    lr: float = 1e-3, inputs: tuple[tuple[str, tuple[str, ...]], ...] = (), shuffled: bool = False, right: Any = (), width: int = 5,
    **sizes: Any,
) -> Experiment:  # fmt: skip
    """The projectors, then the routers, on tuples that are mined from unpaired items."""
    source = Specialists(experts, tuple(hears.items()), width, n_train=n, n_val=tests, n_test=tests)
    system = Config(experts, inputs=inputs, **sizes)
    parts = tuple(modality.vector(field(m, e.name), e.dim) for e in experts for m in e.modalities)
    start = modality.label("start", len(system.modalities))
    first = Config(experts, inputs=inputs, **sizes | {"stage": "project"})
    return Experiment(
        system, Data(PseudoTuples(source, experts, shuffled=shuffled), (*parts, start), batch_size=batch, eval_batch_size=500),
        phases=(Phase("project", project, trainable=("project/.*",), system=first), Phase("route", route, trainable=("route/.*",))),
        optim=Optim(lr=lr, warmup=min(20, project // 4)), evals=(AllPairs(topic="topic" if right else "", right=right),),
        train=Train(log_every=50),
    )  # fmt: skip


def specialists(dim: int = 32, base: int = 48) -> tuple[tuple[Expert, ...], dict[str, tuple[float, ...]]]:
    """Five experts, each with little noise on one of three groups of attributes, and a base with much noise on all of them."""
    experts = (
        Expert("base", base, ("image", "text")), Expert("tones", dim, ("audio", "text")), Expert("beats", dim, ("audio", "text")),
        Expert("colours", dim, ("image", "text")), Expert("shapes", dim, ("image", "text")), Expert("solids", dim, ("points", "text")),
    )  # fmt: skip
    best = {"tones": 0, "beats": 1, "colours": 1, "shapes": 2, "solids": 0}
    hears = {name: tuple(GOOD if g == of else BAD for g in range(3)) for name, of in best.items()}
    return experts, hears | {"base": (0.8, 0.8, 0.8)}


def made(project: int = 400, route: int = 400, n: int = 3000, tests: int = 500, **changes: Any) -> Experiment:
    sizes: dict[str, Any] = {"copies": 2, "hidden": 64, "router": (64, 32), "decouple": 0.1}
    return bound(
        *specialists(), n=n, tests=tests, batch=min(128, n // 4), project=project, route=route, lr=2e-3, right=RIGHT, **sizes | changes
    )  # fmt: skip


def get_config(size: str = "small") -> Experiment:
    if size == "tiny":
        return made(4, 4, n=48, tests=16, hidden=16, router=(16, 8))
    if size == "small":
        return made(800, 1000, n=6000, copies=3, hidden=128)
    # The Full model's experts: four of audio and one of music, four of images, three of shapes, ImageBind, and EVA-CLIP-18B as the base.
    audio, image, points = (
        ("clap", "music", "wavcaps", "audiocaps", "clotho"),
        ("dfn", "eva", "siglip", "so400m"),
        ("unil", "unim", "unis"),
    )
    dims = dict(zip((*audio, *image, *points), (512, 512, 1024, 1024, 1024, 1024, 1024, 1024, 1152, 1024, 1024, 1024)))
    experts = (
        Expert("base", 1536, ("image", "text")), *(Expert(n, dims[n], ("audio", "text")) for n in audio),
        *(Expert(n, dims[n], ("image", "text")) for n in image), *(Expert(n, dims[n], ("points", "image", "text")) for n in points),
        Expert("imagebind", 1024, ("audio", "image", "text")),
    )  # fmt: skip
    hears = {e.name: tuple(GOOD if g == i % 3 else BAD for g in range(3)) for i, e in enumerate(experts)}
    inputs = (
        ("audio", ("wavcaps",)),
        ("image", ("so400m",)),
        ("points", ("unil",)),
        ("text", ("wavcaps", "so400m", "unil")),
    )
    large = bound(experts, hears, n=20_000, tests=1000, batch=1024, project=10_000, route=5000, inputs=inputs, width=64)
    return Experiment(large.system, large.data, large.phases, large.optim, large.evals, sharding=(Rule(".*", "fsdp"),))


def get_proof() -> Proof:
    metric = "mean R@10"
    return Proof(
        claim="Projected specialists, weighted by routers, retrieve better than their equal mixture and than any one of them, also between "
        "modalities that no expert and no pair connects.",
        metric=metric,
        arms=(
            Arm("omnibind", made()), Arm("constant weights", made(routing="constant")), 
            Arm("shuffled tuples", made(shuffled=True)),
        ),
        expects=(
            Expect(better="omnibind", worse="omnibind/uniform mean R@10", margin=0.01, statement="routed, the mean over six pairs gains a point over equal weights"),
            Expect(
                better="omnibind/text R@10", worse="omnibind/expert text R@10", margin=0.03,
                statement="and with texts 3 points over the best single expert of each pair",
            ),
            Expect(better="omnibind/audio-points R@10", worse="omnibind/chance", margin=0.04, statement="sounds and shapes, which no expert has in common, find each other"),
            Expect(better="omnibind", worse="shuffled tuples", margin=0.06, statement="tuples of shuffled items do not bind the spaces"),
            Expect(better="omnibind", worse="constant weights", headline=False, statement="learned weights that are equal for all inputs are expected to do as well"),
            Expect(better="omnibind/text R@10", worse="omnibind/uniform text R@10", headline=False, statement="the gain is not expected for pairs with text"),
        ),
        seeds=(10, 11, 12),
        data="made embeddings of specialists",
        notes="Projectors, routers and mining are the paper's; the form of the decoupling loss is reconstructed, and its weight here 0.1. Seed 200: routed 0.255, "
        "equal weights 0.234; with texts 0.165 and the best expert of each pair 0.101; sounds and shapes 0.095 at a chance of 0.02; margins are about half. The "
        "gain over equal weights is between modalities other than text: a text's weight on the experts of its topic is 0.29, as at equal weights, so that "
        "a choice for each sample is not shown.",
    )  # fmt: skip
