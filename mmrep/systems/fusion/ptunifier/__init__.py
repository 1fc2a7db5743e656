"""PTUnifier: one fusion encoder for pairs and single inputs, by soft prompts (Chen et al. 2023, arXiv 2302.08958).

Section 3.2, prompt pools, queries and top-k choice        model.chosen_rows, model.token_mean
Section 3.2, inputs of image, text and pair                model.PTUnifier.pseudo_text, pseudo_image
Section 3.1, encoders and co-attention                     model.PTUnifier, mmrep.nn.fusion.PairFusion
Section 3.3, masked language modelling, matching           mmrep.masking.tokens, mmrep.losses.matching
Section 3.3, contrast of single inputs                     model.PTUnifier.image_only, text_only

Gradients reach the chosen rows of a pool alone, not the scores. Not here: report generation, the ranking head and masking of whole words.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from mmrep.errors import ConfigError, check_fields
from mmrep.losses.contrastive import symmetric_info_nce
from mmrep.losses.masked import token_loss
from mmrep.losses.matching import matching_loss, random_pairs
from mmrep.losses.reduce import masked_mean
from mmrep.masking.tokens import mask_tokens
from mmrep.nn.config import TransformerConfig
from mmrep.system import Batch, Extras, Infer, Metrics, Params, System, stateless
from mmrep.systems.fusion.ptunifier.model import PTUnifier, StandIn

Call = Any
"""(params, method, *inputs) -> what that method of PTUnifier returns."""


@dataclass(frozen=True)
class Config:
    """image, text, fusion: transformers, the last of co-attention layers.   patch: in pixels; 0: "image" is a set of vectors [N, D].
    pool:      vectors of each prompt pool.   image_prompts, text_prompts: chosen for a missing image, and for a missing text.
    stand_in:  "pool"; "static", the same vectors for every input; "none", no vectors (ablations).
    cosine:    normalised scores, so that a long row of a pool is not chosen for every query (the authors' are not).
    dim:       of the contrast.   temperature: of it, fixed.
    mask_rate: share of tokens that are predicted.   mlm_weight, itm_weight, itc_weight: of the losses. itc_weight 0: pairs alone are trained,
               without pools; a missing modality is then its first token.
    """

    image: TransformerConfig = TransformerConfig(depth=2)
    text: TransformerConfig = TransformerConfig(depth=2, norm="post")
    fusion: TransformerConfig = TransformerConfig(depth=2, norm="post")
    patch: int = 8
    vocab: int = 1024
    length: int = 32
    pool: int = 128
    image_prompts: int = 8
    text_prompts: int = 8
    stand_in: StandIn = "pool"
    cosine: bool = False
    dim: int = 64
    temperature: float = 0.1
    mask_rate: float = 0.15
    mlm_weight: float = 1.0
    itm_weight: float = 0.5
    itc_weight: float = 0.1
    dtype: str = "float32"

    def check(self) -> None:
        check_fields(self, {
            "patch": (self.patch >= 0, "it must be 0 or more"),
            "stand_in": (self.stand_in in ("pool", "static", "none"), "choose pool, static or none"),
            "temperature": (self.temperature > 0, "it must be positive"),
            "mask_rate": (0 < self.mask_rate < 1, "it must be in (0, 1)"),
        } | {
            name: (getattr(self, name) >= 1, "it must be 1 or more") for name in ("pool", "image_prompts", "text_prompts", "dim")
        } | {
            name: (getattr(self, name) >= 0, "the weight of a loss is at least 0")
            for name in ("mlm_weight", "itm_weight", "itc_weight")
        })  # fmt: skip

    def build(self) -> System:
        self.check()
        module = PTUnifier(
            self.image, self.text, self.fusion, self.patch, self.vocab, self.length, self.pool, self.image_prompts, self.text_prompts,
            self.stand_in if self.itc_weight else "none", self.cosine, self.dim if self.itc_weight else 0, jnp.dtype(self.dtype),
        )  # fmt: skip

        def init(rng: PRNGKeyArray, batch: Batch) -> tuple[Params, Extras]:
            if len(batch["text"]) < 2:
                raise ConfigError(f"data.batch_size is {len(batch['text'])}: matching needs at least 2 pairs")
            return module.init(rng, batch["text"], batch["image"])["params"], {}

        def call(params: Params, method: str, *inputs: Any) -> Any:
            return module.apply({"params": params}, *inputs, method=method)

        return System(init, stateless(partial(ptunifier_loss, self, call)), infer(self, call))


def ptunifier_loss(
    config: Config, call: Call, params: Params, batch: Batch, rng: PRNGKeyArray
) -> tuple[Float[Array, ""], Metrics]:
    """The weighted sum of MLM and matching over pairs and the contrast of single inputs. No row has stand-ins on both sides."""
    for_pairs, for_words = jax.random.split(rng)
    ids, image = batch["text"], jnp.asarray(batch["image"])
    pixels = call(params, "encode_image", image)[0]
    metrics: dict[str, Array] = {}
    total = jnp.zeros(())
    if config.itm_weight:
        index, is_match = random_pairs(for_pairs, jnp.asarray(batch.get("id", ids)))
        pooled = call(params, "fuse", *call(params, "encode_text", ids), pixels[index])[1]
        judged = call(params, "judge", pooled)
        metrics["itm"] = matching_loss(judged, is_match).mean()
        metrics["itm_accuracy"] = masked_mean((judged[:, 1] > judged[:, 0]) == is_match)
        total += config.itm_weight * metrics["itm"]
    if config.mlm_weight:
        corrupted, target = mask_tokens(for_words, ids, config.vocab, config.mask_rate)
        words = call(params, "fuse", *call(params, "encode_text", corrupted), pixels)[0]
        metrics["mlm"] = masked_mean(token_loss(call(params, "predict", words), ids, target), target)
        total += config.mlm_weight * metrics["mlm"]
    if config.itc_weight:
        x, y = call(params, "image_only", image), call(params, "text_only", ids)
        metrics["itc"] = symmetric_info_nce(x, y, 1 / config.temperature, batch.get("id")).mean()
        total += config.itc_weight * metrics["itc"]
    return total, metrics


def infer(config: Config, call: Call) -> dict[str, Infer]:
    """ "image" and "text" are single inputs with a stand-in; with pools "rows_for_image" and "rows_for_text" are the chosen rows [B, k]."""

    def image(params: Params, extras: Extras, batch: Batch) -> Float[Array, "B D"]:
        return call(params, "image_only", jnp.asarray(batch["image"])).astype(jnp.float32)

    def text(params: Params, extras: Extras, batch: Batch) -> Float[Array, "B D"]:
        return call(params, "text_only", batch["text"]).astype(jnp.float32)

    def image_tokens(params: Params, extras: Extras, batch: Batch) -> tuple[Array, Array]:
        return call(params, "encode_image", jnp.asarray(batch["image"]))

    def text_tokens(params: Params, extras: Extras, batch: Batch) -> tuple[Array, Array]:
        return call(params, "encode_text", batch["text"])

    def score(params: Params, extras: Extras, pairs: Batch) -> Float[Array, " B"]:
        pooled = call(params, "fuse", *(pairs[k] for k in ("text_tokens", "text_valid", "image_tokens")))[1]
        logits = call(params, "judge", pooled)
        return logits[:, 1] - logits[:, 0]

    def fused(params: Params, extras: Extras, batch: Batch) -> Float[Array, "B D"]:
        pixels = call(params, "encode_image", jnp.asarray(batch["image"]))[0]
        return call(params, "fuse", *call(params, "encode_text", batch["text"]), pixels)[1].astype(jnp.float32)

    found: dict[str, Infer] = {"image": image, "text": text, "image_tokens": image_tokens, "text_tokens": text_tokens}
    found |= {"score": score, "fused": fused}

    def rows_for(name: str) -> Infer:
        def run(params: Params, extras: Extras, batch: Batch) -> Array:
            return call(params, f"rows_for_{name}", jnp.asarray(batch[name]))

        return run

    if config.itc_weight and config.stand_in == "pool":
        found |= {f"rows_for_{name}": rows_for(name) for name in ("image", "text")}
    return found
