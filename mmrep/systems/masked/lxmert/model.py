"""LXMERT's network: encoders of words and of objects, the cross-modality encoder, and a head for each pre-training task."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from mmrep.errors import ConfigError
from mmrep.nn.attention import padding_mask
from mmrep.nn.config import TransformerConfig
from mmrep.nn.encoders.text import TextEncoder
from mmrep.nn.fusion import CoAttentionEncoder
from mmrep.nn.heads import MaskedLmHead
from mmrep.nn.norms import layer_norm, norm_layer
from mmrep.nn.transformer import Transformer

BOX = 4
"""Numbers of an object's box, left, top, right, bottom in [0, 1], at the end of its row; features are before them."""


def valid_objects(image: Float[Array, "B K D"]) -> Bool[Array, "B K"]:
    """Objects whose box has an area; others are padding."""
    left, top, right, bottom = jnp.moveaxis(image[..., -BOX:], -1, 0)
    return (right > left) & (bottom > top)


class ObjectEmbedding(nn.Module):
    """Equation 1: the mean of two normed linear maps, of the feature and of the box. No order of the objects enters."""

    config: TransformerConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, image: Float[Array, "B K D"]) -> Float[Array, "B K W"]:
        c = self.config
        if image.shape[-1] <= BOX:
            raise ConfigError(f"image has {image.shape[-1]} numbers an object; give a feature and a box, 5 or more.")

        def embed(name: str, x: Array) -> Array:
            return norm_layer(c, self.dtype, f"norm_{name}")(nn.Dense(c.width, dtype=self.dtype, name=name)(x))

        x = jnp.asarray(image, self.dtype)
        return (embed("feature", x[..., :-BOX]) + embed("box", x[..., -BOX:])) / 2


class ObjectHead(nn.Module):
    """Dense, GELU, LayerNorm, then a linear map for each name of `sizes`: {name: [..., size]}."""

    sizes: tuple[tuple[str, int], ...]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, tokens: Float[Array, "... W"]) -> dict[str, Float[Array, "... _"]]:
        x = nn.Dense(tokens.shape[-1], dtype=self.dtype, name="transform")(tokens)
        x = layer_norm(self.dtype, "norm")(nn.gelu(x, approximate=False))
        return {k: nn.Dense(n, dtype=self.dtype, name=k)(x).astype(jnp.float32) for k, n in self.sizes}


class AnswerHead(nn.Module):
    """Dense to twice the width, GELU, LayerNorm, logits."""

    answers: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, pooled: Float[Array, "B W"]) -> Float[Array, "B A"]:
        x = nn.Dense(2 * pooled.shape[-1], dtype=self.dtype, name="hidden")(pooled)
        x = layer_norm(self.dtype, "norm")(nn.gelu(x, approximate=False))
        return nn.Dense(self.answers, dtype=self.dtype, name="out")(x).astype(jnp.float32)


class Lxmert(nn.Module):
    """All parts. `sizes`: of the object head's outputs.   answers: of the answer head; 0: none.   object_depth, depth: object and cross layers.

    shared_cross: one cross-attention for both directions, as in the authors' code.   cross: False replaces the cross layers by as many
    layers of each stream alone.
    """

    text: TextEncoder
    object_depth: int
    depth: int
    sizes: tuple[tuple[str, int], ...]
    answers: int
    shared_cross: bool = True
    cross: bool = True
    dtype: Any = jnp.float32

    def setup(self) -> None:
        t, dtype = self.text.transformer, self.dtype
        deep = lambda n: TransformerConfig(**{**t.__dict__, "depth": n})  # noqa: E731
        self.words = self.text.module(dtype)
        self.objects = ObjectEmbedding(t, dtype)
        self.relations = Transformer(deep(self.object_depth), dtype=dtype)
        if self.cross:
            self.fusion = CoAttentionEncoder(deep(self.depth), "cross, self, mlp", self.shared_cross, dtype)
        else:
            self.apart = [Transformer(deep(self.depth), dtype=dtype) for _ in range(2)]
        self.pooler = nn.Dense(t.width, dtype=dtype)
        self.mlm = MaskedLmHead(dtype)
        self.match = nn.Dense(2, dtype=dtype)
        self.object_head = ObjectHead(self.sizes, dtype)
        if self.answers:
            self.answer_head = AnswerHead(self.answers, dtype)

    def encode_text(self, ids: Int[Array, "B L"]) -> tuple[Float[Array, "B L W"], Bool[Array, "B L"]]:
        out = self.words(ids)[1]
        return out["tokens"], out["valid"]

    def encode_image(self, image: Float[Array, "B K D"]) -> tuple[Float[Array, "B K W"], Bool[Array, "B K"]]:
        valid = valid_objects(image)
        return self.relations(self.objects(image), padding_mask(valid))[0], valid

    def fuse(
        self,
        text: Float[Array, "B L W"],
        text_valid: Bool[Array, "B L"],
        image: Float[Array, "B K W"],
        image_valid: Bool[Array, "B K"],
    ) -> tuple[Float[Array, "B L W"], Float[Array, "B K W"], Float[Array, "B W"]]:
        """(words, objects, pooled): the pooled vector is tanh of a linear map of the first word."""
        if self.cross:
            text, image, _ = self.fusion(text, image, text_valid, image_valid)
        else:
            streams = zip(self.apart, (text, image), (text_valid, image_valid))
            text, image = (stream(x, padding_mask(valid))[0] for stream, x, valid in streams)
        return text, image, nn.tanh(self.pooler(text[:, 0]))

    def heads(
        self,
        words: Float[Array, "B L W"],
        objects: Float[Array, "B K W"],
        pooled: Float[Array, "B W"],
        table: Float[Array, "V W"],
    ) -> dict[str, Float[Array, "B ..."]]:
        """Logits "words", "match", and with answers "answers"; and the object head's "features" and, where it has them, "classes" and "attributes"."""
        found = {"words": self.mlm(words, table), "match": self.match(pooled).astype(jnp.float32)}
        if self.answers:
            found["answers"] = self.answer_head(pooled)
        return found | self.object_head(objects)

    def __call__(self, ids: Int[Array, "B L"], image: Float[Array, "B K D"]) -> dict[str, Float[Array, "B ..."]]:
        """All of it, with a table of zeros, so that `init` makes every parameter."""
        words, objects, pooled = self.fuse(*self.encode_text(ids), *self.encode_image(image))
        return self.heads(words, objects, pooled, jnp.zeros((self.text.vocab, self.text.transformer.width)))
