"""The losses of DLCH and its discrete solver of the new codes."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from mmrep.errors import DataError
from mmrep.losses.contrastive import similarity
from mmrep.losses.reduce import masked_mean


def graded_similarity(a: Float[Array, "B K"], b: Float[Array, "N K"], graded: bool = True) -> Float[Array, "B N"]:
    """Cosine of multi-hot labels, in [0, 1]; 0 for a row without a label. With `graded` False: 1 where a label is shared (an ablation)."""
    shared = similarity(a, b)
    if not graded:
        return (shared > 0).astype(jnp.float32)
    return shared / jnp.sqrt(jnp.maximum((a**2).sum(-1)[:, None] * (b**2).sum(-1)[None], 1.0))


def pair_loss(
    u: Float[Array, "B C"],
    buffer: Float[Array, "N C"],
    target: Float[Array, "B N"],
    where: Bool[Array, " N"] | None = None,
) -> Float[Array, ""]:
    """Mean of (relu(cos(u_i, U_j)) - S_ij)^2 over the batch and the buffer's rows that `where` keeps (stage 1)."""
    unit = [x / jnp.sqrt(jnp.maximum((x**2).sum(-1, keepdims=True), 1e-12)) for x in (u, buffer)]
    values = (jnp.maximum(similarity(*unit), 0.0) - target) ** 2
    return masked_mean(values, None if where is None else where[None, :])


def quantisation_loss(u: Float[Array, "B C"], codes: Float[Array, "B C"]) -> Float[Array, ""]:
    """Mean over entries of (B - u)^2."""
    return ((codes - u) ** 2).mean()


def code_loss(
    u: Float[Array, "B C"], own: Float[Array, "B C"], codes: Float[Array, "N C"], target: Float[Array, "B N"],
    weight: Float[Array, " N"], alpha: float, beta: float,
) -> Float[Array, ""]:  # fmt: skip
    """Stage 2, equation of L over the sampled rows, divided by B * sum(weight): inner products of outputs with frozen codes against
    c * S, quantisation of the rows' own codes, and balance of the bits. `weight` of each stored code: 0 leaves it out.
    """
    bits = u.shape[1]
    inner = (((bits * target - similarity(u, codes)) ** 2) * weight).sum(-1)
    rest = alpha * ((own - u) ** 2).sum(-1) + beta * u.sum(-1) ** 2
    return ((inner + rest) / jnp.maximum(weight.sum(), 1.0)).mean()


def solve_codes(
    codes: Float[np.ndarray, "N C"], outputs: Sequence[Float[np.ndarray, "M C"]], own: Sequence[Float[np.ndarray, "N C"]],
    target: Float[np.ndarray, "M N"], alpha: float,
) -> Float[np.ndarray, "N C"]:  # fmt: skip
    """Discrete cyclic descent: each bit of the N new codes in turn, given all others (stage 2, step 6); the sign of 0 keeps the bit.

    outputs: of the M sampled rows, for each modality.   own: of each modality the outputs of the new rows that were sampled, 0 elsewhere.
    """
    b, bits = np.array(codes, np.float64), codes.shape[1]
    u = [np.asarray(x, np.float64) for x in outputs]
    p = sum(bits * np.asarray(target, np.float64).T @ x + alpha * np.asarray(e, np.float64) for x, e in zip(u, own))
    gram: Any = sum(x.T @ x for x in u)
    for k in range(bits):
        others = np.arange(bits) != k
        value = p[:, k] - b[:, others] @ gram[others, k]
        b[:, k] = np.where(value == 0, b[:, k], np.sign(value))
    return b


def check_labels(labels: Any) -> None:
    """Raises DataError for an item without a label: its similarity to every other is undefined."""
    if not (np.asarray(labels).sum(-1) > 0).all():
        raise DataError("an item has no label: DLCH compares items by their labels, leave it out")
