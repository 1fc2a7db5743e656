"""PTUnifier's network: inputs of pairs and of single modalities, two encoders, their fusion, and the heads."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from mmrep.errors import ConfigError
from mmrep.modality import BOS, EOS
from mmrep.nn.attention import padding_mask
from mmrep.nn.config import TransformerConfig
from mmrep.nn.fusion import PairFusion
from mmrep.nn.heads import MaskedLmHead, l2_normalise
from mmrep.nn.norms import norm_layer
from mmrep.nn.patches import patchify
from mmrep.nn.positions import LearnedPositions
from mmrep.nn.transformer import Transformer

StandIn = Literal["pool", "static", "none"]


def chosen_rows(
    query: Float[Array, "B D"], pool: Float[Array, "P D"], k: int, cosine: bool = False
) -> Int[Array, "B {k}"]:
    """The k rows of `pool` of the largest dot product (or cosine) with each query, in descending order; equal ones by their index.

    The authors' scores are not normalised, so that a long row is chosen for every query.
    """
    scores = l2_normalise(query) @ l2_normalise(pool).T if cosine else query @ pool.T
    return jax.lax.top_k(scores.astype(jnp.float32), k)[1]


def token_mean(tokens: Float[Array, "B N D"], valid: Bool[Array, "B N"]) -> Float[Array, "B D"]:
    """The query: the mean of the valid tokens but the first; zero where there is none, whose rows are then the first of the pool."""
    weight = valid[:, 1:, None].astype(tokens.dtype)
    return (tokens[:, 1:] * weight).sum(1) / (weight.sum(1) + 1e-8)


class TextTokens(nn.Module):
    """BERT's input: an embedding of each token and its position, normed."""

    config: TransformerConfig
    vocab: int
    length: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, ids: Int[Array, "B L"]) -> Float[Array, "B L D"]:
        init = nn.initializers.normal(0.02)
        x = nn.Embed(self.vocab, self.config.width, dtype=self.dtype, embedding_init=init, name="embed")(ids)
        x = LearnedPositions(self.length, dtype=self.dtype, name="positions")(x)
        return norm_layer(self.config, self.dtype, "norm")(x)


class ImageTokens(nn.Module):
    """A linear map of each patch [B, H, W, C], or with patch 0 of each vector [B, N, D], and its position."""

    config: TransformerConfig
    patch: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, image: Float[Array, "B ..."]) -> Float[Array, "B N D"]:
        x = patchify(image, self.patch) * 2 - 1 if self.patch else jnp.asarray(image, self.dtype)
        x = nn.Dense(self.config.width, dtype=self.dtype, kernel_init=nn.initializers.xavier_uniform(), name="embed")(x)
        return LearnedPositions(x.shape[1], dtype=self.dtype, name="positions")(x)


class PTUnifier(nn.Module):
    """All parts. pool: rows of each pool.   image_prompts, text_prompts: chosen ones, in the place of a missing image or text.

    stand_in: "pool"; "static", the same vectors for all inputs; "none", the first token (and of a text the last) alone.
    dim: of the contrast; 0: none.
    """

    image: TransformerConfig
    text: TransformerConfig
    fusion: TransformerConfig
    patch: int
    vocab: int
    length: int
    pool: int
    image_prompts: int
    text_prompts: int
    stand_in: StandIn
    cosine: bool
    dim: int
    dtype: Any = jnp.float32

    def setup(self) -> None:
        d, init = self.dtype, nn.initializers.normal(0.02)
        self.words = TextTokens(self.text, self.vocab, self.length, d)
        self.patches = ImageTokens(self.image, self.patch, d)
        self.cls = self.param("cls", init, (1, 1, self.image.width), jnp.float32)
        self.pre_norm = nn.LayerNorm(epsilon=self.image.epsilon, dtype=d)
        self.image_blocks, self.text_blocks = Transformer(self.image, dtype=d), Transformer(self.text, dtype=d)
        self.pair = PairFusion(self.fusion, dtype=d)
        self.mlm, self.match = MaskedLmHead(d), nn.Dense(2, dtype=d)
        self.table = self.param("table", init, (self.vocab, self.fusion.width), jnp.float32)
        if self.dim:
            if self.stand_in != "none":
                rows = (self.pool if self.stand_in == "pool" else k for k in (self.image_prompts, self.text_prompts))
                first, second = rows
                self.image_pool = self.param("image_pool", init, (first, self.image.width), jnp.float32)
                self.text_pool = self.param("text_pool", init, (second, self.text.width), jnp.float32)
            self.image_norm, self.text_norm = (nn.LayerNorm(epsilon=1e-5, dtype=d) for _ in range(2))
            self.image_project, self.text_project = (nn.Dense(self.dim, use_bias=False, dtype=d) for _ in range(2))

    def encode_text(self, ids: Int[Array, "B L"]) -> tuple[Float[Array, "B L D"], Bool[Array, "B L"]]:
        valid = ids > 0
        return self.text_blocks(self.words(ids), padding_mask(valid))[0], valid

    def encode_image(self, image: Float[Array, "B ..."]) -> tuple[Float[Array, "B N D"], Bool[Array, "B N"]]:
        x = self._blocks(self.patches(image))
        return x, jnp.ones(x.shape[:2], bool)

    def _blocks(self, patches: Float[Array, "B N D"]) -> Float[Array, "B M D"]:
        cls = jnp.broadcast_to(self.cls.astype(patches.dtype), (len(patches), 1, patches.shape[-1]))
        return self.image_blocks(self.pre_norm(jnp.concatenate([cls, patches], axis=1)))[0]

    def rows_for_text(self, ids: Int[Array, "B L"]) -> Int[Array, "B K"]:
        """Rows of the image pool that stand in for the image of a text."""
        return chosen_rows(token_mean(self.words(ids), ids > 0), self.image_pool, self.image_prompts, self.cosine)

    def rows_for_image(self, image: Float[Array, "B ..."]) -> Int[Array, "B K"]:
        """Rows of the text pool that stand in for the text of an image."""
        return chosen_rows(self.patches(image).mean(1), self.text_pool, self.text_prompts, self.cosine)

    def pseudo_image(self, ids: Int[Array, "B L"]) -> Float[Array, "B N D"]:
        """The tokens of the image encoder over its class token and the prompts, which have no position."""
        if self.stand_in == "none":
            prompts = jnp.zeros((len(ids), 0, self.image.width), self.dtype)
        else:
            rows = self.rows_for_text(ids) if self.stand_in == "pool" else self._all(len(ids), self.image_prompts)
            prompts = self.image_pool.astype(self.dtype)[rows]
        return self._blocks(prompts)

    def pseudo_text(self, image: Float[Array, "B ..."]) -> Float[Array, "B N D"]:
        """The tokens of the text encoder over BOS, the prompts and EOS, all valid; BOS and EOS are embedded at position 0."""
        first, last = (self.words(jnp.full((len(image), 1), i, jnp.int32)) for i in (BOS, EOS))
        if self.stand_in == "none":
            return self.text_blocks(first)[0]
        rows = self.rows_for_image(image) if self.stand_in == "pool" else self._all(len(image), self.text_prompts)
        return self.text_blocks(jnp.concatenate([first, self.text_pool.astype(self.dtype)[rows], last], axis=1))[0]

    def _all(self, rows: int, k: int) -> Int[Array, "B K"]:
        return jnp.broadcast_to(jnp.arange(k), (rows, k))

    def fuse(
        self, text: Float[Array, "B L D"], valid: Bool[Array, "B L"] | None, image: Float[Array, "B N E"]
    ) -> tuple[Float[Array, "B L W"], Float[Array, "B W2"]]:
        """(words, pooled) of a pair; one side may be a stand-in."""
        words, _, pooled, _ = self.pair(text, image, valid)
        return words, pooled

    def image_only(self, image: Float[Array, "B ..."]) -> Float[Array, "B E"]:
        """The unit vector of the contrast; without it the pooled vector."""
        pooled = self.fuse(self.pseudo_text(image), None, self.encode_image(image)[0])[1]
        return l2_normalise(self.image_project(self.image_norm(pooled))).astype(jnp.float32) if self.dim else pooled

    def text_only(self, ids: Int[Array, "B L"]) -> Float[Array, "B E"]:
        pooled = self.fuse(*self.encode_text(ids), self.pseudo_image(ids))[1]
        return l2_normalise(self.text_project(self.text_norm(pooled))).astype(jnp.float32) if self.dim else pooled

    def judge(self, pooled: Float[Array, "B W2"]) -> Float[Array, "B 2"]:
        return self.match(pooled).astype(jnp.float32)

    def predict(self, words: Float[Array, "B L W"]) -> Float[Array, "B L V"]:
        return self.mlm(words, self.table)

    def __call__(self, ids: Int[Array, "B L"], image: Float[Array, "B ..."]) -> Any:
        """Every part once, for `init`. Raises ConfigError where more prompts are chosen than a pool has."""
        if self.dim and self.stand_in == "pool" and max(self.image_prompts, self.text_prompts) > self.pool:
            raise ConfigError(
                f"pool is {self.pool}: it has fewer rows than image_prompts {self.image_prompts} or text_prompts {self.text_prompts}"
            )
        words, pooled = self.fuse(*self.encode_text(ids), self.encode_image(image)[0])
        single = (self.image_only(image), self.text_only(ids)) if self.dim else ()
        return self.predict(words), self.judge(pooled), single
