"""How a set of embeddings lies in its space: the width of its cone, how crowded it is, and whether it has hubs."""

import numpy as np
from jaxtyping import Array, Float
from scipy.stats import skew

from mmrep.errors import DataError
from mmrep.evals.retrieval import dot, unit

Rows = Float[Array | np.ndarray, "N D"]


def mean_cosine(x: Rows) -> float:
    """Mean cosine over all pairs of different rows: 0 for directions spread evenly, 1 for a cone that has closed."""
    x = unit(x)
    if len(x) < 2:
        raise DataError(f"mean_cosine compares pairs of rows, found {len(x)} row")
    total = x.sum(0)
    return float((total @ total - (x * x).sum()) / (len(x) * (len(x) - 1)))


def nearest_cosine(x: Rows) -> float:
    """Mean cosine of a row to the nearest other row."""
    x = unit(x)
    if len(x) < 2:
        raise DataError(f"nearest_cosine compares pairs of rows, found {len(x)} row")
    cosines = dot(x, x)
    np.fill_diagonal(cosines, -np.inf)
    return float(cosines.max(1).mean())


def hubness(queries: Rows, gallery: Float[Array | np.ndarray, "M D"], k: int = 10) -> float:
    """Skewness of the k-occurrence: how often each gallery row is among the k nearest of a query (Radovanovic et al. 2010).

    0 where all occur equally often; above 1 a few hubs crowd out the others. Ties take the lower index.
    """
    k = min(k, len(gallery))
    top = np.argsort(-dot(queries, gallery), axis=1, kind="stable")[:, :k]
    counts = np.bincount(top.reshape(-1), minlength=len(gallery)).astype(np.float64)
    return float(skew(counts)) if counts.std() > 0 else 0.0
