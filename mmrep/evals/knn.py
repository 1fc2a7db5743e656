"""Nearest-neighbour classification in cosine distance, plain and weighted (Wu et al. 2018; Caron et al. 2021, DINO)."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from mmrep.errors import ConfigError
from mmrep.evals.retrieval import dot, unit


def knn_predict(
    train_x: Float[Array | np.ndarray, "N D"],
    train_y: Shaped[Array | np.ndarray, " N"],
    test_x: Float[Array | np.ndarray, "M D"],
    k: int = 20,
    weighted: bool = True,
    temperature: float = 0.07,
    block: int = 1024,
) -> Shaped[np.ndarray, " M"]:
    """The label with most votes among the k nearest training rows, each worth exp(cosine / temperature), or 1 if not `weighted`.

    Rows are normalised here. Of equally near rows the first in training order is nearer; of equal votes the smallest label wins.
    k beyond the training rows takes them all. Raises ConfigError for k < 1.
    """
    if k < 1:
        raise ConfigError(f"knn: k is {k}; it must be positive")
    classes, index = np.unique(np.asarray(train_y), return_inverse=True)
    train, test = unit(train_x), unit(test_x)
    k = min(k, len(train))
    predicted = []
    for start in range(0, len(test), block):
        near, rows = (np.asarray(a) for a in jax.lax.top_k(jnp.asarray(dot(test[start : start + block], train)), k))
        # The largest vote is scaled to 1: exp(1 / 0.01) would be huge.
        votes = np.exp((near - near[:, :1]).astype(np.float64) / temperature) if weighted else np.ones(near.shape)
        tally = np.zeros((len(rows), len(classes)))
        np.add.at(tally, (np.arange(len(rows))[:, None], index[rows]), votes)
        predicted.append(classes[tally.argmax(1)])
    return np.concatenate(predicted) if predicted else classes[:0]
