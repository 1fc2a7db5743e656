"""CCR_k's fusion encoder, and the pairs that it compares (Nie et al. 2024, section 3.3)."""

from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from mmrep.nn.config import TransformerConfig
from mmrep.nn.dual import DualEncoder
from mmrep.nn.fusion import FusionEncoder
from mmrep.nn.heads import MaskedLmHead, Projection
from mmrep.system import Batch, Infer, Params

FLOOR = 1e-5


def worst_language(rng: PRNGKeyArray, to_text: Float[Array, "B N"], present: Bool[Array, "B K"]) -> Int[Array, " B"]:
    """A language of each picture, drawn with probability proportional to max weight + 1e-5 - its text's weight in softmax(to_text)."""
    b, k = present.shape
    weights = jax.nn.softmax(jnp.where(present.reshape(-1), to_text, -jnp.inf)) + FLOOR
    own = jnp.einsum("bbk->bk", weights.reshape(b, b, k))
    return jax.random.categorical(rng, jnp.where(present, jnp.log(weights.max() + FLOOR - own), -jnp.inf))


def hard_pairs(
    rng: PRNGKeyArray, to_text: Float[Array, "B N"], to_image: Float[Array, "B B"], present: Bool[Array, "B K"]
) -> tuple[Int[Array, " B"], Int[Array, " B"], Bool[Array, " B"]]:
    """(a wrong picture for each chosen text, a wrong text [0, B K) for each picture, whether there are any), by softmax + 1e-5.

    to_image: logits of the chosen texts.
    """
    b, k = present.shape
    for_image, for_text = jax.random.split(rng)
    other = ~jnp.eye(b, dtype=bool)
    allowed = jnp.repeat(other, k, axis=1) & present.reshape(-1)
    image = jnp.where(other, jnp.log(jax.nn.softmax(to_image) + FLOOR), -jnp.inf)
    text = jnp.where(allowed, jnp.log(jax.nn.softmax(to_text) + FLOOR), -jnp.inf)
    fine = other.any(1)
    image, text = (jnp.where(fine[:, None], s, 0.0) for s in (image, text))
    return jax.random.categorical(for_image, image), jax.random.categorical(for_text, text), fine


class Heads(NamedTuple):
    """A fusion encoder over the text encoder's tokens, and heads of matching and masked words; parameters "fusion", "match", "mlm"."""

    transformer: TransformerConfig
    vocab: int
    depth: int
    dtype: Any

    @property
    def fusion(self) -> FusionEncoder:
        return FusionEncoder(replace(self.transformer, depth=self.depth), dtype=self.dtype)

    @property
    def matcher(self) -> Projection:
        return Projection(2, normalise=False, use_bias=True, dtype=self.dtype)

    def init(self, rng: PRNGKeyArray, model: DualEncoder, params: Params, batch: Batch) -> Params:
        keys = jax.random.split(jax.random.fold_in(rng, 1), 3)
        pixels, words = (model.full(params, batch, name)[1] for name in ("image", "text"))
        tokens, table = words["tokens"], params["text"]["encoder"]["embed"]["embedding"]
        return {
            "fusion": self.fusion.init(keys[0], tokens, pixels["tokens"], words["valid"])["params"],
            "match": self.matcher.init(keys[1], tokens[:, 0])["params"],
            "mlm": MaskedLmHead(dtype=self.dtype).init(keys[2], tokens, table)["params"],
        }

    def fuse(self, params: Params, tokens: Array, valid: Array, pixels: Array) -> dict[str, Array]:
        return self.fusion.apply({"params": params["fusion"]}, tokens, pixels, valid)[1]

    def match(self, params: Params, tokens: Array, valid: Array, pixels: Array) -> Float[Array, "B 2"]:
        """Logits (no match, match) of aligned pairs."""
        pooled = self.fuse(params, tokens, valid, pixels)["pooled"]
        return self.matcher.apply({"params": params["match"]}, pooled).astype(jnp.float32)

    def mlm_logits(
        self, model: DualEncoder, params: Params, ids: Int[Array, "B L"], pixels: Float[Array, "B M W"]
    ) -> Float[Array, "B L V"]:
        out = model.full(params, {"text": ids}, "text")[1]
        tokens = self.fuse(params, out["tokens"], out["valid"], pixels)["tokens"]
        table = params["text"]["encoder"]["embed"]["embedding"]
        return MaskedLmHead(dtype=self.dtype).apply({"params": params["mlm"]}, tokens, table)

    def infer(self, model: DualEncoder, language: str) -> dict[str, Infer]:
        """Both "_tokens" (of texts in the first language) and "score", the log-odds of a match."""

        def image_tokens(params: Params, extras: dict, batch: Batch) -> tuple[Array, Array]:
            tokens = model.full(params, batch, "image")[1]["tokens"]
            return tokens, jnp.ones(tokens.shape[:2], bool)

        def text_tokens(params: Params, extras: dict, batch: Batch) -> tuple[Array, Array]:
            out = model.full(params, {"text": batch[language]}, "text")[1]
            return out["tokens"], out["valid"]

        def score(params: Params, extras: dict, pairs: Batch) -> Float[Array, " B"]:
            logits = self.match(params, pairs["text_tokens"], pairs["text_valid"], pairs["image_tokens"])
            return logits[:, 1] - logits[:, 0]

        return {"image_tokens": image_tokens, f"{language}_tokens": text_tokens, "score": score}
