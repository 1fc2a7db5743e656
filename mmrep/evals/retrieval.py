"""Exact retrieval ranks, block by block, with ties and several right answers defined."""

from collections.abc import Callable, Sequence
from math import comb
from typing import Any, TypeAlias

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mmrep.errors import ConfigError, DataError

Positives: TypeAlias = Int[Array | np.ndarray, " P"] | Bool[Array | np.ndarray, "P U"] | Sequence[Any]
Score: TypeAlias = Callable[[Any, Any], Any]


def unit(x: Float[Array | np.ndarray, "... D"]) -> Float[np.ndarray, "... D"]:
    """Rows of length one in float64; a zero row stays zero."""
    x = np.asarray(x, np.float64)
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def dot(
    queries: Float[Array | np.ndarray, "Q D"], targets: Float[Array | np.ndarray, "T D"]
) -> Float[np.ndarray, "Q T"]:
    """Dot products in float64, rounded to float32: equal rows then score equal, whatever the block, and ties are seen as ties."""
    return (np.asarray(queries, np.float64) @ np.asarray(targets, np.float64).T).astype(np.float32)


def positives_by_key(query_keys: Sequence[Any], target_keys: Sequence[Any]) -> list[np.ndarray]:
    """For each query the indices of the targets that carry the same key: all of them are right."""
    found: dict[Any, list[int]] = {}
    for j, key in enumerate(target_keys):
        found.setdefault(key, []).append(j)
    return [np.array(found.get(key, []), np.int64) for key in query_keys]


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
        raise DataError(f"query {start + empty[0]} has no right answer among the targets; leave it out")
    return hits


def ranks_of_scores(
    scores: Float[Array | np.ndarray, "Q T"], positives: Positives, start: int = 0
) -> Float[np.ndarray, " Q"]:
    """Rank (from 1) of each row's best-scoring positive; `start` is the place of row 0 within `positives`.

    Other positives never count against it. Among equal scores the rank is the mean of the best and the worst place: a model that
    gives all T candidates one score gets (T + 1) / 2, no luck. A NaN score ranks below everything, level with -inf.
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
    queries: Any, targets: Any, positives: Positives, block: int = 1024, score: Score = dot
) -> Float[np.ndarray, " Q"]:  # fmt: skip
    """`ranks_of_scores` of score(queries, targets), `block` queries at a time.

    queries, targets: [Q, D] and [T, D], or any tree of arrays (tokens and their mask) that `score` understands.
    positives: the index of the right target per query, several indices per query, or bool [Q, T].
    score:     (a block of queries, all targets) -> [b, T].
    """
    count = len(jax.tree.leaves(queries)[0])
    if len(positives) != count:
        raise ConfigError(f"there are {count} queries but {len(positives)} entries of positives")
    if count == 0:
        raise DataError("retrieval needs at least one query")
    parts = []
    for start in range(0, count, block):
        part = jax.tree.map(lambda x, s=start: x[s : s + block], queries)
        parts.append(ranks_of_scores(np.asarray(score(part, targets)), positives, start))
    return np.concatenate(parts)


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
    """{"R@k", "median_rank", "candidates", "chance_R@k"} of ranks; `n_positives` right answers a query make the chance larger."""
    counts, times = np.unique(np.asarray(n_positives), return_counts=True)
    chance = {
        f"chance_R@{k}": float(np.average([chance_recall(n_candidates, k, int(p)) for p in counts], weights=times))
        for k in ks
    }
    return recall_at(found, ks) | {"median_rank": float(np.median(found)), "candidates": float(n_candidates)} | chance


def rerank(
    scores: Float[Array | np.ndarray, "Q T"],
    rescore: Callable[[np.ndarray, np.ndarray], Any],
    k: int,
    block: int = 256,
) -> Float[np.ndarray, "Q T"]:
    """Scores in which the k best candidates of each query carry a second opinion, and the others -inf (ALBEF, section 4).

    rescore: (query indices [n], target indices [n]) -> [n], called with `block` pairs at a time; the last block is filled up by repetition.
    """
    scores = np.asarray(scores)
    k = min(k, scores.shape[1])
    top = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    rows, columns = np.repeat(np.arange(len(scores)), k), top.reshape(-1)
    values = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), block):
        at = np.minimum(np.arange(start, start + block), len(rows) - 1)
        real = min(block, len(rows) - start)
        values[start : start + real] = np.asarray(rescore(rows[at], columns[at]))[:real]
    result = np.full(scores.shape, -np.inf, np.float32)
    result[rows, columns] = values
    return result
