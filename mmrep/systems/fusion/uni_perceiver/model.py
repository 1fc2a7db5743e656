"""Uni-Perceiver's encoder of images, texts and both, its candidates, and the mask of parallel captioning."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from mmrep.losses.masked import token_loss
from mmrep.losses.reduce import masked_mean
from mmrep.modality import BOS, PAD
from mmrep.nn.attention import padding_mask
from mmrep.nn.config import TransformerConfig
from mmrep.nn.heads import l2_normalise
from mmrep.nn.patches import patchify
from mmrep.nn.transformer import Transformer


def caption_mask(spe: int, image: int, words: int, peek: bool = False) -> Bool[np.ndarray, "N N"]:
    """Who attends to whom among <SPE>, patches, words, and as many copies of <SPE> as words: True where a row attends to a column.

    <SPE> and patches attend to each other; word i also to words up to i; copy i to words before i and to itself, and with `peek` to word i.
    """
    first, last = spe + image, spe + image + words
    mask = np.zeros((last + words, last + words), bool)
    mask[:, :first] = True
    mask[first:last, first:last] = np.tri(words, dtype=bool)
    mask[last:, first:last] = np.tri(words, k=0 if peek else -1, dtype=bool)
    mask[last:, last:] = np.eye(words, dtype=bool)
    return mask


def choose(x: Float[Array, "*b D"], candidates: Float[Array, "K D"], scale: Float[Array, ""]) -> Float[Array, "*b K"]:
    """scale * cosine of unit vectors: the logits of p(x, y) over a candidate set."""
    return scale * jnp.einsum("...d,kd->...k", x, candidates)


def candidates(
    labels: Int[Array, "B L"], vocab: int, sampled: int, rng: PRNGKeyArray | None
) -> tuple[Int[Array, " K"], Bool[Array, " K"]]:
    """(ids of candidate words, whether each is the first of its kind): all words, or those of the batch and random ones, `sampled` in all.

    A second candidate with the same word would tie with the first, and is left out of the softmax.
    """
    if not sampled or rng is None:
        return jnp.arange(vocab, dtype=jnp.int32), jnp.ones(vocab, bool)
    own = jnp.unique(labels, size=sampled, fill_value=-1)
    ids = jnp.where(own < 0, jax.random.randint(rng, (sampled,), 0, vocab), own).astype(jnp.int32)
    return ids, (ids[:, None] == ids).argmax(1) == jnp.arange(sampled)


def cross_entropy(
    logits: Float[Array, "B C"], label: Int[Array, " B"], allowed: Bool[Array, " C"], smoothing: float
) -> Float[Array, " B"]:
    """With a share `smoothing` of the target spread over the allowed classes."""
    log_p = jax.nn.log_softmax(logits)
    spread = jnp.where(allowed, log_p, 0.0).sum(-1) / allowed.sum()
    return -(1 - smoothing) * jnp.take_along_axis(log_p, label[:, None], 1)[:, 0] - smoothing * spread


def word_loss(
    logits: Float[Array, "B L K"], places: Int[Array, "B L"], valid: Bool[Array, "B L"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """(mean loss, accuracy) over the words that are valid and among the candidates (place -1: none of them); 0 where there is none."""
    valid = valid & (places >= 0)
    right = (logits.argmax(-1) == places).astype(jnp.float32)
    return masked_mean(token_loss(logits, places, valid), valid), masked_mean(right, valid)


def share_right(found: Int[Array, "B M"], text: Int[Array, "B L"]) -> Float[Array, " B"]:
    """Share of the true words, EOS included, that `found` has in their places."""
    right = (found[:, : text.shape[1]] == text).astype(jnp.float32)
    return masked_mean(right, (text != PAD) & (text != BOS), axis=1)


class Unified(nn.Module):
    """f of the paper: unit vectors of images, of texts, of masked words, and of the words of a caption."""

    config: TransformerConfig
    size: int
    patch: int
    vocab: int
    length: int
    shared: bool = True

    def setup(self) -> None:
        c, init = self.config, nn.initializers.normal(0.02)
        self.words = self.param("words", init, (self.vocab, c.width), jnp.float32)
        self.spe = self.param("spe", init, (c.width,), jnp.float32)
        self.places = self.param("places", init, (self.length, c.width), jnp.float32)
        self.grid = self.param("grid", init, ((self.size // self.patch) ** 2, c.width), jnp.float32)
        self.kinds = self.param("kinds", init, (2, c.width), jnp.float32)
        self.patches = nn.Dense(c.width, kernel_init=nn.initializers.xavier_uniform())
        self.norm_in = nn.LayerNorm(epsilon=c.epsilon)
        self.encoder = Transformer(c)
        if not self.shared:
            self.targets = Transformer(c)
        self.out = nn.Dense(c.width, kernel_init=nn.initializers.xavier_uniform())

    def __call__(self, image: Float[Array, "B H W C"], text: Int[Array, "B L"]) -> Any:
        return self.of_caption(image, text), self.of_text(text, target=True)

    def text(self, ids: Int[Array, "B L"], hidden: Bool[Array, "B L"] | None = None) -> Float[Array, "B L D"]:
        """Token embeddings; those of `hidden` words are <SPE> at their place."""
        x = self.words[ids]
        x = x if hidden is None else jnp.where(hidden[..., None], self.spe, x)
        return self.norm_in(x + self.places[: ids.shape[1]] + self.kinds[0])

    def image(self, image: Float[Array, "B H W C"]) -> Float[Array, "B N D"]:
        return self.norm_in(self.patches(patchify(2.0 * image - 1.0, self.patch)) + self.grid + self.kinds[1])

    def encode(
        self, x: Float[Array, "B N D"], valid: Bool[Array, "B N"] | None = None, mask: Any = None, target: bool = False
    ) -> Float[Array, "B _ D"]:
        """Unit vectors of <SPE>, put in front, and of the tokens."""
        rows, _, width = x.shape
        front = jnp.broadcast_to(self.norm_in(self.spe + self.kinds[0]), (rows, 1, width))
        keys = None if valid is None else padding_mask(jnp.concatenate([jnp.ones((rows, 1), bool), valid], 1))
        if mask is not None:
            keys = mask if keys is None else mask & keys
        encoder = self.targets if target and not self.shared else self.encoder
        y, _ = encoder(jnp.concatenate([front, x], 1), keys)
        return l2_normalise(self.out(y))

    def of_image(self, image: Float[Array, "B H W C"]) -> Float[Array, "B D"]:
        return self.encode(self.image(image))[:, 0]

    def of_text(self, ids: Int[Array, "B L"], target: bool = False) -> Float[Array, "B D"]:
        """A padded word has no effect; a word alone is a text without BOS and EOS."""
        alone = ids.shape[1] == 1
        return self.encode(self.text(ids), None if alone else ids != PAD, target=target)[:, 0]

    def of_masked(self, ids: Int[Array, "B L"], hidden: Bool[Array, "B L"]) -> Float[Array, "B L D"]:
        return self.encode(self.text(ids, hidden), ids != PAD)[:, 1:]

    def of_caption(
        self, image: Float[Array, "B H W C"], ids: Int[Array, "B L"], peek: bool = False
    ) -> Float[Array, "B L D"]:
        """The vector that predicts each word from the image and the words before it, for all words at once."""
        patches, words = self.image(image), self.text(ids)
        copies = self.text(ids, jnp.ones(ids.shape, bool))
        mask = jnp.asarray(caption_mask(1, patches.shape[1], ids.shape[1], peek))
        return self.encode(jnp.concatenate([patches, words, copies], 1), mask=mask[None, None])[:, -ids.shape[1] :]


class Heads(nn.Module):
    """Linear layers for names and for words, in place of candidates."""

    classes: int
    vocab: int

    def setup(self) -> None:
        self.names, self.words = nn.Dense(self.classes), nn.Dense(self.vocab)

    def __call__(self, h: Float[Array, "B D"]) -> tuple[Array, Array]:
        return self.names(h), self.words(h)

    def of_names(self, h: Float[Array, "B D"]) -> Float[Array, "B C"]:
        return 14.0 * self.names(h)

    def of_words(self, h: Float[Array, "B L D"]) -> Float[Array, "B L V"]:
        return 14.0 * self.words(h)
