"""UnIVAL: one text-to-text model of images, videos, sounds and language (Shukor et al. 2023, arXiv 2307.16184).

Section 3.1, light encoders, projection, position, type and norm      model.Joint
Section 3.1, encoder-decoder language model                           model.Joint, mmrep.nn.encoders.decoder_lm
Section 3.2, tasks as prompts and answers, location bins              data.Tasks, data.bins
Section 3.2, matching with hard negative captions                     data.negative, match=True
Section 3.3, cross-entropy, each modality with equal weight           answer_loss
Section 3.3, task balancing                                           mmrep.data.mixture.Balanced
Section 3.3, curriculum over modalities                               the config's phases
Section 5, merging of weights                                         mmrep.interop.merge.mix
Answers by beam search, freely or among given ones                    infer.written

Convolutional encoders have GroupNorm, whose state is parameters alone: averages need no new statistics. Relative positions, the norms of
NormFormer, codes of images, and a random subset of patches in training are left out.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from mmrep.errors import ConfigError, check_fields
from mmrep.generation.text import write
from mmrep.losses.masked import token_loss
from mmrep.losses.reduce import masked_mean
from mmrep.modality import BOS, EOS
from mmrep.nn.config import TransformerConfig
from mmrep.nn.dual import Encoder
from mmrep.nn.encoders.conv import ConvEncoder
from mmrep.nn.encoders.decoder_lm import DecoderLM, DecoderStack
from mmrep.nn.pooling import mean_pool
from mmrep.system import Batch, Extras, Metrics, Params, System, stateless
from mmrep.systems.fusion.unival.data import MODALITIES
from mmrep.systems.fusion.unival.model import Joint


@dataclass(frozen=True)
class Config:
    """The batch: prompt, answer, match_prompt, match_answer (texts), shown (the number of the modality that goes in), and the modalities.

    image, video, sound: encoders, whose tokens go in beside the prompt; None: there is none.   modalities: those that are used, "" for all.
    decoder:   over answers, and its table for prompts, too.   prompt: places of a prompt, at most.
    match:     each record is also asked whether a text describes it.   smoothing: of answers, in [0, 1).   beams: of the search for answers.
    """

    image: Encoder | None = ConvEncoder()
    video: Encoder | None = None
    sound: Encoder | None = None
    encoder: TransformerConfig = TransformerConfig(depth=2)
    decoder: DecoderLM = DecoderLM(length=32, cross=True)
    prompt: int = 32
    modalities: tuple[str, ...] = ()
    match: bool = True
    smoothing: float = 0.0
    beams: int = 1
    dtype: str = "float32"

    @property
    def encoders(self) -> dict[str, Encoder]:
        given = {"image": self.image, "video": self.video, "sound": self.sound}
        return {name: encoder for name, encoder in given.items() if encoder is not None}

    @property
    def used(self) -> tuple[str, ...]:
        return self.modalities or tuple(self.encoders)

    def check(self) -> None:
        check_fields(self, {
            "modalities": (bool(self.used) and {*self.used} <= {*self.encoders}, "choose from those with an encoder"),
            "prompt": (self.prompt >= 2, "it must be at least 2"),
            "smoothing": (0 <= self.smoothing < 1, "it must be in [0, 1)"),
            "beams": (self.beams >= 1, "it must be at least 1"),
        })  # fmt: skip
        if not self.decoder.cross or self.decoder.transformer.width != self.encoder.width:
            raise ConfigError(
                "system.decoder needs cross=True and the width of system.encoder, whose table is the same"
            )

    def build(self) -> System:
        self.check()
        kind = jnp.dtype(self.dtype)
        net = Joint(self.encoder, tuple(self.encoders.items()), self.prompt, kind)
        lm = self.decoder.module(kind)
        functions = {"fused": partial(fused, self, net), "written": partial(written, self, net, lm)}
        return System(partial(init, self, net, lm), stateless(partial(unival_loss, self, net, lm)), functions)


def init(config: Config, net: Joint, lm: DecoderStack, rng: PRNGKeyArray, batch: Batch) -> tuple[Params, Extras]:
    """Parameters {"net", "decoder"}; the table of words is in the decoder's, once."""
    for_net, for_lm = jax.random.split(rng)
    words = jnp.zeros((len(batch["prompt"]), batch["prompt"].shape[1], config.encoder.width))
    valid = jnp.asarray(batch["prompt"]) > 0
    (context, _), made = net.init_with_output(for_net, batch, words, valid, tuple(config.encoders))
    return {"net": made["params"], "decoder": lm.init(for_lm, batch["answer"], context=context)["params"]}, {}


def encode(
    config: Config, net: Joint, params: Params, batch: Batch, prompts: tuple[str, ...] = ("prompt",)
) -> tuple[Float[Array, "N M D"], Bool[Array, "N M"]]:
    """(states, which are real) of modality and prompt, for each of the texts `prompts` of the batch, one behind the other."""
    table, used = params["decoder"]["embed"]["embedding"], config.used
    if "shown" not in batch:  # by the only modality that is given
        used = tuple(name for name in used if name in batch)[:1]
        if not used:
            raise ConfigError(f"the batch has none of the modalities {', '.join(config.used)}: give one")
        batch = {**batch, "shown": jnp.full(len(batch[prompts[0]]), MODALITIES.index(used[0]), jnp.int32)}
    ids = jnp.concatenate([jnp.asarray(batch[name]) for name in prompts])
    return net.apply({"params": params["net"]}, batch, table[ids], ids > 0, used)


def answer_loss(
    logits: Float[Array, "B L V"], labels: Int[Array, "B L"], valid: Bool[Array, "B L"], shown: Int[Array, " B"],
    modalities: tuple[int, ...], smoothing: float = 0.0,
) -> Float[Array, ""]:  # fmt: skip
    """The mean over the modalities that occur of the mean cross-entropy of the answers' tokens, smoothed over the other V - 1 ids."""
    share = smoothing * logits.shape[-1] / (logits.shape[-1] - 1)
    values = token_loss(logits, labels, valid, share)
    of = jnp.stack([valid & (shown == m)[:, None] for m in modalities])
    return masked_mean(jax.vmap(lambda where: masked_mean(values, where))(of), of.any((1, 2)))


def unival_loss(
    config: Config, net: Joint, lm: DecoderStack, params: Params, batch: Batch, rng: PRNGKeyArray
) -> tuple[Float[Array, ""], Metrics]:
    """Both examples of a record, its task and its match, in one pass."""
    kinds = ("", "match_")[: 1 + config.match]
    context, seen = encode(config, net, params, batch, tuple(f"{k}prompt" for k in kinds))
    length = max(batch[f"{k}answer"].shape[1] for k in kinds)
    answers = [jnp.asarray(batch[f"{k}answer"]) for k in kinds]
    ids = jnp.concatenate([jnp.pad(x, ((0, 0), (0, length - x.shape[1]))) for x in answers])
    logits = lm.apply({"params": params["decoder"]}, ids, context=context, context_valid=seen)[0][:, :-1]
    labels, shown = ids[:, 1:], jnp.tile(jnp.asarray(batch["shown"]), len(kinds))
    used = tuple(MODALITIES.index(name) for name in config.used)
    loss = answer_loss(logits, labels, labels > 0, shown, used, config.smoothing)
    right = ((logits.argmax(-1) == labels) | (labels == 0)).all(1).reshape(len(kinds), -1).mean(1)
    return loss, {f"{k}accuracy": value for k, value in zip(kinds, right)}


def fused(config: Config, net: Joint, params: Params, extras: Extras, batch: Batch) -> Float[Array, "B D"]:
    """The mean state of modality and prompt."""
    return mean_pool(*encode(config, net, params, batch)).astype(jnp.float32)


def written(
    config: Config, net: Joint, lm: DecoderStack, params: Params, extras: Extras, batch: Batch, beams: int = 0,
    allowed: Int[Array, "S V"] | None = None,
) -> Int[Array, "B L"]:  # fmt: skip
    """The answer to the prompt, ids up to EOS. beams: 0 takes those of the config.   allowed: see `mmrep.generation.text.trie`."""
    beams = beams or config.beams
    context, seen = (jnp.repeat(x, beams, axis=0) for x in encode(config, net, params, batch))

    def next_logits(ids: Int[Array, "N L"], at: Int[Array, ""]) -> Float[Array, "N V"]:
        logits = lm.apply({"params": params["decoder"]}, ids, context=context, context_valid=seen)[0]
        return jax.lax.dynamic_index_in_dim(logits, at - 1, axis=1, keepdims=False)

    start = jnp.full((len(batch["prompt"]), 1), BOS, jnp.int32)
    length = config.decoder.length - 1
    return write(next_logits, start, length, ends=lambda ids: ids == EOS, beams=beams, allowed=allowed).ids
