"""Mod-X: one domain after another, keeping off-diagonal similarities (Ni et al., ICML 2023)

Continual Vision-Language Representation Learning with Off-Diagonal Information, arXiv 2305.07437.
    python -m experiments.train modx
    python -m experiments.prove modx    beside other jobs (not timed idle): does not hold. R@1 of the first domain at the end, means of 3 seeds:
        Mod-X .054, plain .100, distilling the diagonal alone .198, without screening .186; after the second domain Mod-X keeps 13 points more
"""

from dataclasses import replace
from functools import partial

from mmrep import modality
from mmrep.config import Arm, Data, Expect, Experiment, Optim, Phase, Pretrained, Proof, Rule, Tokenizer, Train
from mmrep.data.scenes import CaptionSpec, Joint, SceneData, domain
from mmrep.data.scenes.world import COLOURS, SHAPES
from mmrep.evals.suite import evaluate
from mmrep.nn.config import TransformerConfig, variant
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.nn.encoders.text import TextEncoder
from mmrep.systems.continual.modx import Config, snapshot
from mmrep.systems.continual.modx.data import Domain
from mmrep.systems.continual.modx.evals import Domains, stream_metrics
from mmrep.training import loop

VOCAB, LENGTH = 64, 22
NAMES = ("clean", "texture", "night", "line")
SHAPE = TransformerConfig(width=64, depth=2, heads=4)


def stream(n: int = 3000, n_test: int = 400, size: int = 32) -> Joint:
    """Four domains: the later ones bring new shapes, ground, light and drawing, and the words for them."""
    shapes = {"clean": SHAPES[:4], "texture": SHAPES[8:], "night": SHAPES[:8], "line": SHAPES[:8]}
    worlds = [domain(d, n_objects=(2, 3), shapes=shapes[d], colours=COLOURS[:6]) for d in NAMES]
    return Joint(tuple(
        SceneData(n, n_test, n_test, seed=i, size=size, world=world, caption=CaptionSpec("list"))
        for i, world in enumerate(worlds)
    ))  # fmt: skip


def experiment(source: Joint, system: Config, steps: tuple[int, ...], batch: int, vocab: int = VOCAB) -> Experiment:
    """A phase for each domain, each but the first starting with a snapshot of what the ones before it made."""
    image = source.sources[0].size
    text = modality.text("text", system.text.length, system.text.vocab, "caption")
    phases = tuple(
        Phase(
            name, n, Domain(source, i), begin=snapshot if i else None, system=None if i else replace(system, alpha=0.0)
        )
        for i, (name, n) in enumerate(zip(NAMES, steps))
    )
    data = Data(source, (modality.image("image", image, field="rgb"), text), Tokenizer(vocab, "word"), batch)
    return Experiment(
        system, data, phases, Optim(lr=1e-3, warmup=steps[-1] // 10, weight_decay=0.01), (Domains(NAMES),),
        Train(log_every=50),
    )  # fmt: skip


def get_config(size: str = "small") -> Experiment:
    if size == "tiny":
        shape = TransformerConfig(width=32, depth=2, heads=4)
        system = Config(ImageEncoder(shape, patch=8), TextEncoder(shape, vocab=VOCAB, length=LENGTH), dim=32)
        return experiment(stream(48, 8), system, (4, 2, 2, 2), 8)
    if size == "small":
        image = ImageEncoder(TransformerConfig(width=64, depth=3, heads=4), patch=4)
        system = Config(image, TextEncoder(SHAPE, vocab=VOCAB, length=LENGTH), dim=64)
        return experiment(stream(6000), system, (2000, 500, 500, 500), 64)
    # CLIP ViT-B/32; COCO for the base, then parts of Flickr30K: 35 epochs each, AdamW at 5e-4.
    shape, patch = variant("B/32", scan=True, remat=True)
    text = TextEncoder(replace(shape, width=512, heads=8), vocab=49_408, length=77, causal=True, pool="eos")
    system = Config(ImageEncoder(shape, patch=patch, pool="cls"), text, dim=512, dtype="bfloat16")
    paper = experiment(stream(100_000, 5000, 224), system, (14_000, 760, 760, 760), 280, 49_408)
    optim = Optim(lr=5e-4, warmup=152, weight_decay=0.1, eps=1e-5)
    return replace(paper, optim=optim, sharding=(Rule(".*", "fsdp"),))


SYSTEM = Config(ImageEncoder(SHAPE, patch=8), TextEncoder(SHAPE, vocab=VOCAB, length=LENGTH), dim=64)
BASE, LATER = 1000, 150


def run(changes: dict[str, float | str | bool], base_steps: int, seed: int, split: str = "test") -> dict[str, float]:
    """The base model, trained once a seed for all arms, then the stream of the other domains, evaluated after each."""
    whole = experiment(stream(), replace(SYSTEM, **changes), (base_steps, LATER, LATER, LATER), 64)
    whole = replace(whole, train=replace(whole.train, seed=seed), evals=())
    base = replace(whole, system=replace(SYSTEM, alpha=0.0), phases=(replace(whole.phases[0], system=None),))
    first = replace(whole.phases[1], start=(Pretrained(base),))
    later = replace(whole, phases=(first, *whole.phases[2:]), evals=(Domains(NAMES, split),))
    later = replace(later, train=replace(later.train, eval_every=LATER))
    after, before = loop.train(later, progress=False, evaluate=evaluate), loop.pretrained(base)
    return stream_metrics(NAMES, before, after, after.rows, split)


def get_proof() -> Proof:
    def arm(name: str, **changes: float | str | bool) -> Arm:
        return Arm(name, run=partial(run, changes, BASE))

    arms = (arm("plain", alpha=0.0), arm("modx"), arm("diagonal", distil="diagonal"), arm("unscreened", screen=False))
    second = f"R@1 {NAMES[0]} after {NAMES[1]}"
    expects = (
        Expect(0.6, "plain/kept", 0.0, "plain training keeps less than 60 % of the first domain's R@1: there is something to lose"),
        Expect("modx", "plain/1.5 x R@1 first", 0.0, "Mod-X keeps at least 1.5 times the R@1 that plain training keeps there"),
        Expect("modx/R@1 mean", "plain/R@1 mean", 0.05, "and has 5 points more over all domains"),
        Expect("modx/R@1 newest + 3 points", "plain/R@1 newest", 0.0, "while each new domain is learnt as well, within 3 points"),
        Expect("modx", "diagonal", 0.0, "the off-diagonal does it: distilling only the cosines of true pairs keeps less"),
        Expect(0.7, "modx/teacher right", 0.0, "the teacher is wrong on more than 30 % of the new domains' rows", False),
        Expect("modx/R@1 mean", "unscreened/R@1 mean", 0.0, "leaving those out helps", False),
        Expect(f"modx/{second}", f"plain/{second}", 0.05, "after the second domain alone, Mod-X has kept 5 points more of the first", False),
    )  # fmt: skip
    return Proof(
        "On a stream of domains, distilling the old model's similarity matrix keeps the first domain's retrieval and lets the new ones in.",
        "R@1 first", arms, expects,
        notes=f"{BASE} steps on the first domain (the base model, shared by the arms of a seed), then {LATER} on each of three more. R@1 is the mean of "
        "both directions, each domain among its own 400 test pairs, after the last phase. On the val split (base of 1500 steps) alpha was 0, 5 and 20: first "
        "domain .09, .05, .05 at the end, but .35, .53, .58 after the second domain; at night, the third, the old model finds nothing (R@1 .002), "
        "so there is nothing to distil. alpha stays at the authors' 20, and the last expectation comes from that look. Feature distillation, a sharper temperature "
        "and joint training were planned as arms and left out for time.",
    )  # fmt: skip
