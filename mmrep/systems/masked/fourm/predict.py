"""One-step prediction: a whole image stream at once, or a text read along its truth."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mmrep.modality import PAD
from mmrep.systems.masked.fourm import masking as spans
from mmrep.systems.masked.fourm.decode import TokenInfer
from mmrep.systems.masked.fourm.masking import Tokens, text_body


def whole_stream(ask: TokenInfer, given: Tokens, patches: Mapping[str, Array], t: int) -> Float[Array, "B N V"]:
    """Logits at every place of image stream `t`, all at once."""
    size = ask.streams[t].size
    place = jnp.broadcast_to(jnp.arange(size, dtype=jnp.int32), (len(given.ids), size))
    queries = Tokens(jnp.zeros_like(place), jnp.full_like(place, t), place, jnp.ones(place.shape, bool))
    return ask.logits(ask.params, ask.encode(ask.params, given, patches), given, queries, None, t)


def along_text(
    ask: TokenInfer, given: Tokens, patches: Mapping[str, Array], t: int, text: Int[Array, "B L"]
) -> tuple[Float[Array, "B N V"], Int[Array, "B N"]]:
    """(logits, labels) of text stream `t` read from its first sentinel on: each token from those before it. Labels of padding are 0."""
    s = ask.streams[t]
    body = text_body(text, s.length)
    read = jnp.concatenate([jnp.full((len(body), 1), s.vocab, jnp.int32), body[:, :-1]], axis=1)
    place = jnp.broadcast_to(jnp.arange(s.length, dtype=jnp.int32), body.shape)
    # What stands behind the text is no query: a model without a causal mask would look at it.
    queries = Tokens(read, jnp.full_like(place, t), place, read != PAD)
    context = ask.encode(ask.params, given, patches)
    return ask.logits(ask.params, context, given, queries, jnp.ones_like(place), t), body


@partial(jax.jit, static_argnums=(0, 1))
def _likeliest(infer, t, params, given, patches, text):
    ask = infer._replace(params=params)
    if not infer.streams[t].length:
        return whole_stream(ask, given, patches, t).argmax(-1)
    found, _ = along_text(ask, given, patches, t, text)
    return found.argmax(-1)


def likeliest(
    ask: TokenInfer, ids: Mapping[str, Any], patches: Mapping[str, Any], given: tuple[str, ...], target: str
) -> Int[Array, "B N"]:
    """The likeliest ids of `target` from the streams `given`; of a text each after the true ones before it, which `ids` must hold."""
    t = [s.name for s in ask.streams].index(target)
    tokens = spans.everything({k: jnp.asarray(ids[k]) for k in given}, ask.streams)
    seen = {k: v for k, v in patches.items() if k in given}
    text = ids[target] if ask.streams[t].length else jnp.zeros((), jnp.int32)
    return _likeliest(ask.functions, t, ask.params, tokens, seen, text)
