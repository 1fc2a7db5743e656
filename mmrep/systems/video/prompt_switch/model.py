"""Prompt Switch's frame encoder: a Vision Transformer in which frames exchange prompt tokens."""

from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from mmrep.errors import ConfigError
from mmrep.nn.attention import Attention
from mmrep.nn.config import TransformerConfig
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.nn.norms import norm_layer
from mmrep.nn.patches import patchify
from mmrep.nn.positions import LearnedPositions
from mmrep.nn.transformer import Mlp


def switched(x: Float[Array, "N L D"], prompts: int) -> Float[Array, "N L D"]:
    """Tokens in which prompt j of frame i and prompt i of frame j of a chunk have changed places (section 3.2).

    N: chunks of `prompts` frames each, one after another; the last `prompts` of a frame's L tokens are its prompts.
    """
    n, length, width = x.shape
    cube = x[:, length - prompts :].reshape(n // prompts, prompts, prompts, width).swapaxes(1, 2)
    return jnp.concatenate([x[:, : length - prompts], cube.reshape(n, prompts, width)], axis=1)


def chunks(x: Float[Array | np.ndarray, "B F ..."], size: int) -> Float[Array | np.ndarray, "_ ..."]:
    """The frames of each clip as F / size chunks of `size` frames, one frame of each stretch of the clip in every chunk.

    Raises ConfigError where `size` does not divide F.
    """
    b, f = x.shape[:2]
    if f % size:
        raise ConfigError(f"system.prompts is {size} and the video has {f} frames: choose a number that divides them.")
    return x.reshape(b, size, f // size, *x.shape[2:]).swapaxes(1, 2).reshape(b * f, *x.shape[2:])


class SwitchBlock(nn.Module):
    """A pre-norm block whose attention gets the switched prompts: x + attention(switched(norm(x))), then x + mlp(norm(x)).

    Only the normalised copy is switched, as in the authors' code: the residual keeps each prompt in its place.
    """

    config: TransformerConfig
    prompts: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "N L D"]) -> Float[Array, "N L D"]:
        c = self.config
        y = norm_layer(c, self.dtype, "norm_attn")(x)
        x = x + Attention(c, self.dtype, name="attn")(switched(y, self.prompts) if self.prompts else y)[0]
        y = norm_layer(c, self.dtype, "norm_mlp")(x)
        return x + Mlp(c.hidden, self.dtype, c.activation, c.bias, name="mlp")(y)


class PromptFrames(nn.Module):
    """The vector of each frame [B, F, D], of frames [B, F, H, W, C] in [0, 1] or codes [B, F, E], a token each.

    prompts: P, also the frames of a chunk; 0: none.   switch: whether they are exchanged.
    aggregate: to which prompts a frame's class token attends at the end: those of "all" frames of its chunk, or its "own".
    """

    image: ImageEncoder
    prompts: int
    switch: bool = True
    aggregate: Literal["all", "own"] = "all"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, video: Float[Array | np.ndarray, "B F ..."]) -> Float[Array, "B F D"]:
        c, p = self.image.transformer, self.prompts
        b, f = video.shape[:2]
        x = jnp.asarray(chunks(video, p or 1))
        x = patchify(x, self.image.patch) * 2 - 1 if x.ndim == 4 else x[:, None]
        x = nn.Dense(c.width, dtype=self.dtype, kernel_init=nn.initializers.xavier_uniform(), name="embed")(x)
        x = LearnedPositions(x.shape[1], dtype=self.dtype, name="positions")(x)
        cls = self.param("cls", nn.initializers.normal(0.02), (1, 1, c.width), jnp.float32).astype(self.dtype)
        x = jnp.concatenate([jnp.broadcast_to(cls, (len(x), 1, c.width)), x], axis=1)
        if self.image.pre_norm:
            x = norm_layer(c, self.dtype, "pre_norm")(x)
        if p:
            init = nn.initializers.normal(0.02 * c.width**-0.5)
            cube = self.param("prompts", init, (p, p, c.width), jnp.float32).astype(self.dtype)
            x = jnp.concatenate([x, jnp.tile(cube, (len(x) // p, 1, 1))], axis=1)
        block = nn.remat(SwitchBlock) if c.remat else SwitchBlock
        for i in range(c.depth):
            x = block(c, p if self.switch else 0, self.dtype, name=f"block{i:02d}")(x)
        frames = x[:, 0].reshape(b * f // (p or 1), p or 1, c.width)
        if p:
            memory = x[:, -p:].reshape(-1, p * p, c.width)
            own = (
                None
                if self.aggregate == "all"
                else jnp.asarray(np.repeat(np.eye(p, dtype=bool), p, axis=1))[None, None]
            )
            attend = nn.MultiHeadDotProductAttention(
                c.heads, dtype=self.dtype, out_kernel_init=nn.initializers.zeros_init(), name="aggregate"
            )
            frames = frames + attend(frames, memory, mask=own)
        frames = norm_layer(c, self.dtype, "norm")(frames)
        # Back to the order of time.
        return frames.reshape(b, f // (p or 1), p or 1, c.width).swapaxes(1, 2).reshape(b, f, c.width)
