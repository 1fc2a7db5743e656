"""platos_cave: shapes and texts of unimodal encoders, aligned in a subspace after training (Hadgi et al., CVPR 2025)

Escaping Plato's Cave: Towards the Alignment of 3D and Text Latent Spaces, arXiv 2503.05283.
    python -m experiments.train platos_cave
    python -m experiments.prove platos_cave
    python -m experiments.train platos_cave --variant emoji       # real data: gradients of emoji drawings, counts of their keywords
    python -m experiments.train platos_cave --variant furniture   # Sweet Home 3D's models and names, where they are installed
    python -m experiments.align A B --anchors anchors.txt --out aligned      # two folders of experiments.embed, or two .npy arrays
On your own vectors: --size paper with --data.source an Arrays or a Table with the columns points and text (lists of numbers).
The emoji are real data, split by concept family: no drawing or name of a query's family is in an anchor (configs/_emoji.py).
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from configs._emoji import COMPONENTS
from mmrep import modality, solvers
from mmrep.config import Arm, Data, Expect, Experiment, Optim, Phase, Proof, Tokenizer, Train
from mmrep.data.furniture import Furniture
from mmrep.data.views import View, Views
from mmrep.errors import ConfigError
from mmrep.evals.suite import Retrieval
from mmrep.nn.config import TransformerConfig
from mmrep.nn.encoders.regions import RegionTower
from mmrep.nn.encoders.text import TextEncoder
from mmrep.nn.encoders.vector import VectorEncoder
from mmrep.systems.retrieval.platos_cave import Config, Fit
from mmrep.systems.retrieval.platos_cave.data import ShapeData
from mmrep.systems.retrieval.platos_cave.evals import Matching, Methods
from mmrep.systems.retrieval.platos_cave.model import align, compare, cosines, matching, top

SIZES = ("tiny", "small", "paper")
VARIANTS = ("emoji", "furniture")
VOCAB, LENGTH = 64, 12


def shapes(
    shape: TransformerConfig, source: ShapeData | Furniture, *, steps: int, batch: int, ks: tuple[int, ...], vocab: int = VOCAB
) -> Experiment:  # fmt: skip
    """Both encoders are trained on one modality each; the pairs are used by the closed form alone."""
    encoders = ("points", RegionTower(shape)), ("text", TextEncoder(shape, vocab=vocab, length=LENGTH))
    system = Config(encoders, (shape.width, shape.width), k=max(ks))
    points = (modality.vector(name, source.n_points, 3) for name in ("points", "points_b"))
    parts = (*points, modality.text("text", LENGTH, vocab))
    return Experiment(
        system, Data(source, parts, Tokenizer(vocab, kind="word"), batch_size=batch),
        phases=(
            Phase("views", steps, trainable=("points/.*", "views/.*"), system=replace(system, objective="views")),
            Phase("words", steps, trainable=("text/.*", "words/.*"), system=replace(system, objective="words")),
            Phase("fit", run=Fit(ks)),
        ),
        optim=Optim(lr=2e-3, warmup=min(50, steps // 10)), train=Train(log_every=50),
        evals=(Matching("points", "text", group="shape"), Retrieval("points", "text", group="shape", two_way=True)),
    )  # fmt: skip


def emoji(ks: tuple[int, ...] = (5, 10, 20, 40, 64, 96), eps: float = 0.1) -> Experiment:
    """128 components of gradients and of keyword counts; k from held-out anchors, eps from val."""
    dim = COMPONENTS.k
    system = Config((("image", VectorEncoder()), ("text", VectorEncoder())), (dim, dim), k=max(ks))
    parts = modality.vector("image", dim, field="gradients"), modality.vector("text", dim, field="words")
    evals = Matching("image", "text"), Methods("image", "text", ks, eps), Retrieval("image", "text", two_way=True)
    return Experiment(system, Data(COMPONENTS, parts), phases=(Phase("fit", run=Fit(ks, eps=eps)),), evals=evals)


def get_config(size: str = "small", variant: str = "") -> Experiment:
    if variant and size != "small":
        raise ConfigError(f"variant is {variant!r} of size {size}: choose size small")
    if variant == "emoji":
        return emoji()
    if size == "tiny":
        source = ShapeData(32, 16, 16, n_points=12)
        return shapes(TransformerConfig(width=16, depth=1, heads=2), source, steps=4, batch=8, ks=(2, 4))
    if size == "small":
        shape = TransformerConfig(width=64, depth=2, heads=4)
        if variant == "furniture":
            return shapes(shape, Furniture(), steps=400, batch=64, ks=(4, 8, 16, 32), vocab=1024)
        return shapes(shape, ShapeData(), steps=800, batch=64, ks=(4, 8, 16, 32))
    # Stored vectors of PointBERT and of CLIP's text encoder: 30,000 anchors, 500 queries, a CPU job.
    views = View("points", 512, private=200, private_scale=4.0), View("text", 1280, private=200, private_scale=4.0)
    source = Views(views, n_train=30_000, shared=50)
    system = Config((("points", VectorEncoder()), ("text", VectorEncoder())), (512, 1280), k=50)
    parts = modality.vector("points", 512), modality.vector("text", 1280)
    evals = Matching("points", "text"), Retrieval("points", "text", two_way=True)
    return Experiment(system, Data(source, parts), phases=(Phase("fit", run=Fit((50,))),), evals=evals)


def spaces(seed: int, split: str) -> tuple[np.ndarray, np.ndarray]:
    """10 shared directions among 60 and 40 private ones and noise, in 128 and 96 dimensions."""
    x = View("x", 128, noise=1.1, private=60, private_scale=4.9)
    y = View("y", 96, noise=1.1, private=40, private_scale=3.0)
    data = Views((x, y), n_train=1500, n_test=500, shared=10, seed=seed).open(split).columns
    return data["x"], data["y"]


def methods(seed: int) -> Mapping[str, float]:
    """Matching and top-5 of the methods of `compare`, of fixed k, and of anchors whose pairs are shuffled."""
    anchors, queries = spaces(seed, "train"), spaces(seed, "test")
    found, scores = compare(anchors, queries, (5, 10, 20, 40, 96), seed=seed)
    for k in (5, 10, 20, 40, 96):
        scores[f"CCA {k}"] = fixed(anchors, queries, k)
    order = np.random.default_rng(seed).permutation(len(anchors[0]))
    scores["shuffled"] = fixed((anchors[0][order], anchors[1]), queries, found.k)
    result = {f"{name} matching": matching(s) for name, s in scores.items()}
    result |= {f"{name} top-5": top(s, 5) for name, s in scores.items()}
    return result | {"k": float(found.k), "CKA": solvers.linear_cka(*queries)}


def fixed(anchors: tuple[np.ndarray, np.ndarray], queries: tuple[np.ndarray, np.ndarray], k: int) -> np.ndarray:
    found = align(*anchors, k)
    return cosines(found.x(queries[0]), found.y(queries[1]))


def get_proof() -> Proof:
    cca = "spaces/CCA + affine matching"
    return Proof(
        claim="Two spaces that share few directions are aligned in the subspace of those directions, and not in the full spaces.",
        metric="CCA + affine matching",
        arms=(Arm("spaces", run=methods),),
        expects=(
            Expect(better=cca, worse="spaces/affine, ridge matching", margin=0.25, statement="CCA matches more queries than an affine map with a tuned ridge"),
            Expect(better=cca, worse="spaces/PCA + affine matching", margin=0.3, statement="and than the subspaces of largest variance"),
            Expect(better=0.02, worse="spaces/shuffled matching", statement="with shuffled anchors it stays near the chance of 0.002"),
            Expect(
                better=cca, worse="spaces/CCA 96 matching", margin=0.2,
                statement="the number of dimensions matters: the k of held-out anchors is better than the largest",
            ),
            Expect(better=cca, worse="spaces/CCA 5 matching", margin=0.1, headline=False, statement="and than half of the true number"),
            Expect(
                better="spaces/CCA + local CKA top-5", worse="spaces/local CKA top-5", margin=0.1, headline=False,
                statement="local CKA gains in the subspace as well",
            ),
        ),
        seeds=(10, 11, 12),
        data="synthetic vectors of a linear world",
        notes="1500 anchors and 500 queries of a world drawn anew for each seed; exact solutions. The ridge of the affine map and the k of CCA are "
        "chosen on the same held-out anchors. No code of the authors is available.",
    )  # fmt: skip
