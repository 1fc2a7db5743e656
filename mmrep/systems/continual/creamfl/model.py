"""CreamFL's losses, and the weights by which a server trusts its clients' representations."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Shaped

from mmrep.losses.contrastive import similarity


def distances(x: Float[Array, "N D"], y: Float[Array, "M D"], eps: float = 1e-6) -> Float[Array, "N M"]:
    """sqrt(|x_i - y_j|^2 + eps) of all pairs."""
    square = (x * x).sum(1)[:, None] + (y * y).sum(1) - 2 * similarity(x, y)
    return jnp.sqrt(jnp.maximum(square, 0.0) + eps)


def soft_contrastive_loss(
    x: Float[Array, "B D"], y: Float[Array, "B D"], scale: Float[Array, ""], shift: Float[Array, ""]
) -> Float[Array, " B"]:
    """-log p(match) of each pair and -log(1 - p) of its row's others, summed, in both directions (PCME's loss of one vector a sample).

    p = sigmoid(2 (shift - scale distance)). The two directions have equal sums; a row's value is the mean of its own and its column's.
    """
    logits = shift - scale * distances(x, y)
    costs = jnp.where(jnp.eye(len(x), dtype=bool), jax.nn.softplus(-2 * logits), jax.nn.softplus(2 * logits))
    return costs.sum(1) + costs.sum(0)


def inter_loss(
    u: Float[Array, "B D"], others: Float[Array, "N D"], row: Int[Array, " B"], temperature: float = 0.5
) -> Float[Array, " B"]:
    """Cross-entropy of a client's features over the server's features of the other modality of all public samples; `row` is its own."""
    logits = similarity(u, others) / temperature
    return optax.softmax_cross_entropy_with_integer_labels(logits, row)


def intra_loss(
    u: Float[Array, "B D"], server: Float[Array, "B D"], old: Float[Array, "B D"], temperature: float = 0.5
) -> Float[Array, " B"]:
    """Two-way softmax: nearer to the server's features of the same modality than to the client's own of the round's start (MOON)."""
    near, before = ((u * v).sum(-1) / temperature for v in (server, old))
    return jax.nn.softplus(before - near)


def agreement(
    u: Shaped[Array, "N D"], others: Float[Array, "N D"], temperature: float = 1.0, block: int = 1024
) -> Float[Array, " N"]:
    """log softmax_j(u_k . others_j / temperature) at j = k: the global-local cross-modal contrast of a client's features.

    Rows are processed `block` at a time, so that no n x n matrix is held. Rows that are not finite have -inf.
    """
    fine = jnp.isfinite(u).all(-1)

    def one(row: tuple[Array, Array]) -> Array:
        x, own = row
        logits = others @ x / temperature
        return logits[own] - jax.nn.logsumexp(logits)

    rows = jnp.where(fine[:, None], u, 0.0), jnp.arange(len(u))
    return jnp.where(fine, jax.lax.map(one, rows, batch_size=min(block, len(u))), -jnp.inf)


def aggregate(
    features: Mapping[str, Float[Array, "N D"]],
    others: Float[Array, "N D"],
    temperature: float = 1.0,
    uniform: bool = False,
) -> tuple[Float[Array, "N D"], Float[Array, "C N"]]:
    """(sum over clients of w_c[k] U_c[k], not normalised; the weights): w[k] is the softmax over clients of their agreement at sample k.

    uniform: equal weights of the clients with finite features (an ablation). A sample for which no client has any gets 0.
    """
    scores = jnp.stack([agreement(u, others, temperature) for u in features.values()])
    fine = jnp.isfinite(scores)
    scores = jnp.where(fine, 0.0 if uniform else scores, -1e30)
    weights = jnp.where(fine, jax.nn.softmax(scores, axis=0), 0.0)
    clean = jnp.stack([jnp.where(jnp.isfinite(u), u, 0.0) for u in features.values()])
    return jnp.einsum("cn,cnd->nd", weights, clean), weights


def balanced(inter: Float[Array, ""], intra: Float[Array, ""]) -> Float[Array, ""]:
    """intra + inter scaled to intra's size, without gradient through the factor (the authors' loss_scale)."""
    return intra + inter * jax.lax.stop_gradient(intra / jnp.maximum(inter, 1e-12))
