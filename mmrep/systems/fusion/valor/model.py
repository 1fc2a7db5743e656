"""VALOR's scores and masks, and the context of its decoder."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from mmrep.losses.late_interaction import Padding, late_similarity
from mmrep.masking.tokens import mask_tokens
from mmrep.modality import BOS, MASK, PAD
from mmrep.nn.dual import DualEncoder, Encoder, dual_encoder
from mmrep.nn.encoders.decoder_lm import DecoderLM, DecoderStack
from mmrep.nn.heads import l2_normalise
from mmrep.system import Batch, Params

GROUPS: Mapping[str, tuple[str, ...]] = {"tv": ("video",), "ta": ("sound",), "tva": ("video", "sound")}
"""The modalities that a text is compared with, and told from, in each group."""

Side = tuple[Float[Array, "_ _ _"], Bool[Array, "_ _"], Float[Array, "_ _"]]
"""(unit tokens [B, N, D], which are valid [B, N], raw weights [B, N])."""


def joined(*sides: Side) -> Side:
    """Several sides as one: their tokens beside each other, with one softmax over all raw weights."""
    tokens, valid, raw = zip(*sides)
    return jnp.concatenate(tokens, 1), jnp.concatenate(valid, 1), jnp.concatenate(raw, 1)


def weights(valid: Bool[Array, "B N"], raw: Float[Array, "B N"]) -> Float[Array, "B N"]:
    """The softmax of the raw weights over valid tokens; 0 elsewhere, also where none is valid."""
    kept = jnp.where(valid, raw.astype(jnp.float32), -jnp.inf)
    top = jnp.max(kept, axis=-1, keepdims=True)
    shares = jnp.where(valid, jnp.exp(kept - jnp.where(jnp.isfinite(top), top, 0.0)), 0.0)
    return shares / jnp.maximum(shares.sum(-1, keepdims=True), 1e-12)


def fine_score(a: Side, b: Side, padding: Padding = "exclude", chunk: int = 0) -> Float[Array, "B C"]:
    """Equation 1: half the sum of both directions' weighted token-wise maxima. padding "zero" is the authors' code."""
    forth, back = late_similarity(
        a[:2], b[:2], chunk or None, weights(a[1], a[2]), weights(b[1], b[2]), padding
    )  # fmt: skip
    return 0.5 * (forth + back)


def mask_caption(
    rng: PRNGKeyArray, ids: Int[Array, "B L"], vocab: int, rate: float = 0.6
) -> tuple[Int[Array, "B L"], Bool[Array, "B L"]]:
    """(corrupted, target) as `mask_tokens`, with at least one target, a MASK, in each row that has a token beside BOS."""
    for_mask, for_one = jax.random.split(rng)
    corrupted, target = mask_tokens(for_mask, ids, vocab, rate)
    maskable = (ids != PAD) & (ids != BOS)
    drawn = jnp.argmax(jnp.where(maskable, jax.random.uniform(for_one, ids.shape), -1.0), axis=1)
    forced = (jnp.arange(ids.shape[1]) == drawn[:, None]) & maskable & ~target.any(1, keepdims=True)
    return jnp.where(forced, jnp.asarray(MASK, ids.dtype), corrupted), target | forced


class Weighting(nn.Module):
    """The raw weight of each token: a perceptron of the token's own vector with one hidden layer of the same size and ReLU."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, tokens: Float[Array, "B N D"]) -> Float[Array, "B N"]:
        x = nn.relu(nn.Dense(tokens.shape[-1], dtype=self.dtype, name="hidden")(tokens))
        return nn.Dense(1, dtype=self.dtype, name="out")(x)[..., 0].astype(jnp.float32)


class Context(nn.Module):
    """Tokens of video and of sound beside each other, each by a linear map to `width` and with a learned embedding of its modality."""

    width: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, video: Float[Array, "B N E"], sound: Float[Array, "B M F"]) -> Float[Array, "B K W"]:
        found = []
        for name, x in (("video", video), ("sound", sound)):
            kind = self.param(f"type_{name}", nn.initializers.normal(0.02), (self.width,), jnp.float32)
            found.append(nn.Dense(self.width, dtype=self.dtype, name=name)(x) + kind.astype(self.dtype))
        return jnp.concatenate(found, axis=1)


class Valor(NamedTuple):
    """The parts; `weigh` weighs tokens, `both` maps the vectors of video and sound to one. The last five fields are those of Config."""

    dual: DualEncoder
    weigh: Weighting
    both: nn.Dense
    context: Context
    decoder: DecoderStack | None
    score: str
    groups: tuple[str, ...]
    padding: Padding
    beams: int
    length: int


def valor(
    encoders: Mapping[str, Encoder], decoder: DecoderLM | None, dim: int, scale: float, dtype: str, **settings: Any
) -> Valor:
    """settings: the last five fields, as in Config; `length` is that of texts."""
    kind = jnp.dtype(dtype)
    dual = dual_encoder(encoders, dim, scale=scale, max_scale=None, normalise=False, tokens=True, dtype=dtype)
    width = decoder.transformer.width if decoder else dim
    return Valor(
        dual, Weighting(kind), nn.Dense(dim, use_bias=False, dtype=kind), Context(width, kind), decoder.module(kind) if decoder else None,
        **settings,
    )  # fmt: skip


def encode(parts: Valor, params: Params, batch: Batch, name: str) -> tuple[Side, dict[str, Array]]:
    """(the side that is compared, the encoder's `out`) of "text", "video" or "sound"; a clip without sound has no valid token of it."""
    pooled, out = parts.dual.full(params, batch, name)
    valid = out["valid"]
    if name == "sound" and "sounds" in batch:
        valid = valid & (batch["sounds"] > 0)[:, None]
    if parts.score == "coarse":
        one = l2_normalise(pooled)[:, None]
        return (one, valid.any(1, keepdims=True), jnp.zeros(one.shape[:2])), out | {"valid": valid}
    raw = parts.weigh.apply({"params": params[f"weigh_{name}"]}, out["projected"])
    return (l2_normalise(out["projected"]), valid, raw), out | {"valid": valid}


def of_group(parts: Valor, params: Params, sides: dict[str, Side], group: str) -> Side:
    """The side of a group's modalities; coarse, that of both is the normed map of their two vectors."""
    names = GROUPS[group]
    if len(names) == 1 or parts.score == "fine":
        return joined(*(sides[n] for n in names))
    vectors = jnp.concatenate([sides[n][0][:, 0] for n in names], axis=-1)
    both = l2_normalise(parts.both.apply({"params": params["both"]}, vectors)).astype(jnp.float32)[:, None]
    return both, sides["video"][1], sides["video"][2]
