"""Galleries before and after post-processing: recall, geometry, and rival methods (Jian and Wang 2023)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.stats import skew

from mmrep.data import pipeline
from mmrep.data.pipeline import embed_rows
from mmrep.errors import DataError
from mmrep.evals import retrieval
from mmrep.evals.retrieval import dot, unit
from mmrep.model import Model
from mmrep.nn.heads import l2_normalise
from mmrep.systems.retrieval.invgc.data import Pair
from mmrep.systems.retrieval.invgc.model import (
    Step,
    inv_gc,
    local_adj,
    mean_of_banks,
    num_neighbours,
    subtract_neighbours,
)

Adjust = Callable[[Any, Any, Step], Array]
"""(gallery, bank, step size) -> gallery."""


def check_bank(gallery: Float[Array | np.ndarray, "M D"], bank: Float[Array | np.ndarray, "N E"]) -> None:
    """Raises DataError for an empty bank, rows that are not finite, or spaces of different dimension."""
    if not len(bank):
        raise DataError("the bank is empty: give embeddings of training data")
    if gallery.shape[1] != bank.shape[1]:
        raise DataError(
            f"the gallery has {gallery.shape[1]} dimensions and the bank {bank.shape[1]}: use one shared space"
        )
    if not (np.isfinite(np.asarray(gallery)).all() and np.isfinite(np.asarray(bank)).all()):
        raise DataError("gallery or bank has a row that is not finite: leave it out")


def mean_cosine(x: Float[Array | np.ndarray, "N D"]) -> float:
    """Mean cosine over all pairs of different rows: 0 for evenly spread directions, 1 for identical ones."""
    x = unit(x)
    if len(x) < 2:
        raise DataError(f"mean_cosine compares pairs of rows, found {len(x)} row")
    total = x.sum(0)
    return float((total @ total - (x * x).sum()) / (len(x) * (len(x) - 1)))


def nearest_cosine(x: Float[Array | np.ndarray, "N D"]) -> float:
    """Mean cosine of a row to the nearest other row."""
    x = unit(x)
    if len(x) < 2:
        raise DataError(f"nearest_cosine compares pairs of rows, found {len(x)} row")
    cosines = dot(x, x)
    np.fill_diagonal(cosines, -np.inf)
    return float(cosines.max(1).mean())


def hubness(queries: Float[Array | np.ndarray, "N D"], gallery: Float[Array | np.ndarray, "M D"], k: int = 10) -> float:
    """Skewness of the k-occurrence: how often each gallery row is among the k nearest of a query (Radovanovic et al. 2010).

    0 where all occur equally often; above 1 a few hubs dominate. Ties take the lower index.
    """
    k = min(k, len(gallery))
    top = np.argsort(-dot(queries, gallery), axis=1, kind="stable")[:, :k]
    counts = np.bincount(top.reshape(-1), minlength=len(gallery)).astype(np.float64)
    return float(skew(counts)) if counts.std() > 0 else 0.0


def qb_norm(scores: Float[np.ndarray, "Q T"], bank: Float[np.ndarray, "N T"], beta: float) -> Float[np.ndarray, "Q T"]:
    """Log of the dynamic inverted softmax (Bogolin et al. 2022): beta s - logsumexp over bank queries, for queries whose best
    gallery item is also the best of some bank query; other queries keep their scores."""
    normalised = beta * scores - np.asarray(jax.nn.logsumexp(beta * jnp.asarray(bank), axis=0))
    active = np.isin(scores.argmax(1), np.unique(bank.argmax(1)))
    return np.where(active[:, None], normalised, scores).astype(np.float32)


def recall_at_1(pair: Pair) -> float:
    """R@1 of the queries in their gallery."""
    queries, gallery = (np.asarray(x) for x in pair)
    return retrieval.recall_at(retrieval.ranks(queries, gallery, np.arange(len(gallery))), (1,))["R@1"]


def best_strength(strengths: Sequence[float], score: Callable[[float], float]) -> float:
    """The strength of the best score; among equals the smallest."""
    return max(strengths, key=lambda s: (score(s), -s))


def query_bank_norm(
    val: Pair,
    test: Pair,
    bank: Float[Array | np.ndarray, "N D"],
    betas: Sequence[float] = (5.0, 10.0, 20.0, 40.0, 80.0),
) -> tuple[float, float]:
    """(R@1 on `test`, beta chosen on `val`) of query-bank normalisation with `bank` queries, the rival method."""

    def normed(pair: Pair) -> Callable[[float], float]:
        scores, banked = retrieval.dot(*pair), retrieval.dot(bank, pair[1])
        right = np.arange(len(scores))
        return lambda beta: float(np.mean(retrieval.ranks_of_scores(qb_norm(scores, banked, beta), right) <= 1))

    beta = best_strength(betas, normed(val))
    return normed(test)(beta), beta


def gallery_stats(pair: Pair, when: str) -> dict[str, float]:
    """Nearest-neighbour cosine and hubness of a gallery, named with `when`."""
    queries, gallery = (np.asarray(x) for x in pair)
    return {
        f"nearest cosine {when}": nearest_cosine(gallery),
        f"hubness {when}": hubness(queries, gallery),
    }


def gallery_normalisation(
    val: Pair, test: Pair, banks: Pair, foreign: Pair | None = None, *,
    steps: tuple[float, ...] = (0.0, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0), fixed: float = 0.5, rate: float = 0.01, seed: int = 0,
) -> dict[str, float]:  # fmt: skip
    """R@1 on `test` of every way to normalise a gallery, and the gallery's statistics before and after.

    LocalAdj and InvGC: r_g and r_q, the step sizes of the two banks, are chosen apart on `val`.   Ablations have the step size `fixed`
    in both banks: "sign flipped", "random neighbours", "foreign bank", to be compared with "LocalAdj, fixed".
    val, test: (queries, gallery).   banks: the same of training data.   foreign: the same of another domain.
    """
    bank_q, bank_g = banks
    for rows in (*val, *test, bank_q):
        check_bank(rows, bank_g)
    k, (queries, gallery) = num_neighbours(rate, len(bank_g)), test
    local: Adjust = jax.jit(lambda g, b, r: local_adj(g, b, r, k))
    plain: Adjust = jax.jit(inv_gc)

    def scattered(g: Any, b: Any, r: Step) -> Array:
        rows = np.random.default_rng((seed, b is bank_q)).integers(0, len(b), (len(g), k))
        return subtract_neighbours(g, b, rows, r)

    def both(way: Adjust, r_g: Step, r_q: Step, q: Any = bank_q, b: Any = bank_g) -> Array:
        return mean_of_banks(way(gallery, b, r_g), way(gallery, q, r_q))

    r, s = (best_steps(way, val, banks, steps) for way in (local, plain))
    moved, centre = both(local, *r), jnp.asarray(bank_g).mean(0)
    ways = {
        "base": gallery, "LocalAdj": moved, "InvGC": both(plain, *s), "centred": l2_normalise(jnp.asarray(gallery) - centre),
        "LocalAdj, fixed": both(local, fixed, fixed), "sign flipped": both(local, -fixed, -fixed),
        "random neighbours": both(scattered, fixed, fixed),
    } | ({} if foreign is None else {"foreign bank": both(local, fixed, fixed, *foreign)})  # fmt: skip
    found = {name: recall_at_1((queries, way)) for name, way in ways.items()}
    found["QB-Norm"], found["beta"] = query_bank_norm(val, test, bank_q)
    found |= {"r_g": r[0], "r_q": r[1], "r_g InvGC": s[0], "r_q InvGC": s[1]}
    return found | gallery_stats(test, "before") | gallery_stats((queries, moved), "after")


def best_steps(way: Adjust, pair: Pair, banks: Pair, steps: Sequence[float]) -> tuple[float, float]:
    """(r_g, r_q) of the best R@1 on `pair`: the step sizes of the gallery bank and of the query bank; among equals the smallest sum."""
    bank_q, bank_g = banks
    by_g, by_q = ({r: way(pair[1], b, r) for r in steps} for b in (bank_g, bank_q))
    grid = sorted(((a, b) for a in steps for b in steps), key=sum)
    return max(grid, key=lambda r: recall_at_1((pair[0], mean_of_banks(by_g[r[0]], by_q[r[1]]))))


@dataclass(frozen=True)
class Robust:
    """`gallery_normalisation` on a trained dual encoder, for queries of one modality; metrics "<query>-><target> LocalAdj" and so on.

    bank: training pairs in the banks.   foreign: a data source of another domain.   steps, fixed, rate: as in `gallery_normalisation`.
    """

    query: str
    target: str
    bank: int = 1000
    rate: float = 0.01
    steps: tuple[float, ...] = (0.0, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0)
    fixed: float = 0.5
    foreign: Any = None
    split: str = "test"

    def run(self, model: Model) -> dict[str, float]:
        names = (self.query, self.target)

        def bank(records: pipeline.Split) -> Pair:
            q, g = (embed_rows(partial(model.infer, n), records, self.bank) for n in names)
            return q, g

        val, test = ((model.embed_split(self.query, s), model.embed_split(self.target, s)) for s in ("val", self.split))
        foreign: Any = None
        if self.foreign is not None:
            foreign = bank(pipeline.open_split(model.data, model.tokenize, "train", self.foreign))
        found = gallery_normalisation(
            val, test, bank(model.split("train")), foreign, steps=self.steps, fixed=self.fixed, rate=self.rate
        )
        return {f"{self.query}->{self.target} {k}": v for k, v in found.items()}
