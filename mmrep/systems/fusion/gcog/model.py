"""The networks of gCOG: each maps an instruction and an image, tokens of several ids, to the vector that the answer is read off."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from mmrep.nn.attention import Attention, padding_mask
from mmrep.nn.config import TransformerConfig
from mmrep.nn.norms import norm_layer
from mmrep.nn.positions import sincos_1d
from mmrep.nn.transformer import gelu

Instruction = Int[Array, "B L F"]
Image = Int[Array, "B N G"]


def places(n: int, width: int) -> Float[Array, "{n} {width}"]:
    """Vaswani's positions with sines and cosines in turn."""
    sines, cosines = jnp.split(sincos_1d(n, width), 2, 1)
    return jnp.stack([sines, cosines], -1).reshape(n, width)


def present(instruction: Instruction) -> Bool[Array, "B L"]:
    """Tokens that are no padding."""
    return (instruction > 0).any(-1)


class Tokens(nn.Module):
    """Tokens [B, N, width] of ids [B, N, F]: the sum of an embedding a field, or with vocab=0 a linear map of the ids as numbers."""

    width: int
    vocab: int

    @nn.compact
    def __call__(self, ids: Int[Array, "B N F"]) -> Float[Array, "B N D"]:
        if not self.vocab:
            return nn.Dense(self.width, name="embed")(ids.astype(jnp.float32))
        fields = ids.shape[-1]
        init = nn.initializers.normal(fields**-0.5)
        table = self.param("embedding", init, (fields, self.vocab, self.width), jnp.float32)
        return sum(table[f][ids[..., f]] for f in range(fields))


class Block(nn.Module):
    """One block, normed after each part, whose MLP ends in its activation: ReLU of the same width, or with `wide` GELU and four times it."""

    config: TransformerConfig
    wide: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"], valid: Bool[Array, "B N"] | None = None) -> Float[Array, "B N D"]:
        c, act = self.config, gelu if self.wide else nn.relu
        mask = None if valid is None else padding_mask(valid)
        x = norm_layer(c, jnp.float32, "norm_attn")(x + Attention(c, name="attn")(x, mask=mask)[0])
        y = act(nn.Dense(c.width * (4 if self.wide else 1), name="up")(x))
        return norm_layer(c, jnp.float32, "norm_mlp")(x + act(nn.Dense(c.width, name="down")(y)))


def placed(x: Float[Array, "B N D"], valid: Bool[Array, "B N"] | None = None) -> Float[Array, "B N D"]:
    """Tokens with their positions, counted from the first token that is no padding."""
    table = places(x.shape[1], x.shape[2])
    return x + (table if valid is None else table[jnp.maximum(jnp.cumsum(valid, 1) - 1, 0)])


class Streams(nn.Module):
    """(tokens of the instruction, whether they are valid, tokens of the image), each through a block of its own."""

    config: TransformerConfig
    vocab: int

    @nn.compact
    def __call__(self, instruction: Instruction, image: Image) -> tuple[Array, Array, Array]:
        c, valid = self.config, present(instruction)
        words = Tokens(c.width, self.vocab, name="instruction")(instruction)
        cells = Tokens(c.width, self.vocab, name="image")(image)
        words = Block(c, name="instruction_block")(placed(words, valid), valid)
        return words, valid, Block(c, name="image_block")(placed(cells))


class CrossAttention(nn.Module):
    """LN(the last word's attention to the image) + the word, then a perceptron. averaged: the image is the mean of its tokens."""

    config: TransformerConfig
    vocab: int
    averaged: bool = False

    @nn.compact
    def __call__(self, instruction: Instruction, image: Image) -> Float[Array, "B D"]:
        c = self.config
        words, _, cells = Streams(c, self.vocab, name="streams")(instruction, image)
        word = words[:, -1:]  # the others do not reach the answer
        cells = cells.mean(1, keepdims=True) if self.averaged else cells
        attended = Attention(c, name="attn")(word, cells)[0]
        x = norm_layer(c, jnp.float32, "norm_attn")(attended) + word
        x = nn.relu(nn.Dense(c.width, name="down")(nn.relu(nn.Dense(c.width, name="up")(x))))
        return norm_layer(c, jnp.float32, "norm_mlp")(x)[:, 0]


class DualStream(nn.Module):
    """The last tokens of both streams, projected and added, then a perceptron of three layers."""

    config: TransformerConfig
    vocab: int

    @nn.compact
    def __call__(self, instruction: Instruction, image: Image) -> Float[Array, "B D"]:
        c = self.config
        words, _, cells = Streams(c, self.vocab, name="streams")(instruction, image)
        word = nn.relu(nn.Dense(c.width, name="word")(words[:, -1]))
        x = norm_layer(c, jnp.float32, "norm")(word + nn.relu(nn.Dense(c.width, name="picture")(cells[:, -1])))
        for i, width in enumerate((2 * c.width, 2 * c.width, c.width)):
            x = nn.relu(nn.Dense(width, name=f"dense{i}")(x))
        return norm_layer(c, jnp.float32, "norm_out")(x)


class SingleStream(nn.Module):
    """Instruction and image as one sequence, whose last token is the image's EOS; positions are added in every block.

    A token has the fields of both kinds, those of the other kind 0.
    """

    config: TransformerConfig
    vocab: int
    blocks: int = 1

    @nn.compact
    def __call__(self, instruction: Instruction, image: Image) -> Float[Array, "B D"]:
        words = jnp.pad(instruction, ((0, 0), (0, 0), (0, image.shape[-1])))
        cells = jnp.pad(image, ((0, 0), (0, 0), (instruction.shape[-1], 0)))
        valid = jnp.concatenate([present(instruction), jnp.ones(image.shape[:2], bool)], 1)
        x = Tokens(self.config.width, self.vocab, name="tokens")(jnp.concatenate([words, cells], 1))
        for i in range(self.blocks):
            x = Block(self.config, wide=True, name=f"block{i:02d}")(placed(x, valid), valid)
        return x[:, -1]


class Perceiver(nn.Module):
    """Latents attend to the instruction, to each other, to the image, and to each other: the last latent.

    Both self-attentions and all four norms of the latents share their parameters, as in the authors' code.
    """

    config: TransformerConfig
    vocab: int
    latents: int = 10
    learned: bool = True

    @nn.compact
    def __call__(self, instruction: Instruction, image: Image) -> Float[Array, "B D"]:
        c = self.config
        words, valid, cells = Streams(c, self.vocab, name="streams")(instruction, image)
        shape = (self.latents, c.width)
        start = (
            self.param("latents", nn.initializers.normal(1.0), shape, jnp.float32) if self.learned else jnp.zeros(shape)
        )
        x = jnp.broadcast_to(start, (len(words), *shape))
        norm, attn = norm_layer(c, jnp.float32, "norm_latents"), Attention(c, name="attn_latents")
        for name, tokens, mask in (("instruction", words, padding_mask(valid)), ("image", cells, None)):
            y = Attention(c, name=f"attn_{name}")(x, tokens, mask)[0]
            y = norm_layer(c, jnp.float32, f"norm_{name}")(y)
            x = norm(y + nn.relu(nn.Dense(c.width, name=f"dense_{name}")(y)) + x)
            x = norm(attn(x)[0] + x)
        return nn.relu(nn.Dense(c.width, name="dense_latents")(x[:, -1]))


class Recurrent(nn.Module):
    """A word of the instruction beside the whole image at each step; the last state, normed. Padding leaves the state as it is."""

    config: TransformerConfig
    vocab: int
    gated: bool = True

    @nn.compact
    def __call__(self, instruction: Instruction, image: Image) -> Float[Array, "B D"]:
        c = self.config
        words, cells = instruction.astype(jnp.float32), image.astype(jnp.float32)
        if self.vocab:
            words = Tokens(c.width, self.vocab, name="instruction")(instruction)
            cells = Tokens(int(np.ceil(c.width / 4)), self.vocab, name="image")(image)
        picture = cells.reshape(len(cells), -1)
        cell: Any = nn.GRUCell(c.width, name="cell") if self.gated else nn.SimpleCell(
            c.width, activation_fn=nn.relu, name="cell"
        )  # fmt: skip
        state, valid = jnp.zeros((len(words), c.width)), present(instruction)
        for i in range(words.shape[1]):
            new, _ = cell(state, jnp.concatenate([words[:, i], picture], 1))
            state = jnp.where(valid[:, i, None], new, state)
        return norm_layer(c, jnp.float32, "norm")(state)
