"""CCR_k: one picture and its K texts, one a language, contrasted at once (1-to-K; Nie et al. 2024, arXiv 2406.18254).

Section 3.2, 1-to-K contrastive learning (KCL)                   one_to_k_loss, Config.weighting
Section 3.3, matching with the worst language (MITM)             worst_language, matching.hard_pairs
Section 3.3, cross-lingual masked language modelling (CMLM)      matching.Heads.mlm_logits, mmrep.masking.tokens.mask_tokens
Section 3.4, mean rank variance (MRV)                            evals.Languages, mmrep.evals.geometry.rank_variance
Baselines: English as a pivot; one positive; one language a step Config.objective

A ViT takes the place of Swin-B. The invariance terms that the authors log are left out: they are not in their loss.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from mmrep.errors import ConfigError, check_fields
from mmrep.losses.contrastive import Scalar, info_nce, similarity, symmetric_info_nce
from mmrep.losses.masked import token_loss
from mmrep.losses.reduce import masked_mean
from mmrep.masking.tokens import mask_tokens
from mmrep.nn.dual import DualEncoder, Encoder, dual_encoder
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.nn.encoders.text import TextEncoder
from mmrep.system import Batch, Infer, Metrics, Params, System, stateless
from mmrep.systems.contrastive.one_to_k.matching import Heads, hard_pairs, worst_language

Objective = Literal["one_to_k", "pivot", "one_positive", "random"]
OBJECTIVES = ("one_to_k", "pivot", "one_positive", "random")


@dataclass(frozen=True)
class Config:
    """An image encoder and one text encoder for the K text modalities `languages`; `infer` has a function named after each.

    objective: "one_to_k": all K texts of a picture are its positives.   "pivot": picture with the first language, that one with the others.
               "one_positive": one random text is positive, the picture's others are negatives.   "random": one random text is encoded.
    weighting: "balanced": the mean over a picture's K texts, and half of both directions.   "code": the authors', whose direction from text
               to picture counts 1/K of that.
    fusion_depth: layers of the fusion encoder for MITM and CMLM; 0: neither, any text encoder will do.
    itm_weight, mlm_weight, mask_rate: of MITM and CMLM.   temperature: at the start, learned, at least 0.001.
    present:   the batch holds `present` [B, K], 1 where a picture has the text of a language; each has one or more.
    """

    image: Encoder = ImageEncoder(pool="cls")
    text: Encoder = TextEncoder(pool="cls")
    languages: tuple[str, ...] = ("text", "text_1")
    dim: int = 64
    objective: Objective = "one_to_k"
    weighting: Literal["balanced", "code"] = "balanced"
    fusion_depth: int = 0
    itm_weight: float = 1.0
    mlm_weight: float = 1.0
    mask_rate: float = 0.4
    temperature: float = 0.07
    present: bool = False
    dtype: str = "float32"

    def check(self) -> None:
        check_fields(self, {
            "objective": (self.objective in OBJECTIVES, f"choose one of {', '.join(OBJECTIVES)}"),
            "weighting": (self.weighting in ("balanced", "code"), "choose balanced or code"),
            "languages": (2 <= len(self.languages) == len({*self.languages} - {"image", "present"}), "name two text modalities or more"),
            "temperature": (0.001 <= self.temperature <= 0.5, "it must be in [0.001, 0.5]"),
            "mask_rate": (0 < self.mask_rate < 1, "it must be in (0, 1)"),
            "fusion_depth": (self.fusion_depth >= 0, "it must be at least 0"),
            "itm_weight": (min(self.itm_weight, self.mlm_weight) >= 0, "weights of losses are at least 0"),
        })  # fmt: skip
        if self.fusion_depth and (self.objective != "one_to_k" or not isinstance(self.text, TextEncoder)):
            raise ConfigError("system.fusion_depth is set: it needs objective one_to_k and a TextEncoder")
        if self.present and self.objective == "pivot":
            raise ConfigError('system.present is set, but objective "pivot" needs every text')

    def build(self) -> System:
        self.check()
        model = dual_encoder(
            {"image": self.image, "text": self.text},
            self.dim,
            scale=1 / self.temperature,
            max_scale=1000.0,
            dtype=self.dtype,
        )
        heads = Heads(self.text.transformer, self.text.vocab, self.fusion_depth, jnp.dtype(self.dtype)) if isinstance(self.text, TextEncoder) else None  # fmt: skip
        heads = heads if self.fusion_depth else None

        def init(rng: PRNGKeyArray, batch: Batch) -> tuple[Params, dict]:
            batch = batch | {"text": batch[self.languages[0]]}
            params = model.init(rng, batch)
            return params | (heads.init(rng, model, params, batch) if heads else {}), {}

        def loss(params: Params, batch: Batch, rng: PRNGKeyArray) -> tuple[Array, Metrics]:
            scale = model.scale(params)
            texts = jnp.stack([batch[name] for name in self.languages], 1)
            there = batch["present"] > 0 if self.present else jnp.ones(texts.shape[:2], bool)
            drawn = jax.random.categorical(rng, jnp.where(there, 0.0, -jnp.inf))
            if self.objective == "random":
                x, y = (
                    model.embed(params, b, n) for n, b in (("image", batch), ("text", {"text": chosen(texts, drawn)}))
                )
                return symmetric_info_nce(x, y, scale).mean(), {"scale": scale}
            x, seen = model.full(params, batch, "image")
            flat, told = model.full(params, {"text": texts.reshape(-1, *texts.shape[2:])}, "text")
            y = flat.reshape(*texts.shape[:2], -1)
            if self.objective == "pivot":
                return pivot_loss(x, y, scale).mean(), {"scale": scale}
            if self.objective == "one_positive":
                there_one = jax.nn.one_hot(drawn, there.shape[1], dtype=bool)
                return one_to_k_loss(x, y, scale, there, positive=there_one), {"scale": scale}
            value = one_to_k_loss(x, y, scale, there, weighting=self.weighting)
            metrics = {"scale": scale, "kcl": value}
            if heads:
                more = fused_losses(self, model, heads, params, rng, (texts, x, y, there, scale), seen["tokens"], told)
                value += self.itm_weight * more["itm"] + self.mlm_weight * more["mlm"]
                metrics |= more
            return value, metrics

        def of(name: str) -> Infer:
            return lambda params, extras, batch: model.embed(params, {"text": batch[name]}, "text")

        found: dict[str, Infer] = {k: f for k, f in model.infer().items() if k.startswith("image")}
        found |= {name: of(name) for name in self.languages}
        return System(init, stateless(loss), found | (heads.infer(model, self.languages[0]) if heads else {}))


def chosen(texts: Array, language: Int[Array, " B"]) -> Array:
    """Row i of language[i], of [B, K, ...]."""
    return jnp.take_along_axis(texts, language.reshape(-1, 1, *[1] * (texts.ndim - 2)), axis=1)[:, 0]


def one_to_k_loss(
    x: Float[Array, "B D"], y: Float[Array, "B K D"], scale: Scalar, present: Bool[Array, "B K"] | None = None,
    positive: Bool[Array, "B K"] | None = None, weighting: Literal["balanced", "code"] = "balanced",
) -> Float[Array, ""]:  # fmt: skip
    """The KCL of B pictures and the K texts of each, unit vectors; texts that are not `present` are neither positives nor negatives.

    From picture to texts all K are targets of one softmax, so that its sum over them is at least K log K.
    positive: texts that count as positives, instead of all present ones (an ablation).
    """
    b, k = y.shape[:2]
    there = jnp.ones((b, k), bool) if present is None else present
    wanted = there if positive is None else positive & there
    logits = scale * similarity(x, y.reshape(b * k, -1))
    own = jnp.repeat(jnp.eye(b, dtype=bool), k, axis=1)
    to_text = info_nce(logits, own & wanted.reshape(-1), ignore=jnp.broadcast_to(~there.reshape(-1), own.shape))
    to_image = masked_mean(info_nce(logits.T, own.T), wanted.reshape(-1))
    if weighting == "balanced":
        return 0.5 * (to_text.mean() + to_image)
    return 0.5 * ((wanted.sum(1) * to_text).mean() + to_image) / k


def pivot_loss(x: Float[Array, "B D"], y: Float[Array, "B K D"], scale: Scalar) -> Float[Array, " B"]:
    """InfoNCE of pictures and the first language, plus the mean of that language and each of the others."""
    others = [symmetric_info_nce(y[:, 0], y[:, k], scale) for k in range(1, y.shape[1])]
    return symmetric_info_nce(x, y[:, 0], scale) + sum(others[1:], others[0]) / len(others)


def fused_losses(
    config: Config, model: DualEncoder, heads: Heads, params: Params, rng: PRNGKeyArray, given: tuple[Any, ...], pixels: Array, told: dict[str, Array],
) -> Metrics:  # fmt: skip
    """{"itm": MITM, "mlm": CMLM of the worst language's texts}."""
    texts, x, y, there, scale = given
    for_language, for_pairs, for_mask = jax.random.split(jax.random.fold_in(rng, 1), 3)
    flat = y.reshape(-1, y.shape[-1])
    to_text, to_image = (jax.lax.stop_gradient(scale * s) for s in (similarity(x, flat), similarity(flat, x)))
    language = worst_language(for_language, to_text, there)
    take: Callable[[Array], Array] = lambda v: chosen(v.reshape(*there.shape, *v.shape[1:]), language)  # noqa: E731
    image_at, text_at, fine = hard_pairs(for_pairs, to_text, take(to_image), there)
    tokens, valid = told["tokens"], told["valid"]
    pairs = (
        jnp.concatenate([take(tokens), take(tokens), tokens[text_at]]),
        jnp.concatenate([take(valid), take(valid), valid[text_at]]),
        jnp.concatenate([pixels, pixels[image_at], pixels]),
    )
    matched = jnp.arange(3 * len(x)) < len(x)
    itm = token_loss(
        heads.match(params, *pairs)[:, None], matched[:, None].astype(jnp.int32), jnp.ones((3 * len(x), 1), bool)
    )[:, 0]
    ids = take(texts.reshape(-1, *texts.shape[2:]))
    corrupted, target = mask_tokens(for_mask, ids, heads.vocab, config.mask_rate)
    logits = heads.mlm_logits(model, params, corrupted, pixels)
    return {
        "itm": masked_mean(itm, jnp.concatenate([jnp.ones(len(x), bool), fine, fine])),
        "mlm": masked_mean(token_loss(logits, ids, target), target),
        "language": language.mean(dtype=jnp.float32),
    }
