"""UniXcoder's modes, and its objectives as sequences for one Transformer."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from mmrep.losses.contrastive import info_nce, similarity
from mmrep.losses.masked import token_loss
from mmrep.losses.reduce import masked_mean
from mmrep.masking.tokens import mask_tokens
from mmrep.modality import BOS, EOS, PAD
from mmrep.nn.heads import l2_normalise

MODES = ("encoder", "decoder", "both")
"""Each is one id behind the tokenizer's; ids of the masked spans follow."""
HEAD = 3
"""Places of [CLS] <mode> [SEP]."""


class Task(NamedTuple):
    """Rows of an objective: ids, the number of places in front that are seen by all, and the id to predict at each place, PAD for none."""

    ids: Int[Array, "B N"]
    prefix: Int[Array, " B"]
    labels: Int[Array, "B N"]


def packed(ids: Int[Array, "B L"], length: int) -> Int[Array, "B {length}"]:
    """The ids with padding moved behind all others, cut or padded to `length`."""
    order = jnp.argsort(ids == PAD, axis=1, stable=True)
    found = jnp.take_along_axis(ids, order, axis=1)[:, :length]
    return jnp.pad(found, ((0, 0), (0, length - found.shape[1])), constant_values=PAD)


def led(mode: str, vocab: int, ids: Int[Array, "B L"]) -> Int[Array, "B M"]:
    """[CLS] <mode> [SEP] before the ids."""
    head = jnp.asarray([BOS, vocab + MODES.index(mode), EOS], jnp.int32)
    return jnp.concatenate([jnp.broadcast_to(head, (len(ids), HEAD)), ids], axis=1)


def following(ids: Int[Array, "B N"], start: Int[Array, " B"]) -> Int[Array, "B N"]:
    """At each place the id behind it, for those from place `start` on; PAD elsewhere."""
    after = jnp.pad(ids[:, 1:], ((0, 0), (0, 1)), constant_values=PAD)
    return jnp.where(jnp.arange(ids.shape[1]) + 1 >= start[:, None], after, PAD)


def encoded(vocab: int, ids: Int[Array, "B L"], length: int) -> Task:
    """Encoder only: every token is seen by all."""
    whole = packed(led("encoder", vocab, ids), length)
    return Task(whole, jnp.full(len(ids), length), jnp.full(whole.shape, PAD, jnp.int32))


def masked(rng: PRNGKeyArray, vocab: int, ids: Int[Array, "B L"], length: int, rate: float) -> Task:
    """Masked language modelling (MLM), encoder only."""
    tail = packed(ids, length - HEAD)
    corrupted, target = mask_tokens(rng, tail, vocab, rate)
    labels = jnp.pad(jnp.where(target, tail, PAD), ((0, 0), (HEAD, 0)), constant_values=PAD)
    return encoded(vocab, corrupted, length)._replace(labels=labels)


def continued(vocab: int, ids: Int[Array, "B L"], length: int) -> Task:
    """Unidirectional language modelling (ULM), decoder only: each token from those before it."""
    whole = packed(led("decoder", vocab, ids), length)
    nothing = jnp.zeros(len(ids), jnp.int32)
    return Task(whole, nothing, following(whole, nothing + HEAD))


def translated(vocab: int, source: Int[Array, "B L"], target: Int[Array, "B M"], length: int) -> Task:
    """Encoder-decoder: the source is seen by all, each token of the target from the source and the target before it."""
    front = led("both", vocab, source)
    prefix = (front != PAD).sum(axis=1)
    whole = packed(jnp.concatenate([front, target], axis=1), length)
    return Task(whole, prefix, following(whole, prefix))


class Cut(NamedTuple):
    """The chunk of each place, and whether its token is in the chunk's masked span."""

    chunk: Int[Array, "B L"]
    masked: Bool[Array, "B L"]


def cut_spans(rng: PRNGKeyArray, valid: Int[Array, " B"], length: int, rate: float, mean: int) -> Cut:
    """The first `valid` tokens in max(valid * rate / mean, 1) chunks of like length, one random span of 1 to 2 mean - 1 tokens in each."""
    most = max(int(length * rate / mean), 1)
    count = jnp.maximum((valid * rate / mean).astype(jnp.int32), 1)[:, None]
    edges = jnp.ceil(jnp.arange(most + 1) * valid[:, None] / count).astype(jnp.int32)
    size = jnp.maximum(edges[:, 1:] - edges[:, :-1], 1)
    for_length, for_start = jax.random.split(rng)
    span = jnp.minimum(jax.random.randint(for_length, size.shape, 1, 2 * mean), size)
    start = edges[:, :-1] + jnp.floor(jax.random.uniform(for_start, size.shape) * (size - span + 1)).astype(jnp.int32)
    at = jnp.broadcast_to(jnp.arange(length), (len(valid), length))
    chunk = jnp.clip((at[:, :, None] >= edges[:, None, 1:]).sum(-1), 0, count - 1)
    begin, long = (jnp.take_along_axis(x, chunk, axis=1) for x in (start, span))
    return Cut(chunk, (at >= begin) & (at < begin + long) & (at < valid[:, None]))


def denoised(rng: PRNGKeyArray, vocab: int, ids: Int[Array, "B L"], length: int, rate: float, mean: int) -> Task:
    """Denoising (DNS): the spans of `cut_spans` are one id each in the source; the target is each id with its span, in order."""
    tail = packed(ids, min(ids.shape[1], length - HEAD))
    chunk, hidden = cut_spans(rng, (tail != PAD).sum(1), tail.shape[1], rate, mean)
    mark = vocab + len(MODES) + chunk
    first = hidden & ~jnp.pad(hidden & (chunk == jnp.roll(chunk, -1, 1)), ((0, 0), (1, 0)))[:, :-1]
    source = jnp.where(first, mark, jnp.where(hidden, PAD, tail))
    spans = jnp.stack([jnp.where(first, mark, PAD), jnp.where(hidden, tail, PAD)], axis=2)
    target = spans.reshape(len(ids), -1)
    return translated(vocab, source, jnp.pad(target, ((0, 0), (0, 1)), constant_values=EOS), length)


def commented(
    rng: PRNGKeyArray, vocab: int, code: Int[Array, "B L"], comment: Int[Array, "B M"], length: int, swap: float
) -> Task:
    """Cross-modal generation (CMG): the comment of the code, or with probability `swap` the code of the comment."""
    width = max(code.shape[1], comment.shape[1])
    code, comment = (jnp.pad(x, ((0, 0), (0, width - x.shape[1])), constant_values=PAD) for x in (code, comment))
    turned = jax.random.bernoulli(rng, swap, (len(code), 1))
    return translated(vocab, jnp.where(turned, comment, code), jnp.where(turned, code, comment), length)


def predicted_loss(logits: Float[Array, "B N V"], labels: Int[Array, "B N"]) -> Float[Array, ""]:
    """Mean cross-entropy over the places with a label; 0 where there is none."""
    target = labels != PAD
    return masked_mean(token_loss(logits, labels, target), target)


def view_loss(x: Float[Array, "B D"], y: Float[Array, "B D"], temperature: float) -> Float[Array, ""]:
    """Multi-modal contrastive learning (MCL), equation 2: rows are two views of the same inputs under different dropout."""
    return info_nce(similarity(l2_normalise(x), l2_normalise(y)) / temperature).mean()
