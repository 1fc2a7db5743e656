"""Mod-X: one domain after another, keeping off-diagonal similarities (Ni et al., ICML 2023)

Continual Vision-Language Representation Learning with Off-Diagonal Information, arXiv 2305.07437.
    python -m experiments.train modx
    python -m experiments.prove modx
"""

from dataclasses import replace
from functools import partial

import numpy as np

from mmrep import modality
from mmrep.config import Arm, Data, Expect, Experiment, Optim, Phase, Pretrained, Proof, Rule, Tokenizer, Train
from mmrep.data.scenes import CaptionSpec, Joint, SceneData, domain
from mmrep.data.scenes.world import COLOURS, SHAPES
from mmrep.evals import suite
from mmrep.evals.view import view_of
from mmrep.nn.towers import ImageTower, TextTower
from mmrep.systems.continual.modx import Config, Domain, Domains, forgetting, ram, snapshot
from mmrep.train import loop

VOCAB, LENGTH = 64, 22
NAMES = ("clean", "texture", "night", "line")


def stream(n: int = 3000, n_test: int = 400, size: int = 32) -> Joint:
    """Four domains. No later one shows a shape of the first; ground, light and drawing bring words of their own."""
    shapes = {"clean": SHAPES[:4], "texture": SHAPES[8:], "night": SHAPES[4:8], "line": SHAPES[4:]}
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
        system, data, phases, Optim(lr=1e-3, warmup=max(1, steps[-1] // 10), weight_decay=0.01), (Domains(NAMES),),
        Train(log_every=50),
    )  # fmt: skip


def get_config(size: str = "small") -> Experiment:
    if size == "tiny":
        system = Config(ImageTower(32, 2, 4, 8), TextTower(VOCAB, LENGTH, 32, 2, 4), 32)
        return experiment(stream(48, 8), system, (4, 2, 2, 2), 8)
    if size == "small":
        system = Config(ImageTower(64, 3, 4, 4), TextTower(VOCAB, LENGTH, 64, 2, 4), 64)
        return experiment(stream(6000), system, (2000, 500, 500, 500), 64)
    # CLIP ViT-B/32; COCO for the base, then parts of Flickr30K: 35 epochs each, AdamW at 5e-4.
    text = TextTower(49_408, 77, 512, 12, 8, causal=True, pool="eos", scan=True, remat=True)
    system = Config(ImageTower(768, 12, 12, 32, pool="cls", scan=True, remat=True), text, 512, dtype="bfloat16")
    paper = experiment(stream(100_000, 5000, 224), system, (14_000, 760, 760, 760), 280, 49_408)
    optim = Optim(lr=5e-4, warmup=152, weight_decay=0.1, eps=1e-5)
    return replace(paper, optim=optim, sharding=(Rule(".*", "fsdp"),))


SYSTEM = Config(ImageTower(64, 2, 4, 8), TextTower(VOCAB, LENGTH, 64, 2, 4), 64)
BASE, WEAK, LATER = 1000, 100, 250


def run(changes: dict[str, float | str | bool], base_steps: int, seed: int, split: str = "test") -> dict[str, float]:
    """Base model (trained once a seed for all arms), then the stream: R@1 by phase and domain, forgetting, and RAM angles on the base's domain."""
    system, evals = replace(SYSTEM, **changes), (Domains(NAMES, split),)
    whole = experiment(stream(), system, (base_steps, LATER, LATER, LATER), 64)
    whole = replace(whole, train=replace(whole.train, seed=seed, eval_every=LATER), evals=evals)
    base = replace(
        whole,
        system=replace(SYSTEM, alpha=0.0),
        phases=whole.phases[:1],
        evals=(),
        train=replace(whole.train, eval_every=0),
    )
    base = replace(base, phases=(replace(base.phases[0], system=None),))
    first = replace(whole.phases[1], start=(Pretrained(base),))
    trained = loop.train(replace(whole, phases=(first, *whole.phases[2:])), progress=False)
    old = loop.pretrained(base)
    before, after = (
        view_of(replace(t.experiment, evals=evals), t.params, t.extras, t.tokenizer) for t in (old, trained)
    )
    rows = [suite.run_all(evals, before)] + [
        {k.removeprefix("eval/"): v for k, v in row.items()} for row in trained.rows if "eval/R@1 mean" in row
    ]
    recalls = np.array([[row[f"R@1 {name}"] for name in NAMES] for row in rows])
    clean = np.asarray(after.column("source", split)) == 0
    angles = {n: ram(before.embed(n, split)[clean], after.embed(n, split)[clean]) for n in ("image", "text")}
    asked = [row["train/teacher_right"] for row in trained.rows if "train/teacher_right" in row]
    return {
        "R@1 clean": recalls[-1, 0], "R@1 mean": recalls[-1].mean(), "R@1 newest": np.diagonal(recalls)[1:].mean(),
        "kept": recalls[-1, 0] / recalls[0, 0], "forgetting": forgetting(recalls),
        **{f"RAM {n}": float(a.mean()) for n, a in angles.items()},
        "RAM apart": float(np.abs(angles["image"] - angles["text"]).mean()),
        **({"teacher right": float(np.mean(asked))} if asked else {}),
        **{f"R@1 {d} after {p}": recalls[i, k] for i, p in enumerate(NAMES) for k, d in enumerate(NAMES)},
    }  # fmt: skip
