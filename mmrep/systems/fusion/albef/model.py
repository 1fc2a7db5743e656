"""ALBEF's network: two encoders, a fusion encoder by cross-attention, and the heads of ITM and MLM (Li et al. 2021, section 3.1)."""

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mmrep.nn.dual import DualEncoder, dual_encoder
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.nn.encoders.text import TextEncoder
from mmrep.nn.fusion import FusionEncoder
from mmrep.nn.heads import MaskedLmHead, Projection
from mmrep.system import Batch, Extras, Infer, Params


class Albef(NamedTuple):
    """The parts of the network; parameters are {"image", "text", "scale", "fusion", "match", "mlm"}."""

    dual: DualEncoder
    fusion: FusionEncoder
    itm_head: Projection
    mlm_head: MaskedLmHead


class Encoded(NamedTuple):
    """A batch after both encoders: unit features [B, D], and all tokens with the mask of the text's valid ones."""

    image: Float[Array, "B D"]
    text: Float[Array, "B D"]
    image_tokens: Float[Array, "B M W"]
    text_tokens: Float[Array, "B N W"]
    text_valid: Bool[Array, "B N"]


def albef(image: ImageEncoder, text: TextEncoder, fusion_depth: int, dim: int, scale: float, dtype: str) -> Albef:
    """The fusion encoder has the text encoder's transformer but for its depth."""
    dual = dual_encoder({"image": image, "text": text}, dim, scale=scale, max_scale=1000.0, dtype=dtype)
    kind = jnp.dtype(dtype)
    fusion = FusionEncoder(replace(text.transformer, depth=fusion_depth), dtype=kind)
    return Albef(dual, fusion, Projection(2, normalise=False, use_bias=True, dtype=kind), MaskedLmHead(dtype=kind))


def init(parts: Albef, keys: Mapping[str, Array], batch: Batch) -> Params:
    params = parts.dual.init(keys["encoders"], batch)
    e = encode(parts, params, batch)
    return params | {
        "fusion": parts.fusion.init(keys["fusion"], e.text_tokens, e.image_tokens, e.text_valid)["params"],
        "match": parts.itm_head.init(keys["match"], e.text_tokens[:, 0])["params"],
        "mlm": parts.mlm_head.init(keys["mlm"], e.text_tokens, params["text"]["encoder"]["embed"]["embedding"])[
            "params"
        ],
    }


def encode(parts: Albef, params: Params, batch: Batch) -> Encoded:
    image, image_out = parts.dual.full(params, batch, "image")
    text, text_out = parts.dual.full(params, batch, "text")
    return Encoded(image, text, image_out["tokens"], text_out["tokens"], text_out["valid"])


def fuse(
    parts: Albef,
    params: Params,
    text_tokens: Float[Array, "B N W"],
    text_valid: Bool[Array, "B N"],
    image_tokens: Float[Array, "B M V"],
) -> dict[str, Array]:
    """The fusion encoder's `out`: "tokens" [B, N, W] and "pooled" [B, W]."""
    return parts.fusion.apply({"params": params["fusion"]}, text_tokens, image_tokens, text_valid)[1]


def itm_logits(
    parts: Albef, params: Params, text_tokens: Array, text_valid: Array, image_tokens: Array
) -> Float[Array, "B 2"]:
    """(no match, match) of aligned pairs."""
    pooled = fuse(parts, params, text_tokens, text_valid, image_tokens)["pooled"]
    return parts.itm_head.apply({"params": params["match"]}, pooled).astype(jnp.float32)


def mlm_logits(
    parts: Albef, params: Params, ids: Int[Array, "B N"], image_tokens: Float[Array, "B M W"]
) -> Float[Array, "B N V"]:
    """Logits over the vocabulary of every token of (corrupted) texts, given the images."""
    _, text = parts.dual.full(params, {"text": ids}, "text")
    fused = fuse(parts, params, text["tokens"], text["valid"], image_tokens)["tokens"]
    table = params["text"]["encoder"]["embed"]["embedding"]  # the head shares the text encoder's embeddings
    return parts.mlm_head.apply({"params": params["mlm"]}, fused, table)


def infer(parts: Albef) -> dict[str, Infer]:
    """Beside the encoders' own: both "_tokens"; "score", the log-odds of a match; "fused", the fusion encoder's pooled vector."""

    def image_tokens(params: Params, extras: Extras, batch: Batch) -> tuple[Array, Array]:
        tokens = parts.dual.full(params, batch, "image")[1]["tokens"]
        return tokens, jnp.ones(tokens.shape[:2], bool)

    def text_tokens(params: Params, extras: Extras, batch: Batch) -> tuple[Array, Array]:
        _, out = parts.dual.full(params, batch, "text")
        return out["tokens"], out["valid"]

    def score(params: Params, extras: Extras, pairs: Batch) -> Float[Array, " B"]:
        logits = itm_logits(parts, params, pairs["text_tokens"], pairs["text_valid"], pairs["image_tokens"])
        return logits[:, 1] - logits[:, 0]

    def fused(params: Params, extras: Extras, batch: Batch) -> Float[Array, "B D"]:
        e = encode(parts, params, batch)
        return fuse(parts, params, e.text_tokens, e.text_valid, e.image_tokens)["pooled"].astype(jnp.float32)

    found = {"image_tokens": image_tokens, "text_tokens": text_tokens, "score": score, "fused": fused}
    return parts.dual.infer() | found
