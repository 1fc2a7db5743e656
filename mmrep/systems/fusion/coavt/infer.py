"""CoAVT's functions of a trained model: vectors, scores, matching and captions."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mmrep.generation.text import write
from mmrep.modality import BOS, EOS
from mmrep.nn.heads import l2_normalise
from mmrep.system import Batch, Extras, Infer, Params
from mmrep.systems.fusion.coavt import model
from mmrep.systems.fusion.coavt.model import CoAVT, Tokens

STREAM_OF = {"fused": "av", "sound": "a", "video": "v"}


def infer(parts: CoAVT, pool: str, streams: tuple[str, ...], match: bool, captions: bool) -> dict[str, Infer]:
    """ "sound", "video" and "fused" are a stream's mean query vector, of streams that are not trained by the others' parameters.

    "score": of a text with a "clip", a "video" or a "sound", the largest or mean product.   "matched" [B]: log-odds of the batch's own pairs.
    "written": captions, ids [B, L].
    """

    def stream(params: Params, batch: Batch, name: str) -> Tokens:
        own = STREAM_OF[name]
        tokens = model.encode(
            parts, params, {k: v for k, v in batch.items() if own == "av" or k not in {"sound", "video"} - {name}}
        )
        if own in streams:
            return parts.joint.apply({"params": params["joint"]}, tokens, (own,))[own]
        # A stream without a norm of its own has that of both.
        renamed = params["joint"] | {f"norm_{own}": params["joint"]["norm_av"]}
        return parts.joint.apply({"params": renamed}, tokens, (own,))[own]

    def queries(params: Params, batch: Batch, name: str) -> Float[Array, "B M D"]:
        return model.unit_queries(parts, params, *stream(params, batch, name))

    def vector(name: str) -> Infer:
        return lambda params, extras, batch: l2_normalise(queries(params, batch, name).mean(1))

    def tokens(name: str) -> Infer:
        def run(params: Params, extras: Extras, batch: Batch) -> tuple[Array, Array]:
            found = queries(params, batch, name)
            return found, jnp.ones(found.shape[:2], bool)

        return run

    def text(params: Params, extras: Extras, batch: Batch) -> Float[Array, "B D"]:
        return model.text_vector(parts, params, batch["text"])

    def text_tokens(params: Params, extras: Extras, batch: Batch) -> tuple[Array, Array]:
        found = model.text_vector(parts, params, batch["text"])[:, None]
        return found, jnp.ones(found.shape[:2], bool)

    def score(params: Params, extras: Extras, pairs: Batch) -> Float[Array, " B"]:
        other = next(n for n in ("clip", "video", "sound") if f"{n}_tokens" in pairs)
        products = jnp.einsum("bmd,bd->bm", pairs[f"{other}_tokens"], pairs["text_tokens"][:, 0])
        return products.max(-1) if pool == "max" else products.mean(-1)

    def matched(params: Params, extras: Extras, batch: Batch) -> Float[Array, " B"]:
        logits = model.judge(parts, params, *stream(params, batch, "fused"), batch["text"])
        return logits[:, 1] - logits[:, 0]

    def written(
        params: Params, extras: Extras, batch: Batch, beams: int = 0, allowed: Int[Array, "S V"] | None = None
    ) -> Int[Array, "B L"]:
        beams = max(beams, 1)
        context, valid = (jnp.repeat(x, beams, axis=0) for x in stream(params, batch, "fused"))

        def next_logits(ids: Array, at: Array) -> Array:
            logits = model.next_tokens(parts, params, context, valid, ids)
            return jax.lax.dynamic_index_in_dim(logits, at - 1, axis=1, keepdims=False)

        start = jnp.full((len(context) // beams, 1), BOS, jnp.int32)
        ends = lambda ids: ids == EOS  # noqa: E731
        return write(next_logits, start, parts.queries.length - 1, ends=ends, beams=beams, allowed=allowed).ids

    found = {n: vector(n) for n in STREAM_OF} | {"text": text, "text_tokens": text_tokens, "score": score}
    found |= {"clip_tokens": tokens("fused"), "video_tokens": tokens("video"), "sound_tokens": tokens("sound")}
    return found | ({"matched": matched} if match else {}) | ({"written": written} if captions else {})
