"""FAVOR: synchronised windows of sound and vision before a language model (Sun et al. 2023, arXiv 2310.05863).

Section 3.1, temporal synchronisation                       model.synchronised, model.windows
Section 3.2, causal Q-Former                                model.CausalBlock, mmrep.nn.query_encoder
Section 3.2, diversity loss                                 model.diversity_loss
Section 3.3, answers after a prefix and a question          mmrep.nn.encoders.decoder_lm, favor_loss

Encoders are frozen: their tokens are the input. The authors' mask lets frames attend to later ones (`causal="future"`); the paper, and the
default here, to earlier ones. Ours: one causal block before the query encoder, where theirs has one in each of its layers.
Not here: low-rank adapters of the language model, which is trained whole, and instructions to a visual Q-Former.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from mmrep.errors import check_fields
from mmrep.generation.text import write
from mmrep.losses.masked import token_loss
from mmrep.losses.reduce import masked_mean
from mmrep.modality import BOS, EOS
from mmrep.nn.config import TransformerConfig
from mmrep.nn.encoders.decoder_lm import DecoderLM, DecoderStack, generate
from mmrep.nn.pooling import mean_pool
from mmrep.system import Batch, Extras, Infer, Metrics, Params, System, stateless
from mmrep.systems.fusion.favor import model
from mmrep.systems.fusion.favor.model import Causal, Prefix


@dataclass(frozen=True)
class Config:
    """The batch has "video" [T, D] or [T, n, D], "sound" likewise, "question" and "answer"; with `sounds`, 0 where a clip has no sound.

    query:    the query encoder's transformer, of `queries` vectors a window.   window: frames of a window; 0: the whole clip.
    causal:   of frames within a window: "past", "future" (the authors' code) or "none".   heads: of that block; they divide D + E.
    joined:   False has a query encoder for each modality, over the whole clip (a rival without synchronisation).
    lm:       the language model; its length holds prefix, question and answer.
    drop:     probability that, in training, a clip's video or its sound is left out.   diversity: weight of L_div.
    """

    query: TransformerConfig = TransformerConfig(width=64, depth=2, norm="post")
    lm: DecoderLM = DecoderLM(length=64)
    queries: int = 4
    window: int = 4
    causal: Causal = "past"
    heads: int = 4
    joined: bool = True
    drop: float = 0.0
    diversity: float = 0.01
    dtype: str = "float32"

    def check(self) -> None:
        check_fields(self, {
            "queries": (self.queries >= 1, "it must be at least 1"),
            "window": (self.window >= 0, "it must be 0 or more"),
            "causal": (self.causal in ("past", "future", "none"), "choose past, future or none"),
            "drop": (0 <= self.drop < 1, "it must be in [0, 1)"),
            "diversity": (self.diversity >= 0, "it must be 0 or more"),
        })  # fmt: skip

    def build(self) -> System:
        self.check()
        kind = jnp.dtype(self.dtype)
        prefix = Prefix(
            self.query, self.lm.transformer.width, self.queries, self.window, self.causal, self.heads, self.joined, kind
        )  # fmt: skip
        lm = self.lm.module(kind)

        def init(rng: PRNGKeyArray, batch: Batch) -> tuple[Params, Extras]:
            for_prefix, for_lm = jax.random.split(rng)
            clip = (jnp.asarray(batch[n]) for n in ("video", "sound"))
            (vectors, _, _), made = prefix.init_with_output(for_prefix, *clip, present_of(batch))
            ids = jnp.concatenate([batch["question"], batch["answer"]], axis=1)
            return {"prefix": made["params"], "lm": lm.init(for_lm, ids, vectors)["params"]}, {}

        functions: dict[str, Infer] = {"fused": partial(fused, prefix), "written": partial(written, self, prefix)}
        return System(init, stateless(partial(favor_loss, self, prefix, lm)), functions)


def present_of(batch: Batch) -> Bool[Array, "B 2"]:
    """Which clips have a video and a sound."""
    rows = len(batch["video"])
    heard = jnp.asarray(batch["sounds"]) > 0 if "sounds" in batch else jnp.ones(rows, bool)
    return jnp.stack([jnp.ones(rows, bool), heard], axis=1)


def drop_modalities(rng: PRNGKeyArray, present: Bool[Array, "B 2"], rate: float) -> Bool[Array, "B 2"]:
    """One of the two modalities of a row, drawn evenly, is left out with probability `rate`, where both are there."""
    for_row, for_side = jax.random.split(rng)
    rows = len(present)
    out = jax.random.uniform(for_row, (rows,)) < rate
    side = jax.random.bernoulli(for_side, 0.5, (rows,)).astype(jnp.int32)
    gone = (out & present.all(1))[:, None] & (jnp.arange(2) == side[:, None])
    return present & ~gone


def favor_loss(
    config: Config, prefix: Prefix, lm: DecoderStack, params: Params, batch: Batch, rng: PRNGKeyArray
) -> tuple[Float[Array, ""], Metrics]:
    """Cross-entropy of the answer's tokens alone + diversity * L_div."""
    clip = (jnp.asarray(batch[n]) for n in ("video", "sound"))
    present = present_of(batch)
    present = drop_modalities(rng, present, config.drop) if config.drop else present
    vectors, real, queries = prefix.apply({"params": params["prefix"]}, *clip, present)
    ids, answer = jnp.concatenate([batch["question"], batch["answer"]], axis=1), batch["answer"]
    valid = jnp.concatenate([real, ids > 0], axis=1)
    logits = lm.apply({"params": params["lm"]}, ids, vectors, valid, model.positions(valid))[0]
    target = answer[:, 1:] > 0
    predicted = model.last_rows(logits, answer.shape[1])
    loss = masked_mean(token_loss(predicted, answer[:, 1:], target), target)
    right = ((predicted.argmax(-1) == answer[:, 1:]) | ~target).all(1).mean()
    diversity = model.diversity_loss(queries)
    return loss + config.diversity * diversity, {"answer": loss, "diversity": diversity, "answer_accuracy": right}


def fused(prefix: Prefix, params: Params, extras: Extras, batch: Batch) -> Float[Array, "B W"]:
    """The mean vector of the prefix."""
    clip = (jnp.asarray(batch[n]) for n in ("video", "sound"))
    vectors, real, _ = prefix.apply({"params": params["prefix"]}, *clip, present_of(batch))
    return mean_pool(vectors, real).astype(jnp.float32)


def written(
    config: Config, prefix: Prefix, params: Params, extras: Extras, batch: Batch, beams: int = 0,
    allowed: Int[Array, "S V"] | None = None,
) -> Int[Array, "B L"]:  # fmt: skip
    """The answer to a question about a clip, ids up to EOS, as many as fit behind prefix and question, at most 16.

    beams: of the search; at most 1 is greedy.   allowed: see `mmrep.generation.text.trie`.
    """
    clip = (jnp.asarray(batch[n]) for n in ("video", "sound"))
    vectors, real, _ = prefix.apply({"params": params["prefix"]}, *clip, present_of(batch))
    question = jnp.asarray(batch["question"])
    start = jnp.concatenate([question, jnp.full((len(question), 1), BOS, question.dtype)], axis=1)
    length = min(16, config.lm.length - vectors.shape[1] - start.shape[1])
    kind, ends = jnp.dtype(config.dtype), lambda ids: ids == EOS
    if beams < 2 and allowed is None:  # with a cache
        valid = jnp.concatenate([real, start > 0], axis=1)
        return generate(
            config.lm, params["lm"], start, length, jax.random.key(0), ends=ends, prefix=vectors, valid=valid, dtype=kind
        ).ids  # fmt: skip
    beams = max(beams, 1)
    vectors, real = (jnp.repeat(x, beams, axis=0) for x in (vectors, real))

    def next_logits(ids: Int[Array, "N L"], at: Int[Array, ""]) -> Float[Array, "N V"]:
        valid = jnp.concatenate([real, ids > 0], axis=1)
        logits = config.lm.module(kind).apply({"params": params["lm"]}, ids, vectors, valid, model.positions(valid))[0]
        return jax.lax.dynamic_index_in_dim(logits, vectors.shape[1] + at - 1, axis=1, keepdims=False)

    return write(next_logits, start, length, ends=ends, beams=beams, allowed=allowed).ids
