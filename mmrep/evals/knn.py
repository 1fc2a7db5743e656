"""Nearest-neighbour classification in cosine distance, plain and weighted (Wu et al. 2018; Caron et al. 2021, DINO)."""

import numpy as np
from jaxtyping import Array, Float, Shaped

from mmrep.errors import ConfigError


def knn_predict(
    train_x: Float[Array | np.ndarray, "N D"],
    train_y: Shaped[Array | np.ndarray, " N"],
    test_x: Float[Array | np.ndarray, "M D"],
    k: int = 20,
    weighted: bool = True,
    temperature: float = 0.07,
) -> Shaped[np.ndarray, " M"]:
    """The label with most votes among the k nearest training rows, whose votes weigh exp(cosine / temperature), or 1 if not `weighted`.

    Among equal votes the smallest label wins. A k above the number of training rows takes all of them. Raises ConfigError for k < 1.
    """
    from sklearn.neighbors import KNeighborsClassifier

    if k < 1:
        raise ConfigError(f"knn: k is {k}; it must be positive")
    if not len(test_x):
        return np.asarray(train_y)[:0]

    def votes(distances: np.ndarray) -> np.ndarray:
        # The largest vote is scaled to 1: exp(1 / 0.01) overflows sums of many.
        return np.exp((distances.min(1, keepdims=True) - distances) / temperature)

    model = KNeighborsClassifier(min(k, len(train_x)), weights=votes if weighted else "uniform", metric="cosine")
    model.fit(np.asarray(train_x, np.float64), np.asarray(train_y))
    return model.predict(np.asarray(test_x, np.float64))
