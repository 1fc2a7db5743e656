"""IRRA: text-to-person retrieval by matched distributions and masked words (Jiang and Ye 2023, arXiv 2303.12501).

Section 3.2, implicit relation reasoning: cross encoder, head      CrossEncoder, WordHead, mask_words
Section 3.3, equations 3 to 5, similarity distribution matching    sdm_loss, mmrep.losses.contrastive.distribution_matching
Section 3.4, identity loss (Zheng et al. 2020)                     id_loss
Baselines: InfoNCE, CMPM, and others that use identities       Config.objective

Trained from scratch or from `Phase.start`, not from OpenAI's CLIP alone. Padding is masked in the cross encoder, and pictures without
their class token are its keys; the authors mask nothing and add the class token. The cross encoder is not used in retrieval.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from mmrep.errors import ConfigError, check_fields
from mmrep.losses.contrastive import (
    cross_entropy,
    distribution_matching,
    false_negatives,
    info_nce,
    same_id,
    similarity,
)
from mmrep.losses.masked import token_loss
from mmrep.losses.reduce import masked_mean
from mmrep.masking.tokens import mask_tokens
from mmrep.modality import EOS, MASK
from mmrep.nn.attention import Attention, padding_mask
from mmrep.nn.config import TransformerConfig
from mmrep.nn.dual import Encoder, dual_encoder
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.nn.encoders.text import TextEncoder
from mmrep.nn.heads import l2_normalise
from mmrep.nn.norms import layer_norm, norm_layer
from mmrep.nn.placement import by_rows
from mmrep.nn.transformer import ACTIVATIONS, Transformer
from mmrep.system import Batch, Infer, Metrics, Params, System, stateless

Objective = Literal["sdm", "infonce", "excluded", "multi_positive", "cmpm"]
OBJECTIVES = ("sdm", "infonce", "excluded", "multi_positive", "cmpm")


@dataclass(frozen=True)
class Config:
    """A batch has `image`, `text` and `identity` [B].

    objective: "sdm", or a baseline: "infonce", "excluded" (InfoNCE without the same person among the negatives), "multi_positive" (the
               same person's texts share the target), "cmpm".   temperature: fixed.
    identities: persons of the training data, numbered from 0; 0: no identity loss.   id_weight, mlm_weight: of the losses; 0: none.
    cross:     transformer of the cross encoder, as wide as `dim`.   mask_rate: share of tokens to predict, one at least.
    """

    image: Encoder = ImageEncoder(pool="cls", pre_norm=True)
    text: TextEncoder = TextEncoder(causal=True, pool="eos")
    dim: int = 64
    objective: Objective = "sdm"
    temperature: float = 0.02
    identities: int = 0
    id_weight: float = 1.0
    mlm_weight: float = 1.0
    mask_rate: float = 0.15
    cross: TransformerConfig = TransformerConfig(width=64, depth=4, activation="quick_gelu")
    dtype: str = "float32"

    def check(self) -> None:
        check_fields(self, {
            "objective": (self.objective in OBJECTIVES, f"choose one of {', '.join(OBJECTIVES)}"),
            "temperature": (0 < self.temperature < math.inf, "it must be positive and finite"),
            "identities": (self.identities >= 0, "it must be at least 0"),
            "id_weight": (min(self.id_weight, self.mlm_weight) >= 0, "weights of losses are at least 0"),
            "mask_rate": (0 < self.mask_rate < 1, "it must be in (0, 1)"),
        })  # fmt: skip
        if self.mlm_weight and self.cross.width != self.dim:
            raise ConfigError(f"system.cross.width is {self.cross.width}: it must be system.dim, {self.dim}")

    def build(self) -> System:
        self.check()
        kind, masked = jnp.dtype(self.dtype), self.mlm_weight > 0
        encoders = {"image": self.image, "text": self.text}
        model = dual_encoder(encoders, self.dim, normalise=False, tokens=masked, dtype=self.dtype)
        cross, words = CrossEncoder(self.cross, kind), WordHead(self.text.vocab, self.dim, kind)
        classifier = nn.Dense(max(self.identities, 1), kernel_init=nn.initializers.normal(0.001))

        def init(rng: PRNGKeyArray, batch: Batch) -> tuple[Params, dict]:
            params = model.init(rng, batch)
            del params["scale"]
            keys = jax.random.split(jax.random.fold_in(rng, 1), 3)
            if masked:
                (_, seen), (_, told) = (model.full(params, batch, n) for n in ("image", "text"))
                params["cross"] = cross.init(keys[0], told["projected"], seen["projected"], told["valid"])["params"]
                params["words"] = words.init(keys[1], told["projected"])["params"]
            if self.identities:
                params["classifier"] = classifier.init(keys[2], jnp.zeros((1, self.dim)))["params"]
            return params, {}

        def predict(params: Params, ids: Int[Array, "B L"], pictures: Float[Array, "B M D"]) -> Float[Array, "B L V"]:
            told = model.full(params, {"text": ids}, "text")[1]
            fused = cross.apply({"params": params["cross"]}, told["projected"], pictures, told["valid"])
            return words.apply({"params": params["words"]}, fused)

        def loss(params: Params, batch: Batch, rng: PRNGKeyArray) -> tuple[Array, Metrics]:
            x, seen = model.full(params, batch, "image")
            y = model.embed(params, batch, "text")
            total = match_loss(x, y, batch["identity"], 1 / self.temperature, self.objective).mean()
            metrics = {"match": total}
            if self.identities:
                of_x, of_y = (classifier.apply({"params": params["classifier"]}, v) for v in (x, y))
                metrics["id"] = id_loss(of_x, of_y, batch["identity"]).mean()
                total += self.id_weight * metrics["id"]
            if masked:
                ids, target = mask_words(rng, batch["text"], self.text.vocab, self.mask_rate)
                logits = predict(params, ids, seen["projected"])
                metrics["mlm"] = masked_mean(token_loss(logits, batch["text"], target), target)
                metrics["mlm_accuracy"] = masked_mean(logits.argmax(-1) == batch["text"], target)
                total += self.mlm_weight * metrics["mlm"]
            return total, metrics

        def of(name: str) -> Infer:
            return lambda params, extras, batch: l2_normalise(model.embed(params, batch, name))

        def told_words(params: Params, extras: Any, batch: Batch) -> Float[Array, "B L V"]:
            return predict(params, batch["text"], model.full(params, batch, "image")[1]["projected"])

        infer = dict(model.infer()) | {"image": of("image"), "text": of("text")}
        return System(init, stateless(loss), infer | ({"words": told_words} if masked else {}))


class CrossEncoder(nn.Module):
    """Attention of words to a picture's patches without residual connection, then pre-norm blocks and a norm (section 3.2)."""

    config: TransformerConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, words: Float[Array, "B L D"], patches: Float[Array, "B M D"], valid: Bool[Array, "B L"]
    ) -> Float[Array, "B L D"]:
        words = norm_layer(self.config, self.dtype, "norm_words")(words)
        patches = norm_layer(self.config, self.dtype, "norm_patches")(patches)
        x = Attention(self.config, self.dtype, name="cross")(words, patches)[0]
        return Transformer(self.config, dtype=self.dtype, name="transformer")(x, padding_mask(valid))[0]


class WordHead(nn.Module):
    """Dense, QuickGELU, LayerNorm, and a Dense to the vocabulary that is not tied to the embeddings."""

    vocab: int
    dim: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L V"]:
        x = ACTIVATIONS["quick_gelu"](nn.Dense(self.dim, dtype=self.dtype, name="dense")(x))
        words = nn.Dense(self.vocab, dtype=self.dtype, name="words")(layer_norm(self.dtype, "norm")(x))
        return by_rows(words.astype(jnp.float32))


def match_loss(
    x: Float[Array, "B D"], y: Float[Array, "B D"], ids: Int[Array, " B"], scale: float, objective: Objective
) -> Float[Array, " B"]:
    """The objective's loss of each pair: for SDM and CMPM the sum of both directions, for the others their mean. x, y: of any length."""
    same, own = same_id(ids, ids), jnp.eye(len(ids), dtype=bool)
    u, v = l2_normalise(x), l2_normalise(y)
    if objective == "sdm":
        return sdm_loss(u, v, ids, scale)
    if objective == "cmpm":
        ways = similarity(x, v), similarity(y, u)
        return sum(distribution_matching(s, same, unit=True) for s in ways)  # type: ignore[return-value]
    ignore = false_negatives(ids, ids, own) if objective == "excluded" else None
    s, positives = scale * similarity(u, v), same if objective == "multi_positive" else own
    return 0.5 * (info_nce(s, positives, ignore=ignore) + info_nce(s.T, positives, ignore=ignore))


def sdm_loss(u: Float[Array, "B D"], v: Float[Array, "B D"], ids: Int[Array, " B"], scale: float) -> Float[Array, " B"]:
    """L_i2t + L_t2i of unit rows (equation 5): KL(softmax(scale * cosine) || same identity, normalised), both ways."""
    s, same = scale * similarity(u, v), same_id(ids, ids)
    return distribution_matching(s, same) + distribution_matching(s.T, same)


def id_loss(x: Float[Array, "B C"], y: Float[Array, "B C"], ids: Int[Array, " B"]) -> Float[Array, " B"]:
    """Half the sum of both sides' cross-entropy; a person outside of the classes has no target and costs 0."""
    target = jax.nn.one_hot(ids, x.shape[-1])
    return 0.5 * (cross_entropy(x, target) + cross_entropy(y, target))


def mask_words(
    rng: PRNGKeyArray, ids: Int[Array, "B L"], vocab: int, rate: float
) -> tuple[Int[Array, "B L"], Bool[Array, "B L"]]:
    """BERT's masking of words, never of BOS and EOS; where no word is drawn, the first one is masked."""
    corrupted, target = mask_tokens(rng, ids, vocab, rate)
    target &= ids != EOS
    first = ~target.any(1, keepdims=True) & (jnp.arange(ids.shape[1]) == 1)
    corrupted = jnp.where(first, MASK, jnp.where(target, corrupted, ids))
    return corrupted.astype(ids.dtype), target | first
