"""4M's masking (Mizrahi et al. 2023, section 3.2): a few tokens of any modality go in, a few others are to be predicted.

Budgets over modalities come from a mixture of Dirichlet distributions. Of an image random places are taken; of a text, spans are cut out,
each replaced by a sentinel, and the target spells them out after their sentinels (as in T5). Everything is a pure function of
(rng, ids) with static shapes, so it runs in jit; what the budgets leave empty is padding, `valid` False.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from mmrep.errors import ConfigError, DataError
from mmrep.modality import BOS, FIRST_PIECE, PAD

LEAST_ALPHA = 1e-9  # stands for a concentration of 0
KEEPS = "random", "all", "binary"


@dataclass(frozen=True)
class Stream:
    """One token modality.

    vocab: number of ids, without sentinels.   grid: (rows, columns) of an image's tokens.   length: of a text instead, EOS included.
    patch: > 0 for a stream of pixels, patches of that side and `channels`: it only goes in, has no ids, and vocab is 0.
    vectors: > 0 for a text of embeddings of so many numbers each (4M-21's T5 captions): it too only goes in, its vocab is 0, its ids say
             which embedding stands where, and a hidden span is one vector of zeros.
    learned: places have learnt positions, for tokens of a vector, whose grid means nothing.
    keep:  how much of a text is kept where it goes in, before the budget cuts it: "random" U(0, 1), "all", or "binary" (all or nothing).
    chunk: tokens of a text that are kept or cut out together, from its first on; its EOS is a chunk of its own (4M-21).
    """

    name: str
    vocab: int
    grid: tuple[int, int] = (0, 0)
    length: int = 0
    keep: Literal["random", "all", "binary"] = "random"
    chunk: int = field(default=1, metadata={"since": 2})
    patch: int = field(default=0, metadata={"since": 2})
    channels: int = field(default=3, metadata={"since": 2})
    learned: bool = field(default=False, metadata={"since": 2})
    vectors: int = field(default=0, metadata={"since": 2})

    @property
    def only_input(self) -> bool:
        return self.patch > 0 or self.vectors > 0

    @property
    def sentinel(self) -> int:
        """The id of the first span that is hidden."""
        return FIRST_PIECE + self.length if self.vectors else self.vocab

    @property
    def size(self) -> int:
        """The most tokens of it that a budget can ask for."""
        return self.length or self.grid[0] * self.grid[1]

    @property
    def rows(self) -> int:
        """Ids with sentinels: every second token a span of its own, and one that ends the target."""
        return self.sentinel + (self.length + 1) // 2 + 1 if self.length else self.vocab


@dataclass(frozen=True)
class Mixture:
    """One component: concentrations of the Dirichlet by stream, of inputs and of targets (0: none of it), and how often it is drawn.

    keep: texts that this component keeps in another way than their `Stream.keep`: (("caption", "all"),).
    """

    inputs: tuple[float, ...]
    targets: tuple[float, ...]
    weight: float = 1.0
    keep: tuple[tuple[str, str], ...] = field(default=(), metadata={"since": 2})


class Tokens(NamedTuple):
    """Padded tokens: id, index of the stream, place (in the grid, or in the order of the text's tokens that are there), real or padding."""

    ids: Int[Array, "B N"]
    stream: Int[Array, "B N"]
    place: Int[Array, "B N"]
    valid: Bool[Array, "B N"]


class Masked(NamedTuple):
    """inputs: what the encoder sees.   queries: what the decoder reads (ids matter for texts alone: the token before the label).

    labels: what each query is to say.   reach: the compressed attention mask of the queries, see `attention_mask`.
    """

    inputs: Tokens
    queries: Tokens
    labels: Int[Array, "B M"]
    reach: Int[Array, "B M"]


def check(streams: Sequence[Stream], mixtures: Sequence[Mixture], n_input: int, n_target: int) -> None:
    """Raises ConfigError for streams, mixtures or budgets that cannot work, naming the field."""
    names = [s.name for s in streams]
    if not streams or len({*names}) < len(names):
        raise ConfigError(f"system.streams are named {names}: give at least one, each name once")
    for s in streams:
        if (s.vocab < 2) != s.only_input or (s.length > 0) == (s.grid[0] * s.grid[1] > 0) or s.size < 1:
            raise ConfigError(
                f"stream {s.name!r}: give vocab >= 2 (0 for pixels and vectors) and either a grid or a length"
            )
        if (s.length and (s.patch or s.learned)) or (s.vectors and not s.length):
            raise ConfigError(f"stream {s.name!r}: patch and learned are for images, vectors for texts")
        if s.keep not in KEEPS:
            raise ConfigError(f"stream {s.name!r}: keep is {s.keep!r}, choose 'random', 'all' or 'binary'")
        if s.chunk < 1 or (s.chunk > 1 and s.chunk >= s.length):
            raise ConfigError(
                f"stream {s.name!r}: chunk is {s.chunk}, give 1 or more, for a text longer than one chunk"
            )
    if n_input < 1 or n_target < 1:
        raise ConfigError(f"system.n_input is {n_input} and n_target {n_target}: both must be at least 1")
    if not mixtures or any(m.weight <= 0 for m in mixtures):
        raise ConfigError("system.mixtures: give at least one component, each with a positive weight")
    for i, m in enumerate(mixtures):
        for side, alphas in (("inputs", m.inputs), ("targets", m.targets)):
            if len(alphas) != len(streams):
                raise ConfigError(f"mixtures[{i}].{side} is {alphas}: give one concentration for each of {names}")
            if any(not 0 <= a < float("inf") for a in alphas) or not any(alphas):
                raise ConfigError(f"mixtures[{i}].{side} is {alphas}: not negative, finite, and not all 0")
        if any(a and s.only_input for a, s in zip(m.targets, streams)):
            raise ConfigError(
                f"mixtures[{i}].targets is {m.targets}: pixels and vectors are never predicted, give them 0"
            )
        for name, keep in m.keep:
            if name not in [s.name for s in streams if s.length] or keep not in KEEPS:
                raise ConfigError(
                    f"mixtures[{i}].keep says {(name, keep)}: name a text of {names} and one of {', '.join(KEEPS)}"
                )


def check_ids(streams: Sequence[Stream], tokens: Mapping[str, np.ndarray]) -> None:
    """Raises DataError where an id lies outside its stream's vocabulary. For data on the host; inside jit nothing is checked."""
    for s in streams:
        ids = np.asarray(tokens[s.name])
        if s.only_input:
            continue
        if ids.size and (ids.min() < 0 or ids.max() >= s.vocab):
            raise DataError(f"{s.name}: ids lie in {ids.min()}..{ids.max()}, its vocabulary is [0, {s.vocab})")


def dirichlet_logits(rng: PRNGKeyArray, alpha: Float[Array, "*n T"]) -> Float[Array, "*n T"]:
    """Logarithms of gammas: their softmax is a Dirichlet(alpha) draw. -inf where alpha is negative (the stream is absent)."""
    drawn = jax.random.loggamma(rng, jnp.maximum(alpha, LEAST_ALPHA))
    return jnp.where(alpha < 0, -jnp.inf, drawn)


def budget(
    rng: PRNGKeyArray, alpha: Float[Array, "B T"], total: int, most: Int[Array, "B T"] | Int[Array, " T"]
) -> Int[Array, "B T"]:
    """Tokens by stream: floor(p total) with p ~ Dirichlet(alpha); each token left over goes to the largest share of a fresh draw.

    Streams of concentration ~0 get none that way. Cut to `most`, without handing out again: the sum may lie below `total`.
    """
    streams = alpha.shape[1]
    drawn = dirichlet_logits(rng, jnp.broadcast_to(alpha[:, None], (len(alpha), streams + 1, streams)))
    count = jnp.floor(jax.nn.softmax(drawn[:, 0]) * total).astype(jnp.int32)
    left = total - count.sum(1)
    # Flooring takes less than one token a stream (one a stream, where rounding errs).
    winner = drawn[:, 1:].argmax(-1)
    given = jnp.arange(streams) < left[:, None]
    count = count + ((winner[..., None] == jnp.arange(streams)) & given[..., None]).sum(1)
    return jnp.minimum(count, most).astype(jnp.int32)


def compact(
    keep: Bool[Array, "B N"], size: int, *values: Int[Array, "B N"]
) -> tuple[Bool[Array, "B {size}"], tuple[Int[Array, "B {size}"], ...]]:
    """(valid, values): the first `size` entries that `keep` holds, in order, then padding of 0."""
    ends = jnp.cumsum(keep, axis=1)
    at = jax.vmap(lambda row: jnp.searchsorted(row, jnp.arange(1, size + 1)))(ends)
    valid = jnp.arange(size) < ends[:, -1:]
    at = jnp.minimum(at, keep.shape[1] - 1)
    return valid, tuple(jnp.where(valid, jnp.take_along_axis(v, at, axis=1), 0).astype(jnp.int32) for v in values)


class Spans(NamedTuple):
    """A text with spans cut out: `inputs` [B, L] of which n_input are real, `targets` [B, L + 2] of which n_target."""

    inputs: Int[Array, "B L"]
    n_input: Int[Array, " B"]
    targets: Int[Array, "B M"]
    n_target: Int[Array, " B"]


def cut_spans(ids: Int[Array, "B L"], dropped: Bool[Array, "B L"], sentinel: int) -> Spans:
    """Every longest run of `dropped` tokens becomes the next sentinel (sentinel, sentinel + 1, ...) of the input.

    The target is each sentinel with its run, and at last one more sentinel. Padding (PAD at the end) is neither.
    """
    real = ids != PAD
    dropped = dropped & real
    first = dropped & ~jnp.pad(dropped, ((0, 0), (1, 0)))[:, :-1]
    run = jnp.cumsum(first, axis=1)
    sentinels = (sentinel - 1 + run).astype(jnp.int32)
    b, length = ids.shape
    valid_in, (inputs,) = compact((real & ~dropped) | first, length, jnp.where(dropped, sentinels, ids))
    # A place for a sentinel before each token, and one for the last sentinel.
    pairs = jnp.stack([sentinels, ids], axis=2).reshape(b, 2 * length)
    flags = jnp.stack([first, dropped], axis=2).reshape(b, 2 * length)
    pairs = jnp.concatenate([pairs, sentinels[:, -1:] + 1], axis=1)
    flags = jnp.concatenate([flags, jnp.ones((b, 1), bool)], axis=1)
    valid_out, (targets,) = compact(flags, length + 2, pairs)
    return Spans(inputs, valid_in.sum(1), targets, valid_out.sum(1))


def draw_dropped(
    rng: PRNGKeyArray,
    ids: Int[Array, "B L"],
    n_input: Int[Array, " B"],
    keep: str | Int[Array, " B"] = "random",
    tries: int = 48,
    chunk: int = 1,
) -> Bool[Array, "B L"]:
    """Which tokens of a text are cut out so that what stays fits n_input, sentinels counted.

    Each token (with `chunk` > 1: each chunk of so many, the last token being one alone) is kept with probability k, by `keep`: one of
    KEEPS, or the index of one for each text. Where that does not fit, k falls by a tenth and all is drawn again; after `tries` nothing
    is kept, which one sentinel stands for. Where n_input is 0 nothing is kept.
    """
    for_keep, for_token = jax.random.split(rng)
    b, length = ids.shape
    start = jax.random.uniform(for_keep, (b, 1, 1))
    ways = start, jnp.ones_like(start), jnp.round(start)  # in the order of KEEPS
    start = ways[KEEPS.index(keep)] if isinstance(keep, str) else jnp.stack(ways)[keep, jnp.arange(b)]
    chance = start * 0.9 ** jnp.arange(tries, dtype=jnp.float32)[:, None]
    real = (ids != PAD)[:, None]
    drawn = jax.random.uniform(for_token, (b, tries, length))
    if chunk > 1:
        last = real & ~jnp.pad(real, ((0, 0), (0, 0), (0, 1)))[..., 1:]
        drawn = jnp.where(last, drawn[..., -1:], drawn[..., jnp.arange(length) // chunk])
    dropped = (drawn >= chance) & real
    first = dropped & ~jnp.pad(dropped, ((0, 0), (0, 0), (1, 0)))[..., :-1]
    fits = ((real & ~dropped) | first).sum(-1) <= n_input[:, None]
    chosen = jnp.take_along_axis(dropped, fits.argmax(1)[:, None, None], axis=1)[:, 0]
    return jnp.where((fits.any(1) & (n_input > 0))[:, None], chosen, ids != PAD)


def target_window(
    rng: PRNGKeyArray, spans: Spans, n_target: Int[Array, " B"], sentinel: int
) -> tuple[Int[Array, " B"], Int[Array, " B"]]:
    """(start, length) of the part of a text's target that fits n_target.

    A target that is too long is read from a random sentinel on, never the last; where less than n_target would be left, from the
    earliest sentinel whose rest fits.
    """
    at = jnp.arange(spans.targets.shape[1])
    inside = at < spans.n_target[:, None]
    marks = (spans.targets >= sentinel) & inside
    order = jnp.cumsum(marks, axis=1)
    choices = jnp.maximum(order[:, -1] - 1, 1)
    pick = jnp.minimum(jnp.floor(jax.random.uniform(rng, choices.shape) * choices), choices - 1)
    chosen = (marks & (order == pick[:, None] + 1)).argmax(1)
    earliest = (marks & (spans.n_target[:, None] - at <= n_target[:, None])).argmax(1)
    start = jnp.where(spans.n_target - chosen >= n_target, chosen, earliest)
    start = jnp.where(spans.n_target <= n_target, 0, start)
    return start, jnp.minimum(spans.n_target - start, n_target)


def text_body(ids: Int[Array, "B L"], length: int, chunk: int = 1) -> Int[Array, "B {length}"]:
    """A tokenised text as 4M takes it: no BOS, its EOS (the last id before the padding) kept where it is cut to `length`.

    Of chunks, only whole ones stay.
    """
    ids = jnp.where(ids[:, :1] == BOS, jnp.pad(ids, ((0, 0), (0, 1)))[:, 1:], ids)
    count = jnp.sum(ids != PAD, axis=1, keepdims=True)
    last = jnp.take_along_axis(ids, jnp.maximum(count - 1, 0), axis=1)
    cut = jnp.pad(ids, ((0, 0), (0, max(0, length - ids.shape[1]))))[:, :length]
    end = jnp.minimum(jnp.maximum(count - 1, 0), length - 1) // chunk * chunk
    at = jnp.arange(length)
    return jnp.where(at < end, cut, jnp.where(at == end, last, PAD)).astype(jnp.int32)


class Part(NamedTuple):
    """One stream's candidates: ids, places, and which are taken; for queries also labels and reach."""

    ids: Int[Array, "B N"]
    place: Int[Array, "B N"]
    taken: Bool[Array, "B N"]
    labels: Int[Array, "B N"]
    reach: Int[Array, "B N"]


def image_parts(ids: Int[Array, "B N"], inputs: Bool[Array, "B N"], targets: Bool[Array, "B N"]) -> tuple[Part, Part]:
    """(inputs, queries) of an image stream. Its queries see each other: the first one reaches over all of them."""
    place = jnp.broadcast_to(jnp.arange(ids.shape[1], dtype=jnp.int32), ids.shape)
    nothing = jnp.zeros_like(ids)
    first = targets & (jnp.cumsum(targets, axis=1) == 1)
    reach = jnp.where(first, targets.sum(1, keepdims=True), 0).astype(jnp.int32)
    return Part(ids, place, inputs, nothing, nothing), Part(nothing, place, targets, ids, reach)


def text_parts(spans: Spans, start: Int[Array, " B"], length: Int[Array, " B"]) -> tuple[Part, Part]:
    """(inputs, queries) of a text: a query reads one token of the target window and is to say the next, so the first is never predicted."""
    at = jnp.broadcast_to(jnp.arange(spans.inputs.shape[1], dtype=jnp.int32), spans.inputs.shape)
    nothing = jnp.zeros_like(at)
    taken = at < spans.n_input[:, None]
    read, say = spans.targets[:, :-1], spans.targets[:, 1:]
    place = jnp.arange(read.shape[1]) - start[:, None]
    asked = (place >= 0) & (place < length[:, None] - 1)
    place = jnp.maximum(place, 0).astype(jnp.int32)
    return Part(spans.inputs, at, taken, nothing, nothing), Part(read, place, asked, say, asked.astype(jnp.int32))


def collect(parts: Sequence[tuple[Part, Part]], n_input: int, n_target: int) -> Masked:
    """What the streams' parts hold, in the order of streams, cut or padded to n_input and n_target."""

    def gather(side: int, size: int) -> tuple[Tokens, Array, Array]:
        mine = [p[side] for p in parts]
        whole = [jnp.concatenate(columns, axis=1) for columns in zip(*mine)]
        stream = jnp.concatenate([jnp.full(p.ids.shape, i, jnp.int32) for i, p in enumerate(mine)], axis=1)
        valid, (ids, where, place, labels, reach) = compact(whole[2], size, whole[0], stream, *whole[1:2], *whole[3:])
        return Tokens(ids, where, place, valid), labels, reach

    inputs, _, _ = gather(0, n_input)
    return Masked(inputs, *gather(1, n_target))


def attention_mask(
    reach: Int[Array, "B M"], stream: Int[Array, "B M"], separate: bool = True
) -> Bool[Array, "B 1 M M"]:
    """The decoder's self-attention from its compressed form: query i sees j < reach_0 + ... + reach_i.

    reach [2, 0, 1, 1]: the first two see each other, the third those and itself, the fourth all.   separate: only its own stream.
    """
    sees = jnp.arange(reach.shape[1]) < jnp.cumsum(reach, axis=1)[..., None]
    return (sees & (stream[:, :, None] == stream[:, None, :]) if separate else sees)[:, None]


def mask(
    rng: PRNGKeyArray,
    tokens: Mapping[str, Array],
    streams: Sequence[Stream],
    mixtures: Sequence[Mixture],
    n_input: int,
    n_target: int,
    present: Bool[Array, "B T"] | None = None,
) -> Masked:
    """Inputs and targets of a batch: image ids [B, N], text ids [B, L] (PAD behind them), by name.

    present: which streams an example has; the others get no budget. The budgets of a text hold its sentinels too.
    """
    b = len(tokens[streams[0].name])
    for_mix, for_input, for_target, *each = jax.random.split(rng, 3 + len(streams))
    weights = jnp.log(jnp.asarray([m.weight for m in mixtures], jnp.float32))
    component = jax.random.categorical(for_mix, weights, shape=(b,))

    def alphas(side: Sequence[tuple[float, ...]]) -> Array:
        alpha = jnp.asarray(side, jnp.float32)[component]
        return alpha if present is None else jnp.where(present, alpha, -1.0)

    sizes = jnp.asarray([s.size for s in streams], jnp.int32)
    n_in = budget(for_input, alphas([m.inputs for m in mixtures]), n_input, sizes)
    is_image = jnp.asarray([not s.length for s in streams])
    n_out = budget(
        for_target, alphas([m.targets for m in mixtures]), n_target, jnp.where(is_image, sizes - n_in, sizes)
    )
    if present is not None:
        n_in, n_out = jnp.where(present, n_in, 0), jnp.where(present, n_out, 0)
    parts = []
    for t, (s, key) in enumerate(zip(streams, each)):
        ids, a, b_ = tokens[s.name], n_in[:, t], n_out[:, t]
        if s.length:
            for_drop, for_window = jax.random.split(key)
            ids = text_body(ids, s.length, s.chunk)
            keeps = [KEEPS.index(dict(m.keep).get(s.name, s.keep)) for m in mixtures]
            keep = jnp.asarray(keeps)[component] if len({*keeps}) > 1 else KEEPS[keeps[0]]
            spans = cut_spans(ids, draw_dropped(for_drop, ids, a, keep, chunk=s.chunk), s.sentinel)
            spans = spans._replace(n_input=jnp.where(a > 0, spans.n_input, 0))
            parts.append(text_parts(spans, *target_window(for_window, spans, b_, s.sentinel)))
        else:
            # The k-th value of the permutation counts as its place, as in the authors' code.
            order = jnp.argsort(jax.random.uniform(key, ids.shape), axis=1)
            inputs = order < a[:, None]
            parts.append(image_parts(ids.astype(jnp.int32), inputs, ~inputs & (order < (a + b_)[:, None])))
    return collect(parts, n_input, n_target)


def everything(tokens: Mapping[str, Array], streams: Sequence[Stream]) -> Tokens:
    """All tokens of the streams that `tokens` holds, as inputs: images whole, texts without a cut."""
    found: list[Tokens] = []
    for t, s in enumerate(streams):
        if s.name in tokens:
            ids = text_body(tokens[s.name], s.length, s.chunk) if s.length else tokens[s.name].astype(jnp.int32)
            at = jnp.broadcast_to(jnp.arange(ids.shape[1], dtype=jnp.int32), ids.shape)
            valid = ids != PAD if s.length else jnp.ones(ids.shape, bool)
            found.append(Tokens(ids, jnp.full(ids.shape, t, jnp.int32), at, valid))
    if not found:
        raise ConfigError(f"the batch holds none of {', '.join(s.name for s in streams)}: give at least one stream")
    return Tokens(*(jnp.concatenate(columns, axis=1) for columns in zip(*found)))
