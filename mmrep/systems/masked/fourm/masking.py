"""4M's masking (Mizrahi et al. 2023, section 3.2): few tokens of any modality are inputs, few others are targets.

DirichletMixture, token_budgets   how many tokens of each modality: budgets from a mixture of Dirichlet distributions
image_mask                        images: tokens at random positions
span_mask, sequence_mask          sequences: T5's span masking; the target repeats each sentinel, followed by its span
mask_tokens                       all of it for a batch

All functions are pure in (rng, ids) with static shapes, so they run inside jit; unused budget is padding, `valid` False.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from mmrep.errors import ConfigError, near
from mmrep.modality import PAD
from mmrep.systems.masked.fourm.tokens import KEEP_SCHEMES, TokenModality, Tokens, truncate

MIN_ALPHA = 1e-9  # replaces a concentration of 0

Alphas = tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class DirichletMixture:
    """One component of the mixture that budgets are drawn from.

    inputs, targets: Dirichlet concentrations by modality, as `alphas` writes them; a modality that is not named gets 0, and no tokens.
    weight: relative frequency of the component.   keep: sequences with another `keep` than their own: (("caption", "all"),).
    """

    inputs: Alphas
    targets: Alphas
    weight: float = 1.0
    keep: tuple[tuple[str, str], ...] = ()


def alphas(names: Sequence[str] = (), value: float = 0.5, **others: float) -> Alphas:
    """Concentrations: `value` for each of `names`, and others by keyword: alphas(("rgb", "depth"), 0.5, caption=5.0)."""
    return tuple((dict.fromkeys(names, value) | others).items())


class MaskedTokens(NamedTuple):
    """One batch of the masked objective.

    inputs: visible tokens.   queries: decoder inputs; their ids matter for sequences alone, where each is the token before the target.
    target_ids: the id that each query predicts.   decoder_attention_mask: compressed, see `expand_decoder_attention_mask`.
    """

    inputs: Tokens
    queries: Tokens
    target_ids: Int[Array, "B M"]
    decoder_attention_mask: Int[Array, "B M"]


def check_mixtures(
    modalities: Sequence[TokenModality], mixtures: Sequence[DirichletMixture], num_inputs: int, num_targets: int
) -> None:
    """Raises ConfigError for mixtures or budgets that cannot work, naming the field."""
    known = {m.name: m for m in modalities}
    if num_inputs < 1 or num_targets < 1:
        raise ConfigError(
            f"system.num_input_tokens is {num_inputs} and num_target_tokens {num_targets}: both must be at least 1"
        )
    if not mixtures or any(x.weight <= 0 for x in mixtures):
        raise ConfigError("system.mixtures: give at least one component, each with a positive weight")
    for i, x in enumerate(mixtures):
        for side, by_name in (("inputs", x.inputs), ("targets", x.targets)):
            for name, alpha in by_name:
                if name not in known:
                    raise ConfigError(f"mixtures[{i}].{side} has no modality {name!r}{near(name, known)}")
                if not 0 <= alpha < float("inf"):
                    raise ConfigError(f"mixtures[{i}].{side}: {name} is {alpha}, give 0 or a positive, finite number")
                if side == "targets" and alpha and known[name].input_only:
                    raise ConfigError(f"mixtures[{i}].targets: {name} is input only and never predicted, remove it")
            if len(dict(by_name)) < len(by_name) or not any(alpha for _, alpha in by_name):
                raise ConfigError(f"mixtures[{i}].{side} is {by_name}: name each modality once, one above 0")
        for name, keep in x.keep:
            if name not in known or not known[name].is_sequence or keep not in KEEP_SCHEMES:
                raise ConfigError(
                    f"mixtures[{i}].keep has {(name, keep)}: name a sequence and one of {', '.join(KEEP_SCHEMES)}"
                )


def dirichlet_logits(rng: PRNGKeyArray, alpha: Float[Array, "*n T"]) -> Float[Array, "*n T"]:
    """Logarithms of gamma draws: their softmax is a draw from Dirichlet(alpha). -inf where alpha is negative (modality absent)."""
    drawn = jax.random.loggamma(rng, jnp.maximum(alpha, MIN_ALPHA))
    return jnp.where(alpha < 0, -jnp.inf, drawn)


def token_budgets(
    rng: PRNGKeyArray,
    alpha: Float[Array, "B T"],
    total: int | Int[Array, ""],
    most: Int[Array, "B T"] | Int[Array, " T"],
) -> Int[Array, "B T"]:
    """Number of tokens by modality: floor(p * total) with p ~ Dirichlet(alpha); each remaining token goes to the argmax of a new draw.

    Modalities of concentration ~0 get none that way. Cut to `most`, and not redistributed: the sum may be below `total`.
    """
    kinds = alpha.shape[1]
    drawn = dirichlet_logits(rng, jnp.broadcast_to(alpha[:, None], (len(alpha), kinds + 1, kinds)))
    count = jnp.floor(jax.nn.softmax(drawn[:, 0]) * total).astype(jnp.int32)
    left = total - count.sum(1)
    # Flooring removes less than one token per modality (one, where rounding errs), so that `kinds` more draws suffice.
    winner = drawn[:, 1:].argmax(-1)
    given = jnp.arange(kinds) < left[:, None]
    count = count + ((winner[..., None] == jnp.arange(kinds)) & given[..., None]).sum(1)
    return jnp.minimum(count, most).astype(jnp.int32)


def pack(
    keep: Bool[Array, "B N"], size: int, *values: Int[Array, "B N"]
) -> tuple[Bool[Array, "B {size}"], tuple[Int[Array, "B {size}"], ...]]:
    """(valid, values): the first `size` entries where `keep` is True, in order, then padding of 0."""
    ends = jnp.cumsum(keep, axis=1)
    at = jax.vmap(lambda row: jnp.searchsorted(row, jnp.arange(1, size + 1)))(ends)
    valid = jnp.arange(size) < ends[:, -1:]
    at = jnp.minimum(at, keep.shape[1] - 1)
    return valid, tuple(jnp.where(valid, jnp.take_along_axis(v, at, axis=1), 0).astype(jnp.int32) for v in values)


class Spans(NamedTuple):
    """A sequence after span masking: `inputs` [B, L], the first num_inputs valid, and `targets` [B, L + 2], the first num_targets valid."""

    inputs: Int[Array, "B L"]
    num_inputs: Int[Array, " B"]
    targets: Int[Array, "B M"]
    num_targets: Int[Array, " B"]


def mask_spans(ids: Int[Array, "B L"], masked: Bool[Array, "B L"], sentinel: int) -> Spans:
    """Replaces each maximal run of `masked` tokens by the next sentinel (sentinel, sentinel + 1, ...) in the inputs.

    The targets are each sentinel with its run, and a final sentinel. Padding (PAD at the end) belongs to neither.
    """
    real = ids != PAD
    masked = masked & real
    first = masked & ~jnp.pad(masked, ((0, 0), (1, 0)))[:, :-1]
    run = jnp.cumsum(first, axis=1)
    sentinels = (sentinel - 1 + run).astype(jnp.int32)
    b, length = ids.shape
    valid_in, (inputs,) = pack((real & ~masked) | first, length, jnp.where(masked, sentinels, ids))
    # A slot for a sentinel before each token, and one for the final sentinel.
    pairs = jnp.stack([sentinels, ids], axis=2).reshape(b, 2 * length)
    flags = jnp.stack([first, masked], axis=2).reshape(b, 2 * length)
    pairs = jnp.concatenate([pairs, sentinels[:, -1:] + 1], axis=1)
    flags = jnp.concatenate([flags, jnp.ones((b, 1), bool)], axis=1)
    valid_out, (targets,) = pack(flags, length + 2, pairs)
    return Spans(inputs, valid_in.sum(1), targets, valid_out.sum(1))


def span_mask(
    rng: PRNGKeyArray,
    ids: Int[Array, "B L"],
    budget: Int[Array, " B"],
    keep: str | Int[Array, " B"] = "random",
    max_tries: int = 48,
    chunk: int = 1,
) -> Bool[Array, "B L"]:
    """Which tokens of a sequence are masked, such that the rest and its sentinels fit the input budget.

    Each token (or each chunk of `chunk` tokens, the last token being its own chunk) is kept with probability k, which `keep` decides:
    one of KEEP_SCHEMES, or the index of one per row. Where the result does not fit, k is reduced by a tenth and all is drawn again;
    after `max_tries` everything is masked, as it is where the budget is 0.
    """
    for_keep, for_token = jax.random.split(rng)
    b, length = ids.shape
    start = jax.random.uniform(for_keep, (b, 1, 1))
    ways = start, jnp.ones_like(start), jnp.round(start)  # in the order of KEEP_SCHEMES
    start = ways[KEEP_SCHEMES.index(keep)] if isinstance(keep, str) else jnp.stack(ways)[keep, jnp.arange(b)]
    keep_prob = start * 0.9 ** jnp.arange(max_tries, dtype=jnp.float32)[:, None]
    real = (ids != PAD)[:, None]
    drawn = jax.random.uniform(for_token, (b, max_tries, length))
    if chunk > 1:
        last = real & ~jnp.pad(real, ((0, 0), (0, 0), (0, 1)))[..., 1:]
        drawn = jnp.where(last, drawn[..., -1:], drawn[..., jnp.arange(length) // chunk])
    masked = (drawn >= keep_prob) & real
    first = masked & ~jnp.pad(masked, ((0, 0), (0, 0), (1, 0)))[..., :-1]
    fits = ((real & ~masked) | first).sum(-1) <= budget[:, None]
    chosen = jnp.take_along_axis(masked, fits.argmax(1)[:, None, None], axis=1)[:, 0]
    return jnp.where((fits.any(1) & (budget > 0))[:, None], chosen, ids != PAD)


def target_window(
    rng: PRNGKeyArray, spans: Spans, budget: Int[Array, " B"], sentinel: int
) -> tuple[Int[Array, " B"], Int[Array, " B"]]:
    """(start, length) of the part of a sequence's targets that fits the target budget.

    Targets that are too long start at a random sentinel, never the last; where fewer than `budget` tokens would remain, at the
    earliest sentinel whose rest fits.
    """
    at = jnp.arange(spans.targets.shape[1])
    inside = at < spans.num_targets[:, None]
    marks = (spans.targets >= sentinel) & inside
    order = jnp.cumsum(marks, axis=1)
    choices = jnp.maximum(order[:, -1] - 1, 1)
    pick = jnp.minimum(jnp.floor(jax.random.uniform(rng, choices.shape) * choices), choices - 1)
    chosen = (marks & (order == pick[:, None] + 1)).argmax(1)
    earliest = (marks & (spans.num_targets[:, None] - at <= budget[:, None])).argmax(1)
    start = jnp.where(spans.num_targets - chosen >= budget, chosen, earliest)
    start = jnp.where(spans.num_targets <= budget, 0, start)
    return start, jnp.minimum(spans.num_targets - start, budget)


class Candidates(NamedTuple):
    """One modality's tokens before packing; `chosen` ones become inputs or queries."""

    ids: Int[Array, "B N"]
    position: Int[Array, "B N"]
    chosen: Bool[Array, "B N"]
    target_ids: Int[Array, "B N"]
    decoder_attention_mask: Int[Array, "B N"]


def image_mask(
    ids: Int[Array, "B N"], inputs: Bool[Array, "B N"], targets: Bool[Array, "B N"]
) -> tuple[Candidates, Candidates]:
    """(inputs, queries) of an image. Its queries attend to each other: the first entry of their compressed mask counts all of them."""
    position = jnp.broadcast_to(jnp.arange(ids.shape[1], dtype=jnp.int32), ids.shape)
    zeros = jnp.zeros_like(ids)
    first = targets & (jnp.cumsum(targets, axis=1) == 1)
    attention = jnp.where(first, targets.sum(1, keepdims=True), 0).astype(jnp.int32)
    return Candidates(ids, position, inputs, zeros, zeros), Candidates(zeros, position, targets, ids, attention)


def sequence_mask(spans: Spans, start: Int[Array, " B"], length: Int[Array, " B"]) -> tuple[Candidates, Candidates]:
    """(inputs, queries) of a sequence: each query is a token of the target window and predicts the next, so the first is not predicted."""
    at = jnp.broadcast_to(jnp.arange(spans.inputs.shape[1], dtype=jnp.int32), spans.inputs.shape)
    zeros = jnp.zeros_like(at)
    inputs = Candidates(spans.inputs, at, at < spans.num_inputs[:, None], zeros, zeros)
    ids, target_ids = spans.targets[:, :-1], spans.targets[:, 1:]
    position = jnp.arange(ids.shape[1]) - start[:, None]
    chosen = (position >= 0) & (position < length[:, None] - 1)
    position = jnp.maximum(position, 0).astype(jnp.int32)
    return inputs, Candidates(ids, position, chosen, target_ids, chosen.astype(jnp.int32))


def pack_modalities(parts: Sequence[tuple[Candidates, Candidates]], num_inputs: int, num_targets: int) -> MaskedTokens:
    """The chosen tokens of all modalities in their order, cut or padded to the budgets."""

    def packed(side: int, size: int) -> tuple[Tokens, Array, Array]:
        own = [p[side] for p in parts]
        joined = Candidates(*(jnp.concatenate(columns, axis=1) for columns in zip(*own)))
        modality = jnp.concatenate([jnp.full(p.ids.shape, i, jnp.int32) for i, p in enumerate(own)], axis=1)
        columns = joined.ids, modality, joined.position, joined.target_ids, joined.decoder_attention_mask
        valid, (ids, modality, position, target_ids, attention) = pack(joined.chosen, size, *columns)
        return Tokens(ids, modality, position, valid), target_ids, attention

    inputs, _, _ = packed(0, num_inputs)
    return MaskedTokens(inputs, *packed(1, num_targets))


def expand_decoder_attention_mask(
    compressed: Int[Array, "B M"], modality: Int[Array, "B M"], sep_mask: bool = True
) -> Bool[Array, "B 1 M M"]:
    """The decoder's self-attention mask: query i attends to j < compressed_0 + ... + compressed_i.

    [2, 0, 1, 1]: the first two attend to each other, the third to them and itself, the fourth to all.   sep_mask: within a modality only.
    """
    mask = jnp.arange(compressed.shape[1]) < jnp.cumsum(compressed, axis=1)[..., None]
    return (mask & (modality[:, :, None] == modality[:, None, :]) if sep_mask else mask)[:, None]


def mask_tokens(
    rng: PRNGKeyArray,
    ids: Mapping[str, Array],
    modalities: Sequence[TokenModality],
    mixtures: Sequence[DirichletMixture],
    num_inputs: int,
    num_targets: int,
    present: Bool[Array, "B T"] | None = None,
) -> MaskedTokens:
    """Inputs and targets of a batch from {name: ids}: images [B, N], texts [B, L] padded with PAD.

    present: which modalities each example has; the others get no tokens. The budgets of a sequence include its sentinels.
    """
    b = len(ids[modalities[0].name])
    for_component, for_input, for_target, *keys = jax.random.split(rng, 3 + len(modalities))
    weights = jnp.log(jnp.asarray([x.weight for x in mixtures], jnp.float32))
    component = jax.random.categorical(for_component, weights, shape=(b,))

    def drawn_alphas(sides: Sequence[Alphas]) -> Array:
        rows = [[dict(side).get(m.name, 0.0) for m in modalities] for side in sides]
        alpha = jnp.asarray(rows, jnp.float32)[component]
        return alpha if present is None else jnp.where(present, alpha, -1.0)

    most = jnp.asarray([m.max_tokens for m in modalities], jnp.int32)
    is_image = jnp.asarray([not m.is_sequence for m in modalities])
    n_in = token_budgets(for_input, drawn_alphas([x.inputs for x in mixtures]), num_inputs, most)
    left = jnp.where(is_image, most - n_in, most)
    n_out = token_budgets(for_target, drawn_alphas([x.targets for x in mixtures]), num_targets, left)
    if present is not None:
        n_in, n_out = jnp.where(present, n_in, 0), jnp.where(present, n_out, 0)
    parts = []
    for i, (m, key) in enumerate(zip(modalities, keys)):
        own, budget_in, budget_out = ids[m.name], n_in[:, i], n_out[:, i]
        if m.is_sequence:
            for_mask, for_window = jax.random.split(key)
            own = truncate(own, m.length, m.chunk)
            schemes = [KEEP_SCHEMES.index(dict(x.keep).get(m.name, m.keep)) for x in mixtures]
            keep = jnp.asarray(schemes)[component] if len({*schemes}) > 1 else KEEP_SCHEMES[schemes[0]]
            spans = mask_spans(own, span_mask(for_mask, own, budget_in, keep, chunk=m.chunk), m.sentinel)
            spans = spans._replace(num_inputs=jnp.where(budget_in > 0, spans.num_inputs, 0))
            parts.append(sequence_mask(spans, *target_window(for_window, spans, budget_out, m.sentinel)))
        else:
            # The k-th value of the permutation is used as its rank, as in the authors' code.
            order = jnp.argsort(jax.random.uniform(key, own.shape), axis=1)
            inputs = order < budget_in[:, None]
            targets = ~inputs & (order < (budget_in + budget_out)[:, None])
            parts.append(image_mask(own.astype(jnp.int32), inputs, targets))
    return pack_modalities(parts, num_inputs, num_targets)
