"""Exact retrieval ranks in blocks of queries, for ties and several correct answers as well."""

from collections.abc import Callable, Sequence
from math import comb
from typing import Any, TypeAlias

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mmrep.errors import ConfigError, DataError

Positives: TypeAlias = Int[Array | np.ndarray, " P"] | Bool[Array | np.ndarray, "P U"] | Sequence[Any]


def unit(x: Float[Array | np.ndarray, "... D"]) -> Float[np.ndarray, "... D"]:
    """Rows of length one in float64; a zero row stays zero."""
    x = np.asarray(x, np.float64)
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def dot(
    queries: Float[Array | np.ndarray, "Q D"], targets: Float[Array | np.ndarray, "T D"]
) -> Float[np.ndarray, "Q T"]:
    """Dot products in float64, rounded to float32: equal rows have equal scores in every block, so that ties stay ties."""
    return (np.asarray(queries, np.float64) @ np.asarray(targets, np.float64).T).astype(np.float32)


def _positive_rows(positives: Positives, start: int, rows: int, targets: int) -> np.ndarray:
    part = positives[start : start + rows]
    if isinstance(part, np.ndarray | jax.Array) and part.dtype.kind == "b":
        hits = np.asarray(part)
        if hits.ndim != 2 or hits.shape[1] != targets:
            raise ConfigError(f"boolean positives must be [queries, {targets} targets], found {list(hits.shape)}")
    else:
        lists = [np.atleast_1d(np.asarray(p, np.int64)) for p in part]
        hits = np.zeros((rows, targets), bool)
        index = np.concatenate(lists)
        if len(index) and (index.min() < 0 or index.max() >= targets):
            raise DataError(f"positives hold indices {index.min()}..{index.max()}, but there are {targets} targets")
        hits[np.repeat(np.arange(rows), [len(p) for p in lists]), index] = True
    empty = np.flatnonzero(~hits.any(1))
    if len(empty):
        raise DataError(f"query {start + empty[0]} has no correct answer among the targets: remove it")
    return hits


def ranks_of_scores(
    scores: Float[Array | np.ndarray, "Q T"], positives: Positives, start: int = 0
) -> Float[np.ndarray, " Q"]:
    """Rank (from 1) of each row's best-scoring positive; `start` is the index of row 0 within `positives`.

    Other positives never count against it. Among equal scores the rank is the mean of the best and the worst one: a model that
    gives all T candidates one score gets (T + 1) / 2. A NaN score counts as -inf.
    Raises DataError for a row without positive or an index out of range.
    """
    scores = np.asarray(scores)
    scores = np.where(np.isnan(scores), -np.inf, scores)
    hits = _positive_rows(positives, start, *scores.shape)
    best = np.where(hits, scores, -np.inf).max(1, keepdims=True)
    above = (scores > best).sum(1)
    level = ((scores == best) & ~hits).sum(1)
    return 1.0 + above + 0.5 * level


def ranks(
    queries: Float[Array | np.ndarray, "Q D"],
    targets: Float[Array | np.ndarray, "T D"],
    positives: Positives,
    block: int = 1024,
) -> Float[np.ndarray, " Q"]:
    """`ranks_of_scores` of the dot products, `block` queries at a time.

    positives: the index of the correct target per query, several indices per query, or bool [Q, T].
    """
    if len(positives) != len(queries):
        raise ConfigError(f"there are {len(queries)} queries but {len(positives)} entries of positives")
    if not len(queries):
        raise DataError("retrieval needs at least one query")
    starts = range(0, len(queries), block)
    return np.concatenate([ranks_of_scores(dot(queries[i : i + block], targets), positives, i) for i in starts])


def recall_at(found: Float[np.ndarray, " Q"], ks: Sequence[int] = (1, 5, 10)) -> dict[str, float]:
    """{"R@k": share of queries whose rank is at most k}."""
    return {f"R@{k}": float(np.mean(found <= k)) for k in ks}


def chance_recall(candidates: int, k: int, positives: int = 1) -> float:
    """R@k of a random order: 1 - C(T - p, k) / C(T, k)."""
    k = min(k, candidates)
    return 1.0 - comb(candidates - positives, k) / comb(candidates, k)


def retrieval_metrics(
    found: Float[np.ndarray, " Q"],
    n_candidates: int,
    ks: Sequence[int] = (1, 5, 10),
    n_positives: int | Int[np.ndarray, " Q"] = 1,
) -> dict[str, float]:
    """{"R@k", "median_rank", "candidates", "chance_R@k"} of ranks; `n_positives`: correct answers per query, which raise the chance level."""
    counts, times = np.unique(np.asarray(n_positives), return_counts=True)
    chance = {
        f"chance_R@{k}": float(np.average([chance_recall(n_candidates, k, int(p)) for p in counts], weights=times))
        for k in ks
    }
    return recall_at(found, ks) | {"median_rank": float(np.median(found)), "candidates": float(n_candidates)} | chance


def rerank(
    scores: Float[Array | np.ndarray, "Q T"], rescore: Callable[[np.ndarray, np.ndarray], Any], k: int
) -> Float[np.ndarray, "Q T"]:
    """Scores whose k highest of each query are replaced by `rescore`, and the others by -inf (ALBEF, section 4).

    rescore: (query indices [n], target indices [n]) -> scores [n].
    """
    scores = np.asarray(scores)
    k = min(k, scores.shape[1])
    columns = np.argsort(-scores, axis=1, kind="stable")[:, :k].reshape(-1)
    rows = np.repeat(np.arange(len(scores)), k)
    result = np.full(scores.shape, -np.inf, np.float32)
    result[rows, columns] = np.asarray(rescore(rows, columns))
    return result
