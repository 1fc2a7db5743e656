"""BridgeTower: every layer of the fusion receives its own layer of each encoder (Xu et al. 2023, arXiv 2206.08657).

Section 3.2, the encoders' last K levels, ln_post          model.encode
Equation 1 and 2, cross-modal layers, "Add & Norm" bridges  mmrep.nn.fusion.PairFusion, CoAttentionEncoder
Section 3.3, masked language modelling                      mmrep.masking.tokens
Section 3.3, image-text matching                            match_pairs, mmrep.losses.matching
Section 4.3, contrast and hard negatives (fine-tuning)      Config.itc_weight, Config.negatives
Section 4.3, visual question answering                      answer_loss

Not here: NLVR2's pairs of images, masking of whole words, and encoders with RMSNorm, since levels are normed by LayerNorm.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from mmrep.errors import ConfigError, check_fields
from mmrep.losses.contrastive import similarity, symmetric_info_nce
from mmrep.losses.masked import token_loss
from mmrep.losses.matching import hard_negatives, matching_loss, random_pairs
from mmrep.losses.reduce import masked_mean
from mmrep.masking.tokens import mask_tokens
from mmrep.nn.config import TransformerConfig
from mmrep.nn.dual import Encoder
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.nn.encoders.text import TextEncoder
from mmrep.system import Batch, Extras, Infer, Metrics, Params, System, stateless
from mmrep.systems.fusion.bridgetower import model
from mmrep.systems.fusion.bridgetower.model import BridgeTower, Levels, Mode


@dataclass(frozen=True)
class Config:
    """fusion:  of the cross-modal encoder; its depth K is the number of levels of each encoder that enter it.
    levels:    "bridges"; "last", the last levels alone without bridges (METER); "copies", bridges from copies of the last levels.
    answers:   of questions about the image; the batch entry "answer" is 0 where the text is no question, else 1 + the answer; 0: none.
    mask_rate: share of tokens that are predicted.   negatives: of matching; "hard" needs the contrast.
    dim, temperature: of the contrast, which exists where itc_weight is above 0.
    mlm_weight, itm_weight, itc_weight, answer_weight: of the losses.
    """

    image: Encoder = ImageEncoder(pool="cls")
    text: TextEncoder = TextEncoder(TransformerConfig(norm="post"), pool="cls")
    fusion: TransformerConfig = TransformerConfig(depth=2, norm="post")
    levels: Mode = "bridges"
    answers: int = 0
    mask_rate: float = 0.15
    negatives: Literal["random", "hard"] = "random"
    dim: int = 64
    temperature: float = 0.07
    mlm_weight: float = 1.0
    itm_weight: float = 1.0
    itc_weight: float = 0.0
    answer_weight: float = 1.0
    dtype: str = "float32"

    def check(self) -> None:
        check_fields(self, {
            "levels": (self.levels in ("bridges", "last", "copies"), "choose bridges, last or copies"),
            "answers": (self.answers >= 0, "it must be 0 or more"),
            "mask_rate": (0 < self.mask_rate < 1, "it must be in (0, 1)"),
            "negatives": (self.negatives in ("random", "hard"), "choose random or hard"),
            "temperature": (self.temperature > 0, "it must be positive"),
        } | {
            name: (getattr(self, name) >= 0, "the weight of a loss is at least 0")
            for name in ("mlm_weight", "itm_weight", "itc_weight", "answer_weight")
        })  # fmt: skip
        if self.negatives == "hard" and not self.itc_weight:
            raise ConfigError(
                'system.negatives is "hard" and itc_weight 0: negatives are drawn by the contrast\'s similarity'
            )

    def table_sizes(self) -> dict[str, int]:
        """Ids that it can take of modalities that no part of it is named after."""
        return {"answer": self.answers + 1} if self.answers else {}

    def build(self) -> System:
        self.check()
        parts = model.bridgetower(
            self.image, self.text, self.fusion, self.levels, self.answers, self.dim if self.itc_weight else None,
            1 / self.temperature, self.dtype,
        )  # fmt: skip

        def init(rng: PRNGKeyArray, batch: Batch) -> tuple[Params, Extras]:
            return model.init(parts, rng, batch, self.text.vocab), {}

        return System(init, stateless(partial(bridgetower_loss, self, parts)), infer(parts))


def match_pairs(
    rng: PRNGKeyArray, keys: Int[Array, "B *L"], logits: Float[Array, "B B"] | None
) -> tuple[Int[Array, " N"], Int[Array, " N"], Bool[Array, " N"], Bool[Array, " N"]]:
    """(text rows, image rows, is_match, counts): half of the texts with a random other image, or with `logits` 3 B pairs.

    logits: similarities of texts with images, by which a wrong image of each text and a wrong text of each image are drawn (ALBEF).
    """
    rows = jnp.arange(len(keys))
    if logits is None:
        image, is_match = random_pairs(rng, keys)
        return rows, image, is_match, jnp.ones(len(keys), bool)
    for_image, for_text = jax.random.split(rng)
    ids = keys if keys.ndim == 1 else None
    (image, has_image), (text, has_text) = (
        hard_negatives(for_image, logits, ids),
        hard_negatives(for_text, logits.T, ids),
    )
    counts = jnp.concatenate([jnp.ones(len(keys), bool), has_image, has_text])
    text_rows, image_rows = jnp.concatenate([rows, rows, text]), jnp.concatenate([rows, image, rows])
    return text_rows, image_rows, jnp.arange(3 * len(keys)) < len(keys), counts


def answer_loss(logits: Float[Array, "B A"], answer: Int[Array, " B"]) -> Float[Array, ""]:
    """Binary cross-entropy summed over the answers (the authors' mean times their number), over rows with an answer (above 0)."""
    truth = jax.nn.one_hot(answer - 1, logits.shape[-1])
    return masked_mean(optax.sigmoid_binary_cross_entropy(logits, truth).sum(-1), answer > 0)


def bridgetower_loss(
    config: Config, parts: BridgeTower, params: Params, batch: Batch, rng: PRNGKeyArray
) -> tuple[Float[Array, ""], Metrics]:
    """The weighted sum of the losses; words are masked in a pass of their own."""
    for_pairs, for_words = jax.random.split(rng)
    image, image_valid, image_pooled = model.encode(parts, params, "image", jnp.asarray(batch["image"]))
    text, valid, text_pooled = model.encode(parts, params, "text", batch["text"])
    metrics: dict[str, Array] = {}
    total = jnp.zeros(())
    logits = None
    if config.itc_weight:
        x, y = (model.contrast(parts, params, n, p) for n, p in (("text", text_pooled), ("image", image_pooled)))
        scale = parts.scale.apply({"params": params["scale"]})
        logits = scale * similarity(x, y)
        metrics["itc"] = symmetric_info_nce(x, y, scale, batch.get("id")).mean()
        total += config.itc_weight * metrics["itc"]
    if config.itm_weight:
        keys = jnp.asarray(batch.get("id", batch["text"]))
        t, i, is_match, counts = match_pairs(for_pairs, keys, logits if config.negatives == "hard" else None)
        pooled = model.fuse(parts, params, text[t], valid[t], image[i], image_valid[i])[2]
        judged = parts.match.apply({"params": params["match"]}, pooled).astype(jnp.float32)
        metrics["itm"] = masked_mean(matching_loss(judged, is_match), counts)
        metrics["itm_accuracy"] = masked_mean((judged[:, 1] > judged[:, 0]) == is_match, counts)
        total += config.itm_weight * metrics["itm"]
    if config.mlm_weight:
        corrupted, target = mask_tokens(for_words, batch["text"], config.text.vocab, config.mask_rate)
        masked, _, _ = model.encode(parts, params, "text", corrupted)
        words = model.fuse(parts, params, masked, valid, image, image_valid)[0]
        guessed = parts.mlm.apply({"params": params["mlm"]}, words, params["table"])
        metrics["mlm"] = masked_mean(token_loss(guessed, batch["text"], target), target)
        total += config.mlm_weight * metrics["mlm"]
    if parts.answer is not None and config.answer_weight:
        pooled = model.fuse(parts, params, text, valid, image, image_valid)[2]
        answers = parts.answer.apply({"params": params["answer"]}, pooled)
        metrics["answer"] = answer_loss(answers, batch["answer"])
        total += config.answer_weight * metrics["answer"]
    return total, metrics


def infer(parts: BridgeTower) -> dict[str, Infer]:
    """ "image_tokens" and "text_tokens" are the tokens of all K levels, the lowest level first; "answer_logits" [B, A] with answers."""

    def one(name: str) -> dict[str, Infer]:
        def pooled(params: Params, extras: Extras, batch: Batch) -> Float[Array, "B D"]:
            return model.contrast(parts, params, name, model.encode(parts, params, name, jnp.asarray(batch[name]))[2])

        def tokens(params: Params, extras: Extras, batch: Batch) -> tuple[Array, Array]:
            levels, valid, _ = model.encode(parts, params, name, jnp.asarray(batch[name]))
            rows, depth = levels.shape[:2]
            return levels.reshape(rows, -1, levels.shape[-1]).astype(jnp.float32), jnp.tile(valid, (1, depth))

        return {name: pooled, f"{name}_tokens": tokens}

    def pair(params: Params, batch: Batch) -> Float[Array, "B D"]:
        text, image = (model.encode(parts, params, n, jnp.asarray(batch[n])) for n in ("text", "image"))
        return model.fuse(parts, params, *text[:2], *image[:2])[2]

    def score(params: Params, extras: Extras, pairs: Batch) -> Float[Array, " B"]:
        depth = parts.fusion.config.depth

        def unfolded(name: str) -> tuple[Levels, Array]:
            x, valid = pairs[f"{name}_tokens"], pairs[f"{name}_valid"]
            return x.reshape(len(x), depth, -1, x.shape[-1]), valid[:, : valid.shape[1] // depth]

        pooled = model.fuse(parts, params, *unfolded("text"), *unfolded("image"))[2]
        logits = parts.match.apply({"params": params["match"]}, pooled).astype(jnp.float32)
        return logits[:, 1] - logits[:, 0]

    def fused(params: Params, extras: Extras, batch: Batch) -> Float[Array, "B D"]:
        return pair(params, batch).astype(jnp.float32)

    found = one("text") | one("image") | {"score": score, "fused": fused}
    if (head := parts.answer) is not None:
        found["answer_logits"] = lambda params, extras, batch: head.apply(
            {"params": params["answer"]}, pair(params, batch)
        )
    return found
