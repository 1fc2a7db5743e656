"""UniXcoder: one Transformer as encoder, decoder and both, over code, syntax trees and comments (Guo et al. 2022, arXiv 2203.03850).

Section 3.1, prefixes and attention masks of three modes             model.MODES, model.led, mmrep.nn.attention.prefix_mask
Section 3.2, algorithm 1, a tree as a sequence, and back             trees.flatten, trees.unflatten
Section 3.3, masked language modelling (encoder only)                model.masked
Section 3.3, unidirectional language modelling (decoder only)        model.continued
Section 3.3, denoising of spans (encoder-decoder)                    model.cut_spans, model.denoised
Section 3.4, equation 2, contrast of two dropout masks               model.view_loss
Section 3.4, generation of comments (encoder-decoder)                model.commented
Section 4, embeddings of code and text for search                    infer.code, infer.comment
Summaries and completions, by beam search                            infer.written, infer.completed

A step takes all objectives on one batch, where the authors draw one. Not here: pre-training on text alone, and fine-tuning.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from mmrep.errors import ConfigError, check_fields
from mmrep.generation.text import write
from mmrep.modality import EOS, PAD
from mmrep.nn.attention import prefix_mask
from mmrep.nn.config import TransformerConfig
from mmrep.nn.encoders.decoder_lm import DecoderLM, DecoderStack
from mmrep.nn.heads import l2_normalise
from mmrep.nn.pooling import mean_pool
from mmrep.system import Batch, Extras, Infer, Metrics, Params, System, stateless
from mmrep.systems.fusion.unixcoder import model
from mmrep.systems.fusion.unixcoder.model import Task

OBJECTIVES = ("masked", "continued", "denoised", "views", "commented")


@dataclass(frozen=True)
class Config:
    """The batch: code and tree (texts of one length), and comment.

    vocab:     of the tokenizer; the table also has the modes and the masked spans.   length: places of a sequence, which is cut there.
    objectives: (name, weight) of "masked", "continued", "denoised", "views" and "commented".
    comments:  False: training never sees a comment (an ablation).   tree_share: of records whose code is given as its tree.
    mask_rate: of masked tokens.   span_rate, span: share of tokens in masked spans, and a span's mean length.
    temperature: of the contrast.   swap: share of records whose code is generated from the comment.
    write:     tokens that "written" and "completed" have at most.   beams: of their search.
    """

    transformer: TransformerConfig = TransformerConfig(norm="post", dropout=0.1)
    vocab: int = 1024
    length: int = 128
    objectives: tuple[tuple[str, float], ...] = tuple((name, 1.0) for name in OBJECTIVES)
    comments: bool = True
    tree_share: float = 0.5
    mask_rate: float = 0.15
    span_rate: float = 0.15
    span: int = 5
    temperature: float = 0.05
    swap: float = 0.5
    write: int = 32
    beams: int = 1
    dtype: str = "float32"

    @property
    def lm(self) -> DecoderLM:
        """The Transformer with its tied table; a mask, not its kind, makes it an encoder or a decoder."""
        spans = max(int(self.length * self.span_rate / self.span), 1)
        return DecoderLM(self.transformer, self.vocab + len(model.MODES) + spans, self.length, embed_norm=True)

    def check(self) -> None:
        names = [name for name, _ in self.objectives]
        check_fields(self, {
            "objectives": (bool(names) and {*names} <= {*OBJECTIVES}, f"choose from {', '.join(OBJECTIVES)}"),
            "comments": (self.comments or "commented" not in names, "the objective commented needs comments"),
            "tree_share": (0 <= self.tree_share <= 1, "it must be in [0, 1]"),
            "mask_rate": (0 < self.mask_rate < 1, "it must be in (0, 1)"),
            "span_rate": (0 < self.span_rate < 1, "it must be in (0, 1)"),
            "span": (self.span >= 1, "it must be at least 1"),
            "temperature": (self.temperature > 0, "it must be positive"),
            "swap": (0 <= self.swap <= 1, "it must be in [0, 1]"),
            "write": (0 < self.write < self.length - model.HEAD, "it must leave room for a prompt in length"),
            "beams": (self.beams >= 1, "it must be at least 1"),
        })  # fmt: skip
        if "views" in names and not self.transformer.dropout:
            raise ConfigError("system.transformer.dropout is 0: the two views of the contrast would be the same")

    def build(self) -> System:
        self.check()
        net = self.lm.module(jnp.dtype(self.dtype))
        found: dict[str, Infer] = {name: partial(embed, self, net, name) for name in ("code", "tree", "comment")}
        found |= {f"{name}_tokens": partial(tokens, self, net, name) for name in ("code", "tree", "comment")}
        found |= {"written": partial(written, self, net, "both"), "completed": partial(written, self, net, "decoder")}
        return System(partial(init, net), stateless(partial(unixcoder_loss, self, net)), found)


def init(net: DecoderStack, rng: PRNGKeyArray, batch: Batch) -> tuple[Params, Extras]:
    return {"net": net.init(rng, jnp.zeros((1, 2), jnp.int32))["params"]}, {}


def run(
    net: DecoderStack, params: Params, task: Task, rng: PRNGKeyArray | None = None
) -> tuple[Float[Array, "B N V"], Float[Array, "B N D"]]:
    """(logits, states). Positions skip padding; dropout acts with `rng`."""
    valid = task.ids != PAD
    logits, out = net.apply(
        {"params": params["net"]}, task.ids, valid=valid, positions=jnp.maximum(jnp.cumsum(valid, 1) - 1, 0),
        mask=prefix_mask(task.prefix, task.ids.shape[1]), rngs=None if rng is None else {"dropout": rng},
    )  # fmt: skip
    return logits, out["tokens"].astype(jnp.float32)


def interleaved(tasks: Sequence[Task]) -> Task:
    """The rows of all tasks in one batch, those of one record side by side: every row stays on the device of its record."""
    return Task(*(jnp.stack(parts, 1).reshape(-1, *parts[0].shape[1:]) for parts in zip(*tasks)))


def unixcoder_loss(
    config: Config, net: DecoderStack, params: Params, batch: Batch, rng: PRNGKeyArray
) -> tuple[Float[Array, ""], Metrics]:
    """The weighted sum of the objectives; each draws for itself which records give their tree in place of their code."""
    c, weights = config, dict(config.objectives)
    comment = jnp.asarray(batch["comment"])[:, 1:]
    comment = comment if c.comments else jnp.zeros_like(comment)

    def code(name: str) -> Int[Array, "B L"]:
        key = jax.random.fold_in(rng, OBJECTIVES.index(name))
        drawn = jax.random.bernoulli(key, c.tree_share, (len(comment), 1))
        return jnp.where(drawn, jnp.asarray(batch["tree"]), jnp.asarray(batch["code"]))[:, 1:]

    def both(name: str) -> Int[Array, "B M"]:
        return jnp.concatenate([comment, code(name)], axis=1)

    for_masks, for_spans, for_swap, for_dropout, for_views = jax.random.split(jax.random.fold_in(rng, 9), 5)
    made = {
        "masked": lambda n: model.masked(for_masks, c.vocab, both(n), c.length, c.mask_rate),
        "continued": lambda n: model.continued(c.vocab, both(n), c.length),
        "denoised": lambda n: model.denoised(for_spans, c.vocab, both(n), c.length, c.span_rate, c.span),
        "commented": lambda n: model.commented(for_swap, c.vocab, code(n), comment, c.length, c.swap),
    }
    tasks = {name: make(name) for name, make in made.items() if name in weights}
    losses: dict[str, Array] = {}
    if tasks:
        logits, _ = run(net, params, interleaved(list(tasks.values())), for_dropout)
        logits = logits.reshape(len(comment), len(tasks), *logits.shape[1:])
        for i, name in enumerate(tasks):
            losses[name] = model.predicted_loss(logits[:, i], tasks[name].labels)
    if "views" in weights:
        task = model.encoded(c.vocab, both("views"), c.length)
        task = interleaved([task, task])
        pooled = mean_pool(run(net, params, task, for_views)[1], task.ids != PAD)
        one, two = pooled[::2], pooled[1::2]
        losses["views"] = model.view_loss(one, two, c.temperature)
    return jnp.asarray(sum(weights[n] * v for n, v in losses.items())), losses


def tokens(
    config: Config, net: DecoderStack, name: str, params: Params, extras: Extras, batch: Batch
) -> tuple[Float[Array, "B N D"], Array]:
    """States of the encoder-only mode and which are of tokens, [CLS], prefix and [SEP] included."""
    ids = jnp.asarray(batch[name])[:, 1:]
    task = model.encoded(config.vocab, ids, min(config.length, model.HEAD + ids.shape[1]))
    return run(net, params, task)[1], task.ids != PAD


def embed(
    config: Config, net: DecoderStack, name: str, params: Params, extras: Extras, batch: Batch
) -> Float[Array, "B D"]:
    """The mean state of all tokens, of unit length."""
    return l2_normalise(mean_pool(*tokens(config, net, name, params, extras, batch)))


def written(
    config: Config, net: DecoderStack, mode: str, params: Params, extras: Extras, batch: Batch,
    beams: int = 0, allowed: Int[Array, "S V"] | None = None,
) -> Int[Array, "B L"]:  # fmt: skip
    """ "both": the comment of code; "decoder": how the code goes on. Ids up to EOS. beams: 0 takes those of the config."""
    beams = beams or config.beams
    code = jnp.asarray(batch["code"])[:, 1:]
    if mode == "decoder":
        code = jnp.where(code == EOS, PAD, code)
    room = config.length - config.write
    start = model.packed(model.led(mode, config.vocab, code), min(room, model.HEAD + code.shape[1]))
    last = jnp.repeat((start != PAD).sum(axis=1) - 1, beams, axis=0)
    prefix = jnp.zeros_like(last) if mode == "decoder" else last + 1

    def next_logits(ids: Int[Array, "N L"], at: Int[Array, ""]) -> Float[Array, "N V"]:
        logits, _ = run(net, params, Task(ids, prefix, ids))
        # The last token of the prompt gives the first one; padding between them is seen by none.
        places = jnp.where(at == start.shape[1], last, at - 1)
        return jnp.take_along_axis(logits, places[:, None, None], axis=1)[:, 0, : config.vocab]

    return write(next_logits, start, config.write, ends=lambda ids: ids == EOS, beams=beams, allowed=allowed).ids
