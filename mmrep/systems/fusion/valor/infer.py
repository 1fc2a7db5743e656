"""VALOR's functions of a trained model: vectors, tokens, scores of pairs, and captions."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mmrep.generation.text import write
from mmrep.modality import BOS, EOS, MASK
from mmrep.nn.heads import l2_normalise
from mmrep.system import Batch, Extras, Infer, Params
from mmrep.systems.fusion.valor import model
from mmrep.systems.fusion.valor.model import GROUPS, Side, Valor


def infer(parts: Valor) -> dict[str, Infer]:
    """ "fused": the clip by video and sound; "clip_tokens" its tokens. In "_tokens" a last channel has the raw weights, for "score".

    "score": of a text with a "clip", a "video" or a "sound".   "written", "written_of_video", "written_of_sound": captions, ids [B, L].
    """

    def side(params: Params, batch: Batch, name: str) -> Side:
        if name != "clip":
            return model.encode(parts, params, batch, name)[0]
        sides = {n: model.encode(parts, params, batch, n)[0] for n in ("video", "sound")}
        if parts.score == "coarse" and "tva" not in parts.groups:
            return sides["video"]
        return model.of_group(parts, params, sides, "tva")

    def vector(name: str) -> Infer:
        def run(params: Params, extras: Extras, batch: Batch) -> Float[Array, "B D"]:
            tokens, valid, raw = side(params, batch, name)
            return l2_normalise((tokens * model.weights(valid, raw)[..., None]).sum(1)).astype(jnp.float32)

        return run

    def tokens(name: str) -> Infer:
        def run(params: Params, extras: Extras, batch: Batch) -> tuple[Array, Array]:
            x, valid, raw = side(params, batch, name)
            return jnp.concatenate([x.astype(jnp.float32), raw[..., None]], axis=-1), valid

        return run

    def score(params: Params, extras: Extras, pairs: Batch) -> Float[Array, " B"]:
        other = next(n for n in ("clip", "video", "sound") if f"{n}_tokens" in pairs)

        def one(x: Array, valid: Array, y: Array, seen: Array) -> Array:
            a, b = ((t[None, :, :-1], v[None], t[None, :, -1]) for t, v in ((x, valid), (y, seen)))
            return model.fine_score(a, b, parts.padding)[0, 0]

        return jax.vmap(one)(*(pairs[f"{n}_{k}"] for n in ("text", other) for k in ("tokens", "valid")))

    found = {n: vector(n) for n in ("text", "video", "sound")} | {"fused": vector("clip"), "score": score}
    found |= {f"{n}_tokens": tokens(n) for n in ("text", "video", "sound", "clip")}
    if parts.decoder is not None:
        for group, names in GROUPS.items():
            end = "" if group == "tva" else f"_of_{names[0]}"
            found[f"written{end}"] = partial(written, parts, names)
    return found


def written(
    parts: Valor, names: tuple[str, ...], params: Params, extras: Extras, batch: Batch, beams: int = 0,
    allowed: Int[Array, "S V"] | None = None,
) -> Int[Array, "B L"]:  # fmt: skip
    """The caption that the decoder writes for a clip whose modalities `names` alone are given: [MASK] is predicted at each place in turn.

    beams: 0 takes those of the config.   allowed: see `mmrep.generation.text.trie`.
    """
    beams = beams or parts.beams
    outs = {n: model.encode(parts, params, batch, n)[1] for n in ("video", "sound")}
    context = parts.context.apply({"params": params["context"]}, *(outs[n]["tokens"] for n in ("video", "sound")))
    seen = jnp.concatenate([outs[n]["valid"] & (n in names) for n in ("video", "sound")], axis=1)
    context, seen = (jnp.repeat(x, beams, axis=0) for x in (context, seen))

    decoder = parts.decoder
    assert decoder is not None

    def next_logits(ids: Array, at: Array) -> Array:
        hidden = jnp.where(jnp.arange(ids.shape[1]) == at, MASK, ids)
        logits = decoder.apply({"params": params["decoder"]}, hidden, context=context, context_valid=seen)[0]
        return jax.lax.dynamic_index_in_dim(logits, at, axis=1, keepdims=False)

    start = jnp.full((len(seen) // beams, 1), BOS, jnp.int32)
    ends = lambda ids: ids == EOS  # noqa: E731
    return write(next_logits, start, parts.length - 1, ends=ends, beams=beams, allowed=allowed).ids
