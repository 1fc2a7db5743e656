"""FILIP's similarity, loss and token selection (Yao et al. 2022, section 3.1); MaxSim of Khattab and Zaharia 2020, in both directions."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mmrep.errors import ConfigError
from mmrep.losses.blocks import MASKED, Blocks, Side, Softmax, contrast, in_blocks, ring_size, side
from mmrep.losses.contrastive import Scalar, symmetric_info_nce_of_logits
from mmrep.losses.late_interaction import TokenSet, late_similarity


def filip_similarity(
    x: TokenSet, y: TokenSet, keys: tuple[TokenSet, TokenSet] | None = None, chunk: int | None = None
) -> tuple[Float[Array, "B C"], Float[Array, "B C"]]:
    """`late_similarity` in which queries use all tokens and, with `keys` of x and of y, maxima run over the selected tokens only."""
    if keys is None:
        return late_similarity(x, y, chunk)
    return late_similarity(x, keys[1], chunk)[0], late_similarity(keys[0], y, chunk)[1]


def filip_loss(
    x: TokenSet,
    y: TokenSet,
    scale: Scalar,
    keys: tuple[TokenSet, TokenSet] | None = None,
    chunk: int | None = None,
    blocks: Blocks | None = None,
) -> tuple[Float[Array, " B"], Float[Array, " B"]]:
    """(half the sum of both directions' InfoNCE on scale * `filip_similarity`, of each pair; the pair's own mean similarity).

    x, y: aligned pairs.   scale: 1 / temperature.   keys: see `select_tokens`; None: all tokens.
    blocks: None keeps all similarities; with blocks, chunk x chunk x n x m products are in memory. A ring with `keys` sends them alone.
    """
    if blocks is None:
        s_xy, s_yx = filip_similarity(x, y, keys, chunk)
        own = 0.5 * (jnp.diagonal(s_xy) + jnp.diagonal(s_yx))
        return symmetric_info_nce_of_logits(scale * s_xy, scale * s_yx.T), own
    rows, columns = side(x[0], aux=x[1]), side(y[0], aux=y[1])
    if keys is None:
        x_to_y, y_to_x = contrast(_both_scores, Softmax(), {"scale": scale}, rows, columns, blocks)
    else:
        x_to_y, y_to_x = (
            contrast(_query_scores, Softmax(), {"scale": scale}, queries, side(k[0], aux=k[1]), blocks, both=False)[0]
            for queries, k in ((rows, keys[1]), (columns, keys[0]))
        )
    s_xy, s_yx = pair_similarity(x, y, keys)
    return 0.5 * (x_to_y + y_to_x), 0.5 * (s_xy + s_yx)


def pair_similarity(
    x: TokenSet, y: TokenSet, keys: tuple[TokenSet, TokenSet] | None = None
) -> tuple[Float[Array, " B"], Float[Array, " B"]]:
    """The diagonals of `filip_similarity`: of each row of x with the same row of y."""
    one_by_one = jax.tree.map(lambda part: part[:, None], (x, y, keys))
    s_xy, s_yx = jax.vmap(filip_similarity)(*one_by_one)
    return s_xy[:, 0, 0], s_yx[:, 0, 0]


def _both_scores(shared: dict[str, Array], rows: Side, columns: Side, own: Array) -> tuple[Array, Array]:
    s_xy, s_yx = late_similarity((rows.vectors, rows.aux), (columns.vectors, columns.aux))
    return shared["scale"] * s_xy, shared["scale"] * s_yx


def _query_scores(shared: dict[str, Array], rows: Side, columns: Side, own: Array) -> tuple[Array, None]:
    return _both_scores(shared, rows, columns, own)[0], None


def best_match(x: TokenSet, y: TokenSet, chunk: int | None = None) -> Float[Array, "B n"]:
    """Each token's maximum similarity to any valid token of any row of y; no gradient. chunk: rows of y at a time."""

    def maxima(part: TokenSet) -> Array:
        tokens, valid = part
        flat = jnp.where(valid.reshape(-1, 1), tokens.reshape(-1, tokens.shape[-1]), 0.0)
        s = jnp.einsum("bnd,md->bnm", x[0], flat, preferred_element_type=jnp.float32)
        return jnp.max(jnp.where(valid.reshape(-1), s, MASKED), axis=-1)

    x, y = jax.lax.stop_gradient((x, y))
    if chunk is None or chunk >= len(y[0]):
        return maxima(y)
    start = jnp.full(x[0].shape[:2], MASKED, jnp.float32) + 0 * x[0][..., 0].astype(jnp.float32)
    return jax.lax.scan(lambda best, part: (jnp.maximum(best, maxima(part)), None), start, in_blocks(y, chunk))[0]


def select_tokens(x: TokenSet, y: TokenSet, ratio: float, chunk: int | None = None) -> tuple[TokenSet, TokenSet]:
    """The share `ratio` of x's tokens with the best match among all of y, and of y's among all of x (section 3.1: 25 %).

    For training only: a selection by the batch would leak into evaluation. The choice carries no gradient; the tokens do.
    Padding is selected last, and stays masked. chunk: rows compared at a time; None: all with all.
    Raises ConfigError unless 0 < ratio <= 1.
    """
    if not 0.0 < ratio <= 1.0:
        raise ConfigError(f"select_tokens: ratio is {ratio}; it must be in (0, 1]")

    def top(tokens: TokenSet, best: Array) -> TokenSet:
        vectors, valid = tokens
        keep = max(1, math.ceil(ratio * vectors.shape[1]))
        _, index = jax.lax.top_k(jnp.where(valid, best, -jnp.inf), keep)
        return jnp.take_along_axis(vectors, index[..., None], axis=1), jnp.take_along_axis(valid, index, axis=1)

    return top(x, best_match(x, y, chunk)), top(y, best_match(y, x, chunk))


def select_tokens_locally(
    x: TokenSet, y: TokenSet, ratio: float, local_batch: int, blocks: Blocks | None = None
) -> tuple[TokenSet, TokenSet]:
    """`select_tokens` within each run of `local_batch` pairs (of all, where they are fewer), before any exchange: the authors' local workers.

    Which tokens are selected depends on `local_batch`, not on the number of devices. With a ring every device selects among its own pairs
    and sends nothing. Raises ConfigError where the pairs (of a device) do not divide into such runs.
    """

    def groups(x: TokenSet, y: TokenSet) -> tuple[TokenSet, TokenSet]:
        run_length = min(local_batch, len(x[0]))
        if len(x[0]) % run_length:
            raise ConfigError(
                f"system.local_batch is {local_batch}: it must divide the {len(x[0])} pairs of the batch"
                f"{'' if blocks is None or blocks.axis is None else ' on each device'}"
            )
        parts = jax.tree.map(lambda v: v.reshape(-1, run_length, *v.shape[1:]), (x, y))
        chunk = None if blocks is None else blocks.chunk

        def run(part: tuple[TokenSet, TokenSet]) -> tuple[TokenSet, TokenSet]:
            return select_tokens(part[0], part[1], ratio, chunk)

        # Without blocks all groups at once, which the compiler can split over devices.
        found = jax.vmap(run)(parts) if blocks is None else jax.lax.map(run, parts)
        return jax.tree.map(lambda v: v.reshape(-1, *v.shape[2:]), found)

    if blocks is None or blocks.axis is None:
        return groups(x, y)
    ring_size(blocks.axis)
    spec = jax.sharding.PartitionSpec(blocks.axis)
    return jax.shard_map(groups, in_specs=(spec, spec), out_specs=spec)(x, y)
