"""One function for any-to-any generation: `generate(infer, given, targets, schedule, rng)`."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from mmrep.errors import ConfigError, near
from mmrep.generation.sampling import guide, sample
from mmrep.modality import PAD
from mmrep.system import Batch, Params
from mmrep.systems.masked.fourm import canvas as canvases
from mmrep.systems.masked.fourm.canvas import Canvas
from mmrep.systems.masked.fourm.masking import Stream, Tokens
from mmrep.systems.masked.fourm.schedules import Target, steps_of


class TokenInfer(NamedTuple):
    """What generation needs of a trained token model.

    encode: (params, tokens, patches by pixel stream) -> context.
    logits: (params, context, its tokens, queries, reach or None, t) -> [B, M, vocabulary of stream t and its sentinels].
    begin: (params, context, its tokens, length) -> a memory for a text of so many tokens.
    read: (params, memory, query [B, 1], t) -> (logits [B, vocabulary of t and its sentinels] of the token behind it, memory).
    tokenise: batch -> (ids by stream, patches by pixel stream), of what the batch holds.   detokenise: ids by image stream -> maps.
    """

    streams: tuple[Stream, ...]
    encode: Callable[[Params, Tokens, Mapping[str, Array]], Float[Array, "B N D"]]
    logits: Callable[..., Float[Array, "B M V"]]
    begin: Callable[..., Any]
    read: Callable[..., tuple[Float[Array, "B V"], Any]]
    params: Params
    tokenise: Callable[[Batch], tuple[dict[str, Array], dict[str, Array]]] = lambda batch: (dict(batch), {})
    detokenise: Callable[[Mapping[str, Array]], dict[str, Array]] = dict

    @property
    def functions(self) -> "TokenInfer":
        """All but the parameters: hashable, what a compiled program depends on."""
        return self._replace(params=())  # type: ignore[arg-type]


class _Statics(NamedTuple):
    """What a compiled step depends on beside shapes: hashable, and equal for the same model."""

    infer: TokenInfer
    t: int
    scheme: str
    conditions: tuple[tuple[str, ...], ...]

    @property
    def stream(self) -> Stream:
        return self.infer.streams[self.t]


def generate(
    infer: TokenInfer,
    given: Canvas | Mapping[str, Array],
    targets: Sequence[str] | None,
    schedule: Sequence[Target],
    rng: PRNGKeyArray,
    watch: Callable[[str, int, Canvas], None] | None = None,
) -> Canvas:
    """The canvas with every target of the schedule decided, one after another; finished ones go in for the next.

    given:   a Canvas, or token ids by stream, as `canvas.fill` takes them. Open places of a given image are in-painted.
    targets: the streams to decide; None: those of the schedule, which must name each of them once.
    watch:   called after each step with (stream, step, canvas): for pictures along the way.
    Each (target, scheme, guides' streams) compiles once for a shape; counts, temperatures, weights and filters are data.
    Raises ConfigError for a target that does not exist or does not fit its scheme, and for a guide that names nothing on the canvas.
    """
    by_name = {s.name: t for t, s in enumerate(infer.streams)}
    names = [x.stream for x in schedule]
    if targets is not None and sorted(names) != sorted(targets):
        raise ConfigError(
            f"the schedule decides {', '.join(names)}; the targets are {', '.join(targets)}: name each once"
        )
    for x in schedule:
        x.check()
        if x.stream not in by_name:
            raise ConfigError(f"no stream {x.stream!r}{near(x.stream, by_name)}")
        s = infer.streams[by_name[x.stream]]
        if s.only_input:
            raise ConfigError(f"{x.stream!r} only goes in: generate what is made of tokens")
        if bool(s.length) != (x.scheme == "autoregressive"):
            raise ConfigError(
                f"target {x.stream!r} is {'a text' if s.length else 'an image'}: its scheme must be "
                f"{'autoregressive' if s.length else 'maskgit or roar'}"
            )
    canvas = given if isinstance(given, Canvas) else _canvas(infer, given, schedule)
    if not canvas.ids:
        raise ConfigError("the canvas has no stream: make it by blank(streams, names, batch)")
    batch = len(next(iter(canvas.ids.values())))
    missing = [n for n in names if n not in canvas.ids]
    more = canvases.blank(infer.streams, missing, batch)
    canvas = Canvas({**canvas.ids, **more.ids}, {**canvas.known, **more.known}, canvas.patches)
    for x, key in zip(schedule, jax.random.split(rng, len(schedule))):
        for g in x.guides:
            for name in g.streams:
                if name not in canvas.ids:
                    raise ConfigError(
                        f"target {x.stream!r}: guide {name!r} is not on the canvas{near(name, canvas.ids)}"
                    )
        t = by_name[x.stream]
        conditions = tuple(g.streams for g in x.guides)
        statics = _Statics(infer.functions, t, x.scheme, conditions)
        weights = jnp.asarray([g.weight for g in x.guides], jnp.float32)
        filters = jnp.float32(x.top_k), jnp.float32(x.top_p)
        if x.scheme == "autoregressive":
            canvas = _text(statics, infer.params, canvas, jnp.float32(x.temperature), weights, *filters, key)
            if watch:
                watch(x.stream, 0, canvas)
            continue
        total = canvases.open_places(canvas, infer.streams[t])
        for i, step in enumerate(steps_of(x, total) if total else []):
            settings = jnp.int32(step.tokens), jnp.float32(step.temperature), weights, *filters
            canvas = _decide(statics, infer.params, canvas, *settings, jax.random.fold_in(key, i))
            if watch:
                watch(x.stream, i, canvas)
    return canvas


def _canvas(infer: TokenInfer, given: Mapping[str, Array], schedule: Sequence[Target]) -> Canvas:
    if not given:
        names = [x.stream for x in schedule]
        return canvases.blank(infer.streams, names, 1)
    batch = len(next(iter(given.values())))
    empty = canvases.blank(infer.streams, [s.name for s in infer.streams if s.name in given], batch)
    return canvases.fill(empty, infer.streams, given)


def _contexts(statics: _Statics, params: Params, canvas: Canvas) -> tuple[Array, Tokens]:
    """What the encoder makes of the canvas under each condition and under none, as one batch; and its tokens."""
    streams, named = statics.infer.streams, {n for c in statics.conditions for n in c}
    states = [canvases.emptied(canvas, streams, tuple(named - {*c})) for c in statics.conditions]
    states.append(canvases.emptied(canvas, streams, tuple(named)) if named else canvas)
    whole = jax.tree.map(lambda *rows: jnp.concatenate(rows), *states)
    tokens = canvases.inputs(whole, streams)
    return statics.infer.encode(params, tokens, whole.patches), tokens


def _repeated(statics: _Statics, queries: Tokens) -> Tokens:
    """The same queries to each of the contexts."""
    return jax.tree.map(lambda x: jnp.concatenate([x] * (len(statics.conditions) + 1)), queries)


def _guided(statics: _Statics, found: Array, weights: Array) -> Array:
    """Logits of all contexts as those under guidance."""
    found = found.reshape(len(statics.conditions) + 1, -1, *found.shape[1:]).astype(jnp.float32)
    return guide(found[:-1], found[-1], weights) if statics.conditions else found[0]


@partial(jax.jit, static_argnums=0)
def _decide(statics, params, canvas, count, temperature, weights, top_k, top_p, rng) -> Canvas:
    """One step of MaskGIT or ROAR: `count` open places of the target get their ids."""
    s = statics.stream
    open_ = ~canvas.known[s.name]
    for_place, for_sample = jax.random.split(rng)
    chosen = open_
    if statics.scheme == "roar":
        # The same places in every row and in every pass of guidance, as far as they are open.
        noise = jax.random.uniform(for_place, (open_.shape[1],))
        chosen = open_ & (_rank(jnp.where(open_, noise, jnp.inf)) < count)
    place = jnp.broadcast_to(jnp.arange(s.size, dtype=jnp.int32), open_.shape)
    queries = Tokens(jnp.zeros_like(place), jnp.full_like(place, statics.t), place, chosen)
    asked = statics.infer.logits(
        params, *_contexts(statics, params, canvas), _repeated(statics, queries), None, statics.t
    )
    logits = _guided(statics, asked, weights)
    ids, chance = sample(for_sample, logits, temperature, top_k, top_p)
    if statics.scheme == "maskgit":
        chosen = open_ & (_rank(jnp.where(open_, -chance, jnp.inf)) < count)
    found = jnp.where(chosen, ids, canvas.ids[s.name])
    known = canvas.known[s.name] | chosen
    return Canvas(canvas.ids | {s.name: found}, canvas.known | {s.name: known}, canvas.patches)


def _rank(values: Array) -> Array:
    """Each value's place in its row's order, equals by their place."""
    return jnp.argsort(jnp.argsort(values, axis=-1, stable=True), axis=-1)


def _text(statics: _Statics, params: Params, canvas: Canvas, *settings: Array) -> Canvas:
    """A text from nothing, or the spans behind the sentinels of one that is given, merged into it."""
    s = statics.stream
    given = np.asarray(jnp.where(canvas.known[s.name], canvas.ids[s.name], PAD))
    fresh = ~(given >= s.vocab).any(1)
    if fresh.any() and not fresh.all():
        raise ConfigError(f"{s.name}: some rows have open spans and others none: generate them apart")
    if fresh.all():
        canvas = canvases.emptied(canvas, statics.infer.streams, (s.name,))
        given = np.asarray(canvas.ids[s.name])
    written = np.asarray(_write(statics, params, canvas, *settings))
    ids = np.full(given.shape, PAD, np.int32)
    for row, (before, after) in enumerate(zip(given.tolist(), written.tolist())):
        merged = canvases.merge_spans(before, after, s.vocab)[: s.length]
        ids[row, : len(merged)] = merged
    found = jnp.asarray(ids)
    return Canvas(canvas.ids | {s.name: found}, canvas.known | {s.name: found != PAD}, canvas.patches)


@partial(jax.jit, static_argnums=0)
def _write(statics, params, canvas, temperature, weights, top_k, top_p, rng) -> Array:
    """[B, length + 2] ids: the first sentinel, then what follows, up to the one behind the last that goes in.

    The encoder runs once; the decoder remembers what it read, and stops when every row has come to its end.
    """
    s, infer = statics.stream, statics.infer
    b, n = len(canvas.ids[s.name]), s.length + 2
    last = s.vocab + jnp.maximum((canvas.ids[s.name] >= s.vocab).sum(1), 1)
    memory = infer.begin(params, *_contexts(statics, params, canvas), n)

    def step(carry):
        i, ids, done, memory = carry
        read = jax.lax.dynamic_slice_in_dim(ids, i, 1, axis=1)
        query = Tokens(read, jnp.full_like(read, statics.t), jnp.full_like(read, i), jnp.ones_like(read, bool))
        said, memory = infer.read(params, memory, _repeated(statics, query), statics.t)
        # PAD is no token of a text.
        logits = _guided(statics, said, weights).at[:, PAD].set(-jnp.inf)
        said, _ = sample(jax.random.fold_in(rng, i), logits, temperature, top_k, top_p)
        said = jnp.where(done, PAD, said)
        return i + 1, ids.at[:, i + 1].set(said), done | (said >= last), memory

    ids = jnp.zeros((b, n), jnp.int32).at[:, 0].set(s.vocab)
    start = jnp.int32(0), ids, jnp.zeros(b, bool), memory
    return jax.lax.while_loop(lambda c: (c[0] < n - 1) & ~c[2].all(), step, start)[1]


def compiled() -> int:
    """Programs of generation in this process so far: a schedule must not add any after its first step."""
    functions: list[Any] = [_decide, _write]
    return sum(f._cache_size() for f in functions)
