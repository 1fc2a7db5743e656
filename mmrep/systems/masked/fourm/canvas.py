"""What is known so far: for each stream its ids and which of them are real. Everything else is open."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mmrep.errors import ConfigError, DataError
from mmrep.modality import EOS, PAD
from mmrep.systems.masked.fourm.masking import Stream, Tokens, text_body


class Canvas(NamedTuple):
    """ids, known: [B, N] by stream, images in reading order, texts as they go in (sentinels where spans are open)."""

    ids: dict[str, Int[Array, "B N"]]
    known: dict[str, Bool[Array, "B N"]]
    patches: dict[str, Float[Array, "B N P"]]


def blank(streams: Sequence[Stream], names: Sequence[str], batch: int) -> Canvas:
    """Nothing is known of the streams `names`."""
    by_name = {s.name: s for s in streams}
    shapes = {n: (batch, by_name[n].size) for n in names}
    zeros = {n: jnp.zeros(shape, jnp.int32) for n, shape in shapes.items()}
    return Canvas(zeros, {n: jnp.zeros(shape, bool) for n, shape in shapes.items()}, {})


def fill(
    canvas: Canvas,
    streams: Sequence[Stream],
    tokens: Mapping[str, Array],
    known: Mapping[str, Array] | None = None,
    patches: Mapping[str, Array] | None = None,
) -> Canvas:
    """The canvas with `tokens` written: image ids [B, N], text ids [B, L] as the tokenizer gives them.

    known: which places of an image count (all, where absent): the others stay open, for in-painting.
    Raises DataError for a stream that does not exist, or ids outside its vocabulary.
    """
    ids, where = dict(canvas.ids), dict(canvas.known)
    by_name = {s.name: s for s in streams}
    for name, value in tokens.items():
        if name not in by_name:
            raise DataError(f"no stream {name!r}; there are {', '.join(by_name)}")
        s = by_name[name]
        value = jnp.asarray(value, jnp.int32)
        value = text_body(value, s.length) if s.length else value.reshape(len(value), -1)
        if value.shape[1] != s.size:
            raise DataError(f"{name}: {value.shape[1]} tokens were given, the stream has {s.size}")
        host = np.asarray(value)
        if not s.patch and host.size and (host.min() < 0 or host.max() >= s.rows):
            raise DataError(f"{name}: ids lie in {host.min()}..{host.max()}, its vocabulary is [0, {s.rows})")
        ids[name] = value
        where[name] = value != PAD if s.length else jnp.ones(value.shape, bool)
        if known is not None and name in known and not s.length:
            where[name] = jnp.asarray(known[name], bool).reshape(value.shape)
    return Canvas(ids, where, {**canvas.patches, **(patches or {})})


def left_open(ids: Int[np.ndarray, " L"], sentinel: int) -> Int[np.ndarray, " L"]:
    """A tokenised text with an open span before its end: more might have been said."""
    ids = np.array(ids)
    end = int((ids == EOS).argmax())
    ids[end : end + 2] = (sentinel, EOS)[: len(ids) - end]
    return ids


def inputs(canvas: Canvas, streams: Sequence[Stream]) -> Tokens:
    """All known tokens as the encoder takes them; what is not known is padding."""
    parts = []
    for t, s in enumerate(streams):
        if s.name in canvas.ids:
            ids, known = canvas.ids[s.name], canvas.known[s.name]
            at = jnp.broadcast_to(jnp.arange(ids.shape[1], dtype=jnp.int32), ids.shape)
            parts.append(Tokens(jnp.where(known, ids, 0), jnp.full(ids.shape, t, jnp.int32), at, known))
    return Tokens(*(jnp.concatenate(columns, axis=1) for columns in zip(*parts)))


def emptied(canvas: Canvas, streams: Sequence[Stream], names: Sequence[str]) -> Canvas:
    """The canvas without `names`: of an image nothing is known, a text is one sentinel (a span of unknown length)."""
    ids, known = dict(canvas.ids), dict(canvas.known)
    for s in streams:
        if s.name in names and s.name in ids:
            first = jnp.arange(s.size) == 0
            ids[s.name] = jnp.where(s.length and first, s.sentinel, 0) * jnp.ones_like(ids[s.name])
            known[s.name] = jnp.broadcast_to(first & (s.length > 0), known[s.name].shape)
    return Canvas(ids, known, canvas.patches)


def merge_spans(given: Sequence[int], spans: Sequence[int], sentinel: int) -> list[int]:
    """A text's input with each sentinel replaced by the span that was generated after it.

    given [S1, b, S2] and spans [S1, a, S2, c, d, S3] make [a, b, c, d]; a sentinel without a span says nothing.
    """
    found: dict[int, list[int]] = {}
    at = -1
    for i in spans:
        if i >= sentinel:
            at = i
            found.setdefault(at, [])
        elif at >= 0 and i != PAD:
            found[at].append(i)
    merged = [j for i in given if i != PAD for j in (found.get(i, []) if i >= sentinel else [i])]
    # An EOS inside ends the text.
    return merged[: merged.index(EOS) + 1] if EOS in merged else merged


def open_places(canvas: Canvas, stream: Stream) -> int:
    """Open places of an image stream, the same number in each row. Raises ConfigError where rows differ."""
    counts = {*np.asarray((~canvas.known[stream.name]).sum(1)).tolist()}
    if len(counts) != 1:
        raise ConfigError(
            f"{stream.name}: rows have {sorted(counts)} open places: generate rows with equally many together"
        )
    return counts.pop()
