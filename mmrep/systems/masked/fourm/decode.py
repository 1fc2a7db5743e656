"""4M's generation: any modalities from any others, by iterative decoding of images and autoregressive decoding of sequences.

`mod_dict` is the state: for each modality its ids and which of them are known. `init_empty_target` and `condition` make it, `generate`
fills it by a schedule (MaskGIT, ROAR or autoregressive, with or without guidance). `predict` decodes one modality in a single step.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from mmrep.errors import ConfigError, DataError, near
from mmrep.generation.decode import decode
from mmrep.generation.sampling import guide, sample
from mmrep.modality import EOS, PAD
from mmrep.system import Batch, Params
from mmrep.systems.masked.fourm.schedules import Target, chained_schedule, decoding_schedule
from mmrep.systems.masked.fourm.tokens import TokenModality, Tokens, all_tokens, truncate


class ModalityState(NamedTuple):
    """One modality during generation.

    ids: images in raster order, sequences as the encoder takes them (sentinels for open spans).   known: False where nothing is decided.
    values: of input-only modalities, see `tokens.input_values`.
    """

    ids: Int[Array, "B N"]
    known: Bool[Array, "B N"]
    values: Float[Array, "B N P"] | None = None


ModDict = dict[str, ModalityState]
ArrayLike = Array | np.ndarray


class TokenInfer(NamedTuple):
    """A trained token model for generation. `generate` takes and returns arrays by modality name.

    encode:      (params, tokens, {input-only modality: values}) -> context.
    logits:      (params, context, its tokens, queries, decoder_attention_mask or None, i) -> logits of modality i and its sentinels.
    init_cache:  (params, context, its tokens, length) -> decoding state for `length` tokens of one sequence.
    decode_step: (params, state, query [B, 1], i) -> (logits [B, V] of the token after it, state).
    tokenize:    batch -> (ids by modality, values by input-only modality) of the modalities in the batch.
    detokenize:  ids by modality -> arrays of images and vectors.
    """

    modalities: tuple[TokenModality, ...]
    params: Params
    encode: Callable[[Params, Tokens, Mapping[str, ArrayLike]], Float[Array, "B N D"]]
    logits: Callable[..., Float[Array, "B M V"]]
    init_cache: Callable[..., Any]
    decode_step: Callable[..., tuple[Float[Array, "B V"], Any]]
    tokenize: Callable[[Batch], tuple[dict[str, Array], dict[str, Array]]] = lambda batch: (dict(batch), {})
    detokenize: Callable[[Mapping[str, ArrayLike]], dict[str, Array]] = lambda ids: {}

    @property
    def functions(self) -> "TokenInfer":
        """Everything but the parameters: hashable, so that compiled programs are cached by it."""
        return self._replace(params=())  # type: ignore[arg-type]

    def modality(self, name: str) -> TokenModality:
        """Raises ConfigError for a modality that the model does not have."""
        for m in self.modalities:
            if m.name == name:
                return m
        raise ConfigError(f"no modality {name!r}{near(name, [m.name for m in self.modalities])}")

    def open_ended(self, name: str, ids: Int[np.ndarray, " L"]) -> Int[np.ndarray, " L"]:
        """A text that may continue at its end, see `append_open_span`."""
        return append_open_span(ids, self.modality(name).sentinel)

    def generate(
        self,
        given: Batch,
        targets: Sequence[str],
        *,
        batch_size: int = 1,
        guidance: float = 1.0,
        scales: Mapping[str, float] | None = None,
        grow_conditioning: bool = False,
        scheme: str = "roar",
        seed: int = 0,
        **settings: Any,
    ) -> dict[str, np.ndarray]:
        """The `targets`, in order, from the batch entries in `given`: images as `detokenize` returns them, sequences as ids [B, L].

        batch_size: number of samples where nothing is given.   scales, grow_conditioning: see `chained_schedule`.
        settings: of every `Target`: decoding_steps, token_schedule, temperature, temperature_schedule, top_k, top_p.
        Raises ConfigError for unknown modalities, for a target that is given, and for settings that cannot work.
        """
        known = {f.name for f in dataclasses.fields(Target)} - {"domain", "guidance"}
        for name in settings:
            if name not in known:
                others = [*known, "guidance", "scales", "grow_conditioning", *(m.name for m in self.modalities)]
                raise ConfigError(f"{name!r} is neither a modality nor a setting of generation{near(name, others)}")
        for name in (*given, *targets):
            self.modality(name)
        for name in targets:
            if name in given:
                raise ConfigError(f"{name!r} is given and a target: leave one out")
        for name in scales or {}:
            if name not in given:
                raise ConfigError(f"guidance by {name!r}, which is not given{near(name, given)}")
        sequences = tuple(m.name for m in self.modalities if m.is_sequence)
        settings |= {"scales": scales, "grow_conditioning": grow_conditioning, "scheme": scheme, "sequences": sequences}
        schedule = chained_schedule(targets, tuple(given), guidance, **settings)
        size = len(next(iter(given.values()))) if given else batch_size
        mod_dict = init_empty_target(self.modalities, (*given, *targets), size)
        mod_dict = condition(mod_dict, self.modalities, *self.tokenize(given))
        mod_dict = generate(self, mod_dict, schedule, jax.random.key(seed))
        ids = {name: mod_dict[name].ids for name in targets}
        return {k: np.asarray(v) for k, v in (ids | self.detokenize(ids)).items()}


# The state of generation.


def init_empty_target(modalities: Sequence[TokenModality], names: Sequence[str], batch_size: int) -> ModDict:
    """The modalities `names`, no token known."""

    def empty(m: TokenModality) -> ModalityState:
        shape = batch_size, m.max_tokens
        values = jnp.zeros((*shape, m.num_values), jnp.float32) if m.input_only else None
        return ModalityState(jnp.zeros(shape, jnp.int32), jnp.zeros(shape, bool), values)

    by_name = {m.name: m for m in modalities}
    return {n: empty(by_name[n]) for n in names}


def condition(
    mod_dict: ModDict,
    modalities: Sequence[TokenModality],
    ids: Mapping[str, ArrayLike],
    values: Mapping[str, ArrayLike] | None = None,
    known: Mapping[str, ArrayLike] | None = None,
) -> ModDict:
    """`mod_dict` with ids written: images [B, N], texts [B, L] as the text tokenizer returns them.

    known: which tokens of an image are given (default: all); the others are in-painted.
    Raises DataError for an unknown modality, or ids outside its vocabulary.
    """
    states, by_name = dict(mod_dict), {m.name: m for m in modalities}
    for name, value in ids.items():
        if name not in by_name:
            raise DataError(f"no modality {name!r}; there are {', '.join(by_name)}")
        m = by_name[name]
        value = jnp.asarray(value, jnp.int32)
        value = truncate(value, m.length) if m.is_sequence else value.reshape(len(value), -1)
        if value.shape[1] != m.max_tokens:
            raise DataError(f"{name}: {value.shape[1]} tokens were given, the modality has {m.max_tokens}")
        host = np.asarray(value)
        if not m.patch_size and host.size and (host.min() < 0 or host.max() >= m.num_embeddings):
            raise DataError(f"{name}: ids are in {host.min()}..{host.max()}, its vocabulary is [0, {m.num_embeddings})")
        given = value != PAD if m.is_sequence else jnp.ones(value.shape, bool)
        if known is not None and name in known and not m.is_sequence:
            given = jnp.asarray(known[name], bool).reshape(value.shape)
        numbers = (values or {}).get(name, states[name].values if name in states else None)
        states[name] = ModalityState(value, given, None if numbers is None else jnp.asarray(numbers))
    return states


def append_open_span(ids: Int[np.ndarray, " L"], sentinel: int) -> Int[np.ndarray, " L"]:
    """A tokenised text with a sentinel before its EOS: the text may continue there."""
    ids = np.array(ids)
    end = int((ids == EOS).argmax())
    ids[end : end + 2] = (sentinel, EOS)[: len(ids) - end]
    return ids


def encoder_inputs(mod_dict: ModDict, modalities: Sequence[TokenModality]) -> tuple[Tokens, dict[str, Array]]:
    """(all known tokens, with padding for the others; values of input-only modalities)."""
    parts = []
    for i, m in enumerate(modalities):
        if m.name in mod_dict:
            ids, known, _ = mod_dict[m.name]
            position = jnp.broadcast_to(jnp.arange(ids.shape[1], dtype=jnp.int32), ids.shape)
            parts.append(Tokens(jnp.where(known, ids, 0), jnp.full(ids.shape, i, jnp.int32), position, known))
    values = {name: s.values for name, s in mod_dict.items() if s.values is not None}
    return Tokens(*(jnp.concatenate(columns, axis=1) for columns in zip(*parts))), values


def emptied(mod_dict: ModDict, modalities: Sequence[TokenModality], names: Sequence[str]) -> ModDict:
    """`mod_dict` without `names`: nothing is known of an image, and a sequence is one sentinel (a span of unknown length)."""
    states = dict(mod_dict)
    for m in modalities:
        if m.name in names and m.name in states:
            ids, known, values = states[m.name]
            first = jnp.arange(m.max_tokens) == 0
            ids = jnp.where(m.is_sequence and first, m.sentinel, 0) * jnp.ones_like(ids)
            states[m.name] = ModalityState(ids, jnp.broadcast_to(first & m.is_sequence, known.shape), values)
    return states


def merge_spans(given: Sequence[int], spans: Sequence[int], sentinel: int) -> list[int]:
    """A sequence's input with each sentinel replaced by the span that was generated for it.

    given [S1, b, S2] and spans [S1, a, S2, c, d, S3] give [a, b, c, d]; a sentinel without a span is removed.
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
    # An EOS within a span ends the text.
    return merged[: merged.index(EOS) + 1] if EOS in merged else merged


def num_unknown(mod_dict: ModDict, name: str) -> int:
    """Number of unknown tokens of an image, the same in each row. Raises ConfigError where rows differ."""
    counts = {*np.asarray((~mod_dict[name].known).sum(1)).tolist()}
    if len(counts) != 1:
        raise ConfigError(
            f"{name}: rows have {sorted(counts)} unknown tokens: generate rows with equally many together"
        )
    return counts.pop()


# Iterative and autoregressive decoding.


class _Statics(NamedTuple):
    """Static arguments of a compiled step: hashable, and equal for the same model."""

    infer: TokenInfer
    i: int
    scheme: str
    conditions: tuple[tuple[str, ...], ...]

    @property
    def modality(self) -> TokenModality:
        return self.infer.modalities[self.i]


def generate(
    model: TokenInfer,
    given: ModDict | Mapping[str, ArrayLike],
    schedule: Sequence[Target],
    rng: PRNGKeyArray,
    callback: Callable[[str, int, ModDict], None] | None = None,
) -> ModDict:
    """The mod_dict with every target of the schedule generated, one after another; each conditions the next ones.

    given:    a mod_dict, or ids by modality, as `condition` takes them. Unknown tokens of a given image are in-painted.
    callback: called after each step with (domain, step, mod_dict).
    Each (target, scheme, conditions) compiles once per shape; token counts, temperatures, scales and filters are array arguments.
    Raises ConfigError for a target that does not exist or does not fit its scheme, and for guidance by a modality that is not given.
    """
    _check_schedule(model, schedule)
    if isinstance(next(iter(given.values()), None), ModalityState):
        mod_dict: ModDict = dict(given)  # type: ignore[arg-type]
    else:
        held = [m.name for m in model.modalities if m.name in given]
        size = len(next(iter(given.values()))) if given else 1
        mod_dict = condition(init_empty_target(model.modalities, held, size), model.modalities, given)  # type: ignore[arg-type]
    size = len(next(iter(mod_dict.values())).ids) if mod_dict else 1
    missing = [x.domain for x in schedule if x.domain not in mod_dict]
    mod_dict |= init_empty_target(model.modalities, missing, size)
    names = [m.name for m in model.modalities]
    for x, key in zip(schedule, jax.random.split(rng, len(schedule))):
        for name in (n for g in x.guidance for n in g.cond_domains):
            if name not in mod_dict:
                raise ConfigError(
                    f"target {x.domain!r}: guidance by {name!r}, which is not given{near(name, mod_dict)}"
                )
        statics = _Statics(model.functions, names.index(x.domain), x.scheme, tuple(g.cond_domains for g in x.guidance))
        scales = jnp.asarray([g.scale for g in x.guidance], jnp.float32)
        filters = jnp.float32(x.top_k), jnp.float32(x.top_p)
        if x.scheme == "autoregressive":
            mod_dict = _sequence(statics, model.params, mod_dict, jnp.float32(x.temperature), scales, *filters, key)
            if callback:
                callback(x.domain, 0, mod_dict)
            continue
        total = num_unknown(mod_dict, x.domain)
        for i, step in enumerate(decoding_schedule(x, total) if total else []):
            settings = jnp.int32(step.num_tokens), jnp.float32(step.temperature), scales, *filters
            mod_dict = _image_step(statics, model.params, mod_dict, *settings, jax.random.fold_in(key, i))
            if callback:
                callback(x.domain, i, mod_dict)
    return mod_dict


def _check_schedule(model: TokenInfer, schedule: Sequence[Target]) -> None:
    for x in schedule:
        x.check()
        m = model.modality(x.domain)
        if m.input_only:
            raise ConfigError(f"{x.domain!r} is input only: choose a target that has tokens")
        if m.is_sequence != (x.scheme == "autoregressive"):
            raise ConfigError(
                f"target {x.domain!r} is {'a sequence' if m.is_sequence else 'an image'}: its scheme must be "
                f"{'autoregressive' if m.is_sequence else 'maskgit or roar'}"
            )


def _contexts(statics: _Statics, params: Params, mod_dict: ModDict) -> tuple[Array, Tokens]:
    """(the encoder's output under each condition and under none, as one batch; its tokens)."""
    modalities, named = statics.infer.modalities, {n for c in statics.conditions for n in c}
    states = [emptied(mod_dict, modalities, tuple(named - {*c})) for c in statics.conditions]
    states.append(emptied(mod_dict, modalities, tuple(named)) if named else mod_dict)
    tokens, values = encoder_inputs(jax.tree.map(lambda *rows: jnp.concatenate(rows), *states), modalities)
    return statics.infer.encode(params, tokens, values), tokens


def _repeated(statics: _Statics, queries: Tokens) -> Tokens:
    """The same queries for each of the contexts."""
    return jax.tree.map(lambda x: jnp.concatenate([x] * (len(statics.conditions) + 1)), queries)


def _guided(statics: _Statics, logits: Array, scales: Array) -> Array:
    """The guided logits from those of all contexts."""
    logits = logits.reshape(len(statics.conditions) + 1, -1, *logits.shape[1:]).astype(jnp.float32)
    return guide(logits[:-1], logits[-1], scales) if statics.conditions else logits[0]


@partial(jax.jit, static_argnums=0)
def _image_step(statics, params, mod_dict, count, temperature, scales, top_k, top_p, rng) -> ModDict:
    """One step of MaskGIT or ROAR: `count` unknown tokens of the target are decoded."""
    m = statics.modality
    ids, known, values = mod_dict[m.name]
    for_position, for_sample = jax.random.split(rng)
    chosen = ~known
    if statics.scheme == "roar":
        # The same positions in every row and in every pass of guidance, where they are unknown.
        noise = jax.random.uniform(for_position, (known.shape[1],))
        chosen = ~known & (_rank(jnp.where(known, jnp.inf, noise)) < count)
    queries = _image_queries(statics.i, m, len(ids))._replace(valid=chosen)
    context = _contexts(statics, params, mod_dict)
    logits = statics.infer.logits(params, *context, _repeated(statics, queries), None, statics.i)
    sampled, probability = sample(for_sample, _guided(statics, logits, scales), temperature, top_k, top_p)
    if statics.scheme == "maskgit":
        chosen = ~known & (_rank(jnp.where(known, jnp.inf, -probability)) < count)
    return mod_dict | {m.name: ModalityState(jnp.where(chosen, sampled, ids), known | chosen, values)}


def _rank(values: Array) -> Array:
    """Each value's rank in its row, ties by position."""
    return jnp.argsort(jnp.argsort(values, axis=-1, stable=True), axis=-1)


def _image_queries(i: int, m: TokenModality, batch: int) -> Tokens:
    position = jnp.broadcast_to(jnp.arange(m.max_tokens, dtype=jnp.int32), (batch, m.max_tokens))
    return Tokens(jnp.zeros_like(position), jnp.full_like(position, i), position, jnp.ones(position.shape, bool))


def _sequence(statics: _Statics, params: Params, mod_dict: ModDict, *settings: Array) -> ModDict:
    """A sequence from nothing, or the spans of a given one, merged into it."""
    m = statics.modality
    given = np.asarray(jnp.where(mod_dict[m.name].known, mod_dict[m.name].ids, PAD))
    fresh = ~(given >= m.vocab_size).any(1)
    if fresh.any() and not fresh.all():
        raise ConfigError(f"{m.name}: some rows have open spans and others none: generate them apart")
    if fresh.all():
        mod_dict = emptied(mod_dict, statics.infer.modalities, (m.name,))
        given = np.asarray(mod_dict[m.name].ids)
    decoded = np.asarray(_autoregressive(statics, params, mod_dict, *settings))
    ids = np.full(given.shape, PAD, np.int32)
    for row, (before, spans) in enumerate(zip(given.tolist(), decoded.tolist())):
        merged = merge_spans(before, spans, m.vocab_size)[: m.length]
        ids[row, : len(merged)] = merged
    return mod_dict | {m.name: ModalityState(jnp.asarray(ids), jnp.asarray(ids != PAD))}


@partial(jax.jit, static_argnums=0)
def _autoregressive(statics, params, mod_dict, temperature, scales, top_k, top_p, rng) -> Array:
    """[B, length + 2] ids: the first sentinel and what follows, up to the sentinel after the last one of the input.

    The encoder runs once; the loop ends when every row is complete.
    """
    m, infer = statics.modality, statics.infer
    b, n = len(mod_dict[m.name].ids), m.length + 2
    last = m.vocab_size + jnp.maximum((mod_dict[m.name].ids >= m.vocab_size).sum(1), 1)
    cache = infer.init_cache(params, *_contexts(statics, params, mod_dict), n)

    def step(cache, ids, i):
        ids = ids[:, None]
        query = Tokens(ids, jnp.full_like(ids, statics.i), jnp.full_like(ids, i + 1), jnp.ones_like(ids, bool))
        logits, cache = infer.decode_step(params, cache, _repeated(statics, query), statics.i)
        # PAD is no token of a text.
        return _guided(statics, logits, scales).at[:, PAD].set(-jnp.inf), cache

    first = jnp.full(b, m.vocab_size, jnp.int32)
    logits, cache = step(cache, first, -1)
    settings = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "pad": PAD}
    found = decode(step, cache, logits, n - 1, rng, ends=lambda ids: ids >= last, **settings)
    return jnp.concatenate([first[:, None], found.ids], axis=1)


def num_compiled() -> int:
    """Number of programs that generation has compiled in this process: a schedule adds none after its first step."""
    functions: list[Any] = [_image_step, _autoregressive]
    return sum(f._cache_size() for f in functions)


# Prediction in one step.


def image_logits(model: TokenInfer, inputs: Tokens, values: Mapping[str, ArrayLike], i: int) -> Float[Array, "B N V"]:
    """Logits of all tokens of image modality `i` at once."""
    queries = _image_queries(i, model.modalities[i], len(inputs.ids))
    context = model.encode(model.params, inputs, values)
    return model.logits(model.params, context, inputs, queries, None, i)


def teacher_forced_logits(
    model: TokenInfer, inputs: Tokens, values: Mapping[str, ArrayLike], i: int, text: Int[ArrayLike, "B L"]
) -> tuple[Float[Array, "B N V"], Int[Array, "B N"]]:
    """(logits, target ids) of sequence modality `i`: each token from the true ones before it. Target ids of padding are PAD."""
    m = model.modalities[i]
    targets = truncate(text, m.length)
    ids = jnp.concatenate([jnp.full((len(targets), 1), m.vocab_size, jnp.int32), targets[:, :-1]], axis=1)
    position = jnp.broadcast_to(jnp.arange(m.length, dtype=jnp.int32), targets.shape)
    # Padding is no query: a model without a causal mask would attend to it.
    queries = Tokens(ids, jnp.full_like(position, i), position, ids != PAD)
    context = model.encode(model.params, inputs, values)
    return model.logits(model.params, context, inputs, queries, jnp.ones_like(position), i), targets


@partial(jax.jit, static_argnums=(0, 1))
def _argmax(infer, i, params, inputs, values, text):
    model = infer._replace(params=params)
    if not infer.modalities[i].is_sequence:
        return image_logits(model, inputs, values, i).argmax(-1)
    logits, _ = teacher_forced_logits(model, inputs, values, i, text)
    return logits.argmax(-1)


def predict(
    model: TokenInfer, ids: Mapping[str, Any], values: Mapping[str, Any], given: tuple[str, ...], target: str
) -> Int[Array, "B N"]:
    """The most likely ids of `target` from the modalities `given`; of a sequence by teacher forcing, for which `ids` must hold it."""
    i = model.modalities.index(model.modality(target))
    inputs = all_tokens({k: jnp.asarray(ids[k]) for k in given}, model.modalities)
    own = {k: v for k, v in values.items() if k in given}
    text = ids[target] if model.modalities[i].is_sequence else jnp.zeros((), jnp.int32)
    return _argmax(model.functions, i, model.params, inputs, own, text)
