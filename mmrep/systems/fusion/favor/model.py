"""FAVOR's synchronised windows and their queries."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from mmrep.nn.attention import Attention, block_causal_mask, padding_mask
from mmrep.nn.config import TransformerConfig
from mmrep.nn.norms import norm_layer
from mmrep.nn.positions import LearnedPositions
from mmrep.nn.query_encoder import QueryEncoder

Causal = Literal["past", "future", "none"]


def synchronised(
    video: Float[Array, "B T *n D"], sound: Float[Array, "B T *m E"], present: Bool[Array, "B 2"]
) -> Float[Array, "B T N F"]:
    """Tokens of a frame and of the sound during it, joined along their channels; the fewer tokens are padded by zeros.

    present: of video and sound; what is missing is zero. Both have T steps: sounds of other lengths are padded or cut before.
    """
    parts = [x.reshape(*x.shape[:2], -1, x.shape[-1]) for x in (video, sound)]
    count = max(x.shape[2] for x in parts)
    parts = [jnp.pad(x, ((0, 0), (0, 0), (0, count - x.shape[2]), (0, 0))) for x in parts]
    return jnp.concatenate([x * present[:, i, None, None, None] for i, x in enumerate(parts)], axis=-1)


def windows(x: Float[Array, "B T N F"], frames: int) -> tuple[Float[Array, "B W K F"], Bool[Array, "W K"]]:
    """(tokens of consecutive windows of so many frames, which of them are of a real frame): time is padded at its end."""
    b, t, n, d = x.shape
    count = -(-t // frames)
    padded = jnp.pad(x, ((0, 0), (0, count * frames - t), (0, 0), (0, 0)))
    real = jnp.repeat(jnp.arange(count * frames) < t, n)
    return padded.reshape(b, count, frames * n, d), real.reshape(count, frames * n)


def diversity_loss(queries: Float[Array, "B M D"], eps: float = 1e-9) -> Float[Array, ""]:
    """L_div: the mean cosine of two different queries of a window; 0 for one query."""
    count = queries.shape[1]
    if count < 2:
        return jnp.zeros(())
    x = queries.astype(jnp.float32)
    x = x / (jnp.linalg.norm(x + eps, axis=-1, keepdims=True) + eps)
    products = jnp.einsum("bmd,bnd->bmn", x, x)
    off = products.sum((1, 2)) - jnp.trace(products, axis1=1, axis2=2)
    return (off / (count * (count - 1))).mean()


class CausalBlock(nn.Module):
    """Norm(x + attention(x)) in which a frame attends to itself and to earlier frames ("past"), or to later ones ("future")."""

    frames: int
    causal: Causal
    heads: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B K F"], valid: Bool[Array, "B K"]) -> Float[Array, "B K F"]:
        c = TransformerConfig(width=x.shape[-1], depth=1, heads=self.heads, norm="post")
        mask = block_causal_mask(self.frames, x.shape[1] // self.frames)
        if self.causal == "future":
            mask = jnp.swapaxes(mask, 2, 3)
        y = Attention(c, self.dtype, name="attn")(x, None, mask & padding_mask(valid))[0]
        return norm_layer(c, self.dtype, "norm")(x + y)


class Prefix(nn.Module):
    """Queries of every window, mapped to `width`: (prefix [B, W * M, width], which are of a window with a real frame, queries [B * W, M, D]).

    joined: True, one query encoder over the joined tokens; False, one for each modality alone, over the whole clip (a rival), each with
    `queries` queries.   window: frames of a window; 0: the whole clip.
    """

    config: TransformerConfig
    width: int
    queries: int
    window: int
    causal: Causal
    heads: int
    joined: bool
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, video: Float[Array, "B T *n D"], sound: Float[Array, "B T *m E"], present: Bool[Array, "B 2"]
    ) -> tuple[Float[Array, "B P W"], Bool[Array, "B P"], Float[Array, "N M Q"]]:
        x, rows, steps = synchronised(video, sound, present), len(video), video.shape[1]
        frames = self.window or steps
        if self.joined:
            parts = {"queries": x}
        else:
            d = video.shape[-1]
            parts, frames = {"video": x[..., :d], "sound": x[..., d:]}, steps
        found, prefix, real = [], [], []
        for name, part in parts.items():
            tokens, seen = windows(part, frames)
            count = tokens.shape[1]
            valid = jnp.tile(seen, (rows, 1))
            tokens = tokens.reshape(rows * count, *tokens.shape[2:])
            # Joined first, then normed: a missing half changes the scale of the other.
            tokens = nn.LayerNorm(dtype=self.dtype, name=f"{name}_norm")(jnp.asarray(tokens, self.dtype))
            tokens = LearnedPositions(tokens.shape[1], dtype=self.dtype, name=f"{name}_positions")(tokens)
            if self.causal != "none" and self.joined:
                tokens = CausalBlock(frames, self.causal, self.heads, self.dtype, name="causal")(tokens, valid)
            encoder = QueryEncoder(self.config, self.queries, cross_every=1, dtype=self.dtype, name=name)
            q, _ = encoder(tokens, valid)
            found.append(q)
            mapped = nn.Dense(self.width, dtype=self.dtype, name=f"{name}_out")(q)
            prefix.append(mapped.reshape(rows, -1, self.width))
            real.append(jnp.repeat(jnp.broadcast_to(seen.any(1), (rows, count)), self.queries, axis=1))
        return jnp.concatenate(prefix, 1), jnp.concatenate(real, 1), jnp.concatenate(found, 0)


def positions(valid: Bool[Array, "B N"]) -> Any:
    """Over the valid tokens alone; padding does not count."""
    return jnp.maximum(jnp.cumsum(valid, axis=1) - 1, 0)


def last_rows(x: Float[Array, "B N V"], length: int) -> Float[Array, "B L V"]:
    """The rows that predict the last `length` - 1 tokens."""
    return jax.lax.slice_in_dim(x, x.shape[1] - length, x.shape[1] - 1, axis=1)
