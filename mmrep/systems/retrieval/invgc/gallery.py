"""Treating a gallery with a bank of training embeddings: what every such method checks, and query-bank normalisation."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mmrep.errors import DataError

Rows = Float[Array | np.ndarray, "M D"]
Bank = Float[Array | np.ndarray, "N D"]


def check(gallery: Rows, bank: Float[Array | np.ndarray, "N E"]) -> None:
    """Raises DataError for an empty bank, rows that are not finite, or spaces of different dimension."""
    if not len(bank):
        raise DataError("the bank is empty: give embeddings of training data")
    if gallery.shape[1] != bank.shape[1]:
        raise DataError(
            f"the gallery has {gallery.shape[1]} dimensions and the bank {bank.shape[1]}: use one shared space"
        )
    if not (np.isfinite(np.asarray(gallery)).all() and np.isfinite(np.asarray(bank)).all()):
        raise DataError("gallery or bank has a row that is not finite: leave it out")


def qb_norm(scores: Float[np.ndarray, "Q T"], bank: Float[np.ndarray, "N T"], beta: float) -> Float[np.ndarray, "Q T"]:
    """Log of the dynamic inverted softmax (Bogolin et al. 2022): beta s - logsumexp over bank queries, for queries whose best
    gallery item is also some bank query's best; the others keep their scores."""
    calmed = beta * scores - np.asarray(jax.nn.logsumexp(beta * jnp.asarray(bank), axis=0))
    active = np.isin(scores.argmax(1), np.unique(bank.argmax(1)))
    return np.where(active[:, None], calmed, scores).astype(np.float32)
