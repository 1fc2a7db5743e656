"""InvGC's proof: synthetic embeddings in three regimes where the method helps, changes nothing and hurts."""

from functools import partial

import numpy as np

from mmrep.config import Arm, Expect, Proof
from mmrep.evals.retrieval import unit
from mmrep.systems.retrieval.invgc.data import Pair, clustered, crowded
from mmrep.systems.retrieval.invgc.evals import gallery_normalisation

DIM = 64


def crowding(seed: int, cone: float, nuisance: float, noise: float = 0.6, n: int = 1000) -> dict[str, float]:
    """`gallery_normalisation` of `crowded` embeddings; the gallery's own nuisance has rank 8, and the ablations have step size 1."""
    rng = np.random.default_rng(seed)
    basis, axes = rng.standard_normal((8, DIM)), unit(rng.standard_normal((2, DIM)))
    return measured(*(crowded(rng, axes, basis, n, cone, nuisance, noise) for _ in range(3)), fixed=1.0)


def isotropic(seed: int) -> dict[str, float]:
    """Evenly spread embeddings; the step sizes are 1, where validation would choose 0. "change" is LocalAdj's, without its sign."""
    rng = np.random.default_rng(seed)
    basis, axes = rng.standard_normal((8, DIM)), unit(rng.standard_normal((2, DIM)))
    return measured(*(crowded(rng, axes, basis, 3000, 0.0, 0.0, 1.2) for _ in range(3)), fixed=1.0, steps=(1.0,))


def shared_meaning(seed: int) -> dict[str, float]:
    """Neighbours share a centre, one of 50, and differ in a detail of half its length; the ablations have step size 0.5."""
    rng = np.random.default_rng(seed)
    centres = unit(rng.standard_normal((50, DIM)))
    return measured(*(clustered(rng, centres, 1000, 0.5, 0.5) for _ in range(3)), fixed=0.5)


def measured(
    val: Pair, test: Pair, banks: Pair, *, fixed: float, steps: tuple[float, ...] = (0.0, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0)
) -> dict[str, float]:
    found = gallery_normalisation(val, test, banks, fixed=fixed, steps=steps)
    return found | {"change": abs(found["LocalAdj"] - found["base"]), "steps": found["r_g"] + found["r_q"]}


def get_proof() -> Proof:
    reported = (
        ("cone/InvGC", "cone/base", 0.05, "and so does InvGC over the whole bank"),
        ("hubs/InvGC", "hubs/base", 0.03, "with a nuisance of the gallery's own: InvGC gains 3 points"),
        ("cone/base", "cone/sign flipped", 0.0, "a cone: adding the neighbours hurts"),
        ("cone/LocalAdj, fixed", "cone/random neighbours", 0.02, "a cone, equal step size: random rows help less"),
        ("hubs/LocalAdj, fixed", "hubs/random neighbours", 0.02, "a nuisance, equal step size: random rows help less"),
        ("cone/LocalAdj", "cone/QB-Norm", 0.01, "a cone: better than query-bank normalisation"),
        (0.01, "shared meaning/steps", 0.0, "shared meaning: validation chooses step sizes of 0"),
        ("shared meaning/sign flipped", "shared meaning/base", 0.0, "shared meaning: adding the neighbours helps"),
    )  # fmt: skip
    return Proof(
        claim="Subtracting the nearest training embeddings from a gallery raises R@1 where the gallery crowds along directions of its own, changes "
        "nothing where it is spread, and hurts where neighbours share the meaning.",
        metric="LocalAdj",
        arms=(
            Arm("cone", run=partial(crowding, cone=8.0, nuisance=0.6)),
            Arm("hubs", run=partial(crowding, cone=0.0, nuisance=0.6)),
            Arm("isotropic", run=isotropic),
            Arm("shared meaning", run=shared_meaning),
        ),
        expects=(
            Expect(
                better="cone/LocalAdj", worse="cone/base", margin=0.05,
                statement="a gallery in a cone: LocalAdj gains 5 points of R@1",
            ),
            Expect(
                better="hubs/LocalAdj", worse="hubs/base", margin=0.1,
                statement="a gallery with a nuisance of its own: LocalAdj gains 10 points of R@1",
            ),
            Expect(
                better=0.005, worse="isotropic/change",
                statement="an evenly spread gallery: at step size 1 R@1 changes by less than half a point",
            ),
            Expect(
                better="shared meaning/base", worse="shared meaning/LocalAdj, fixed", margin=0.005,
                statement="neighbours that share a meaning: at step size 0.5 LocalAdj loses half a point of R@1",
            ),
            *(Expect(better=a, worse=b, margin=m, statement=s, headline=False) for a, b, m, s in reported),
        ),
        seeds=(10, 11, 12),
        data="synthetic embeddings",
        notes="Step sizes of the two banks are chosen apart on validation; ablations have a fixed one. A dual encoder of synthetic scenes is no regime "
        "in which the method can gain: its nearest captions are near-synonyms (mean cosine .97), and validation chooses 0 there. The gains of half a point "
        "to two points of the paper's retrieval benchmarks are not tested at this scale.",
    )  # fmt: skip
