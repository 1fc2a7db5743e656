"""Ways to treat a gallery after training, compared: each takes its strength from validation and meets the test pairs once."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Array, Float

from mmrep.evals import retrieval
from mmrep.systems.retrieval.invgc import geometry
from mmrep.systems.retrieval.invgc.gallery import qb_norm

Pair = tuple[Float[Array | np.ndarray, "_ D"], Float[Array | np.ndarray, "_ D"]]
"""Queries and their gallery: row i of one belongs to row i of the other."""


def recall(pair: Pair) -> float:
    """R@1 of the queries in their gallery."""
    queries, gallery = (np.asarray(x) for x in pair)
    return float(np.mean(retrieval.ranks(queries, gallery, np.arange(len(gallery))) <= 1))


def choose(strengths: Sequence[float], score: Callable[[float], float]) -> float:
    """The strength of the best score, the least of equals."""
    return max(strengths, key=lambda s: (score(s), -s))


def query_bank(
    val: Pair,
    test: Pair,
    bank: Float[Array | np.ndarray, "N D"],
    betas: Sequence[float] = (5.0, 10.0, 20.0, 40.0, 80.0),
) -> tuple[float, float]:
    """(R@1 on `test`, beta) of query-bank normalisation with `bank` queries, the rival that any treatment should be held against."""

    def normed(pair: Pair) -> Callable[[float], float]:
        scores, banked = retrieval.dot(*pair), retrieval.dot(bank, pair[1])
        right = np.arange(len(scores))
        return lambda beta: float(np.mean(retrieval.ranks_of_scores(qb_norm(scores, banked, beta), right) <= 1))

    beta = choose(betas, normed(val))
    return normed(test)(beta), beta


def lie(pair: Pair, when: str) -> dict[str, float]:
    """How a gallery lies for its queries: its nearest cosine and its hubness, named with `when`."""
    queries, gallery = (np.asarray(x) for x in pair)
    return {
        f"nearest cosine {when}": geometry.nearest_cosine(gallery),
        f"hubness {when}": geometry.hubness(queries, gallery),
    }


def crowded(
    rng: np.random.Generator,
    directions: Float[np.ndarray, "2 D"],
    basis: Float[np.ndarray, "K D"],
    n: int,
    cone: float,
    nuisance: float,
    noise: float,
) -> Pair:
    """Made pairs that crowd: queries norm(cone v + .6 z + noise n) and a gallery norm(cone u + .6 z + nuisance P + noise n').

    z, n, n' are normal. directions: u and v, the axes of the two cones.   basis: the K directions of P, which the gallery alone has.
    """
    u, v = directions
    z, n1, n2 = rng.standard_normal((3, n, basis.shape[1]))
    q = cone * v + 0.6 * z + noise * n1
    g = cone * u + 0.6 * z + nuisance * (rng.standard_normal((n, len(basis))) @ basis) + noise * n2
    return retrieval.unit(q).astype(np.float32), retrieval.unit(g).astype(np.float32)
