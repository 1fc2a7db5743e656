"""Inverse graph convolution over stored embeddings (Jian and Wang 2023)."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mmrep.nn.heads import l2_normalise

Rows = Float[Array | np.ndarray, "M D"]
Bank = Float[Array | np.ndarray, "N D"]
Step = float | Float[Array, ""]


def num_neighbours(rate: float, n: int) -> int:
    """k = max(1, int(rate n)) of LocalAdj; without the floor a small bank would divide by zero."""
    return max(1, int(rate * n))


def inv_gc(gallery: Rows, bank: Bank, r: Step) -> Float[Array, "M D"]:
    """norm(G - r/n (W - e) B) with W = G B' and e the mean of all its entries (equation 6, centred as in the authors' code).

    e depends on the whole gallery. W is never built: W B = G (B'B), and e is the dot product of the mean rows.
    """
    g, b = jnp.asarray(gallery), jnp.asarray(bank)
    e = g.mean(0) @ b.mean(0)
    return l2_normalise(g - r / b.shape[0] * (g @ (b.T @ b) - e * b.sum(0)))


def nearest_rows(
    gallery: Rows, bank: Bank, k: int, own: Int[Array | np.ndarray, " M"] | None = None
) -> Int[Array, "M K"]:
    """The k most similar bank rows of each gallery row, ties to the lower index.

    own: the bank row that is the gallery item itself (-1 for none), left out: subtracting a vector from itself only shrinks or flips it.
    """
    w = jnp.asarray(gallery) @ jnp.asarray(bank).T
    if own is not None:
        w = jnp.where(jnp.arange(w.shape[1]) == jnp.asarray(own)[:, None], -jnp.inf, w)
    return jax.lax.top_k(w, k)[1]


def subtract_neighbours(
    gallery: Rows, bank: Bank, index: Int[Array | np.ndarray, "M K"], r: Step
) -> Float[Array, "M D"]:
    """norm(G - r/k sum_j w_ij b_j) over the bank rows `index` of each gallery row, w their dot products."""
    g, near = jnp.asarray(gallery), jnp.asarray(bank)[index]
    w = jnp.einsum("md,mkd->mk", g, near)
    return l2_normalise(g - r / index.shape[1] * jnp.einsum("mk,mkd->md", w, near))


def local_adj(
    gallery: Rows, bank: Bank, r: Step, k: int, own: Int[Array | np.ndarray, " M"] | None = None, chunk: int = 1024
) -> Float[Array, "M D"]:
    """InvGC over the k nearest bank rows alone, not centred (LocalAdj, equation 8), `chunk` gallery rows at a time."""
    g, b = jnp.asarray(gallery), jnp.asarray(bank)
    own = jnp.full(len(g), -1) if own is None else jnp.asarray(own)
    return jax.lax.map(
        lambda row: subtract_neighbours(row[0][None], b, nearest_rows(row[0][None], b, k, row[1][None]), r)[0], (g, own),
        batch_size=min(chunk, len(g)),
    )  # fmt: skip


def mean_of_banks(first: Float[Array, "M D"], second: Float[Array, "M D"]) -> Float[Array, "M D"]:
    """norm(1/2 G'_gallery bank + 1/2 G'_query bank)."""
    return l2_normalise(0.5 * first + 0.5 * second)
