"""CoAVT's joint audio-visual layer, and its parts."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from mmrep.nn.attention import padding_mask
from mmrep.nn.config import TransformerConfig
from mmrep.nn.dual import inputs
from mmrep.nn.heads import LogScale, MaskedLmHead, Projection
from mmrep.nn.norms import norm_layer
from mmrep.nn.query_encoder import QueryEncoder
from mmrep.nn.transformer import Block
from mmrep.system import Batch, Params

STREAMS: Mapping[str, tuple[str, ...]] = {"av": ("sound", "video"), "a": ("sound",), "v": ("video",)}
"""The modalities of each stream of the joint layer."""

Tokens = tuple[Float[Array, "_ _ _"], Bool[Array, "_ _"]]


class JointLayer(nn.Module):
    """Section 3.2, multi-stream: one block for sound, video, and both beside each other, behind a norm of each stream's own.

    Each modality has a learned embedding of its type. Tokens are of the width of `config`; a stream needs its own modalities alone.
    """

    config: TransformerConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, tokens: Mapping[str, Tokens], streams: tuple[str, ...] = tuple(STREAMS)) -> dict[str, Tokens]:
        c = self.config
        typed = {}
        for name in tokens:
            kind = self.param(f"type_{name}", nn.initializers.normal(0.02), (c.width,), jnp.float32)
            typed[name] = jnp.asarray(tokens[name][0], self.dtype) + kind.astype(self.dtype)
        block, found = Block(c, dtype=self.dtype, name="block"), {}
        for stream in streams:
            x = jnp.concatenate([typed[n] for n in STREAMS[stream]], axis=1)
            valid = jnp.concatenate([tokens[n][1] for n in STREAMS[stream]], axis=1)
            x = norm_layer(c, self.dtype, f"norm_{stream}")(x)
            found[stream] = block(x, padding_mask(valid))[0], valid
        return found


def query_score(
    queries: Float[Array, "B M D"], text: Float[Array, "C D"], pool: Literal["max", "mean"] = "max"
) -> Float[Array, "B C"]:
    """The largest, or the mean, dot product of a clip's unit query vectors with a text's unit vector."""
    products = jnp.einsum("bmd,cd->bcm", queries, text, preferred_element_type=jnp.float32)
    return products.max(-1) if pool == "max" else products.mean(-1)


class CoAVT(NamedTuple):
    """Parameters: {"sound", "video", "joint", "queries", "project", "project_text", "match", "lm", "scale"}, by the parts' names."""

    encoders: Mapping[str, nn.Module]
    joint: JointLayer
    queries: QueryEncoder
    project: Projection
    match: nn.Dense
    lm: MaskedLmHead
    scale: LogScale


def encode(parts: CoAVT, params: Params, batch: Batch) -> dict[str, Tokens]:
    """Tokens of "sound" and "video" that the batch has, with which are valid; a clip whose `sounds` is 0 has no valid token of sound."""
    found: dict[str, Tokens] = {}
    for name, module in parts.encoders.items():
        if name in batch:
            out = module.apply({"params": params[name]}, *inputs(batch, name))[1]
            valid = out["valid"]
            if name == "sound" and "sounds" in batch:
                valid = valid & (batch["sounds"] > 0)[:, None]
            found[name] = out["tokens"], valid
    return found


def unit_queries(
    parts: CoAVT, params: Params, context: Float[Array, "B N W"], valid: Bool[Array, "B N"]
) -> Float[Array, "B M D"]:
    """A stream's query vectors in the space of the contrast."""
    found = parts.queries.apply({"params": params["queries"]}, context, valid)[0]
    return parts.project.apply({"params": params["project"]}, found).astype(jnp.float32)


def text_vector(parts: CoAVT, params: Params, ids: Int[Array, "B L"]) -> Float[Array, "B D"]:
    """The text's first token in the space of the contrast, without any query."""
    words = parts.queries.apply({"params": params["queries"]}, None, None, ids)[1]
    return parts.project.apply({"params": params["project_text"]}, words[:, 0]).astype(jnp.float32)


def judge(
    parts: CoAVT, params: Params, context: Float[Array, "B N W"], valid: Bool[Array, "B N"], ids: Int[Array, "B L"]
) -> Float[Array, "B 2"]:
    """(no match, match) logits, the mean over the queries."""
    found = parts.queries.apply({"params": params["queries"]}, context, valid, ids, "match")[0]
    return parts.match.apply({"params": params["match"]}, found).astype(jnp.float32).mean(1)


def next_tokens(
    parts: CoAVT, params: Params, context: Float[Array, "B N W"], valid: Bool[Array, "B N"], ids: Int[Array, "B L"]
) -> Float[Array, "B L V"]:
    """Logits of the token behind each place, given the queries and the text up to it."""
    words = parts.queries.apply({"params": params["queries"]}, context, valid, ids, "generate")[1]
    return parts.lm.apply({"params": params["lm"]}, words, params["queries"]["embed"]["embedding"])
