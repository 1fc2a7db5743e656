"""A described item as one array of rows, as the contract's "_tokens" functions return it, and back."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mmrep.systems.fusion.m3el.model import Described, Item


def pack(described: Described) -> tuple[Float[Array, "B N W"], Bool[Array, "B N"]]:
    """Everything as rows of one width, padded by zeros: text, image, contexts, then as many rows for text as for image tokens."""
    i, contexts = described
    rows = max(i.text_tokens.shape[1], i.image_tokens.shape[1])
    width = max(i.text.shape[-1], i.image.shape[-1], contexts.shape[-1])

    def pad(x: Array, n: int) -> Array:
        return jnp.pad(x, ((0, 0), (0, n - x.shape[1]), (0, width - x.shape[2])))

    heads = [pad(i.text[:, None], 1), pad(i.image[:, None], 1), pad(contexts, contexts.shape[1])]
    tokens = jnp.concatenate([*heads, pad(i.text_tokens, rows), pad(i.image_tokens, rows)], 1)
    words, patches = (jnp.pad(v, ((0, 0), (0, rows - v.shape[1]))) for v in (i.text_valid, i.image_valid))
    first = jnp.ones((len(words), 1), bool)
    others = jnp.broadcast_to(i.seen[:, None], (len(words), 1 + contexts.shape[1]))
    return tokens.astype(jnp.float32), jnp.concatenate([first, others, words, patches], 1)


def unpack(
    tokens: Float[Array, "B N W"], valid: Bool[Array, "B N"], widths: tuple[int, int, int], contexts: int
) -> Described:
    """The inverse of `pack`, but for padding; widths of text, image and contexts."""
    text, image, dim = widths
    start = 2 + contexts
    middle = start + (tokens.shape[1] - start) // 2
    item = Item(
        tokens[:, 0, :text], tokens[:, start:middle, :text], valid[:, start:middle],
        tokens[:, 1, :image], tokens[:, middle:, :image], valid[:, middle:],
    )  # fmt: skip
    return Described(item, tokens[:, 2:start, :dim])
