"""4M: one encoder-decoder over the tokens of every modality, any to any (Mizrahi et al., NeurIPS 2023, arXiv 2312.06647)."""

from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from mmrep.errors import ConfigError
from mmrep.masking import spans
from mmrep.masking.spans import Masked, Mixture, Stream, Tokens
from mmrep.nn.quantise import check_levels, patch_ids, patch_majority
from mmrep.nn.tied_heads import BLOCK, table_cross_entropy, target_weights
from mmrep.nn.token_model import TokenModel, token_model
from mmrep.system import Batch, Extras, Metrics, Params, System, stateless


@dataclass(frozen=True)
class Levels:
    """A map of numbers in [0, 1] becomes ids by the mean of each patch, rounded to so many levels a channel."""

    name: str
    levels: tuple[int, ...]


@dataclass(frozen=True)
class Config:
    """streams: the token modalities; each is a batch entry: text ids, a map of ids (finer ones by majority), or numbers with `levels`.

    mixtures: how input and target budgets are drawn, one Dirichlet each.   n_input, n_target: tokens an example, padded.
    weighting: the loss by stream ("mod"), by token, or by token and vocabulary ("token_vocab", the authors' code).
    grouped: each target meets its own stream's table alone; off, all tables (the slow twin).   causal, separate: see token_model.
    The batch may hold `present` [B, streams], 1 where an example has the stream: an absent one neither goes in nor is predicted.
    """

    streams: tuple[Stream, ...] = ()
    mixtures: tuple[Mixture, ...] = ()
    levels: tuple[Levels, ...] = ()
    n_input: int = 128
    n_target: int = 128
    width: int = 768
    encoder_depth: int = 12
    decoder_depth: int = 12
    heads: int = 12
    weighting: Literal["mod", "token", "token_vocab"] = "mod"
    grouped: bool = True
    separate: bool = True
    causal: bool = True
    scan: bool = False
    remat: bool = False
    dtype: str = "float32"

    def check(self) -> None:
        spans.check(self.streams, self.mixtures, self.n_input, self.n_target)
        by_name = {s.name: s for s in self.streams}
        for x in self.levels:
            check_levels(x.levels)
            if x.name not in by_name or by_name[x.name].length:
                raise ConfigError(f"system.levels names {x.name!r}: choose from the image streams {sorted(by_name)}")
            codes = 1
            for n in x.levels:
                codes *= n
            if codes > by_name[x.name].vocab:
                raise ConfigError(f"stream {x.name!r}: levels {x.levels} make {codes} ids, its vocab must hold them")
        if self.weighting not in ("mod", "token", "token_vocab"):
            raise ConfigError(f"system.weighting is {self.weighting!r}: choose 'mod', 'token' or 'token_vocab'")

    def model(self) -> TokenModel:
        return token_model(
            self.streams, self.width, self.encoder_depth, self.decoder_depth, self.heads,
            separate=self.separate, causal=self.causal, scan=self.scan, remat=self.remat, dtype=self.dtype,
        )  # fmt: skip

    def build(self) -> System:
        self.check()
        model = self.model()

        def loss(params: Params, batch: Batch, rng: PRNGKeyArray) -> tuple[Array, Metrics]:
            present = batch["present"][:, : len(self.streams)] > 0.5 if "present" in batch else None
            tokens = tokenise(self, batch)
            masked = spans.mask(rng, tokens, self.streams, self.mixtures, self.n_input, self.n_target, present)
            return masked_loss(self, model, params, masked)

        def fused(params: Params, extras: Extras, batch: Batch) -> Float[Array, "B D"]:
            """The mean of the encoder's tokens, all tokens of the streams that the batch holds going in."""
            given = spans.everything(tokenise(self, batch), self.streams)
            encoded, _ = model.encode(params, given)
            real = given.valid[..., None]
            return jnp.where(real, encoded, 0).sum(1) / jnp.maximum(real.sum(1), 1)

        def predict(params: Params, extras: Extras, batch: Batch) -> dict[str, Int[Array, "B R C"]]:
            """Every image stream's likeliest ids from all other streams that the batch holds, all places at once."""
            tokens = tokenise(self, batch)
            found = {}
            for t, s in enumerate(self.streams):
                others = {k: v for k, v in tokens.items() if k != s.name}
                if s.length or not others:
                    continue
                given = spans.everything(others, self.streams)
                y = whole_stream(model, params, given, self.streams, t)
                logits = y @ model.tables(params)[t].astype(y.dtype).T
                found[s.name] = logits.argmax(-1).astype(jnp.int32).reshape(-1, *s.grid)
            return found

        infer = {"fused": fused, "predict": predict}
        return System(lambda rng, batch: (model.init(rng), {}), stateless(loss), infer)


def tokenise(config: Config, batch: Batch) -> dict[str, Int[Array, "B N"]]:
    """Ids of the streams that the batch holds, images in reading order. Tokens are learnt nowhere here: see `Levels`."""
    levels = {x.name: x.levels for x in config.levels}
    found = {}
    for s in config.streams:
        if s.name in batch:
            x = jnp.asarray(batch[s.name])
            if not s.length:
                x = patch_ids(x, s.grid, levels[s.name]) if s.name in levels else patch_majority(x, s.grid, s.vocab)
                x = x.reshape(len(x), -1)
            found[s.name] = x
    return found


def masked_loss(config: Config, model: TokenModel, params: Params, masked: Masked) -> tuple[Array, Metrics]:
    """The weighted cross-entropy of the targets, and each stream's mean, which is 0 where it has no target in the batch."""
    encoded, _ = model.encode(params, masked.inputs)
    y = model.decode(params, encoded, masked.inputs, masked.queries, masked.reach)
    kinds = len(config.streams)
    stream = jnp.where(masked.queries.valid, masked.queries.stream, kinds).reshape(-1)
    tables = model.tables(params)
    weights, count = target_weights(stream, [s.rows for s in config.streams], config.weighting)
    total, each = table_cross_entropy(
        y.reshape(-1, y.shape[-1]),
        tables,
        masked.labels.reshape(-1),
        stream,
        weights,
        BLOCK if config.grouped else None,
    )
    by_stream = (jnp.where(stream[:, None] == jnp.arange(kinds), each[:, None], 0)).sum(0) / jnp.maximum(count, 1)
    metrics = {s.name: by_stream[t] for t, s in enumerate(config.streams)}
    metrics |= {
        "inputs": masked.inputs.valid.mean(dtype=jnp.float32),
        "targets": (stream < kinds).mean(dtype=jnp.float32),
    }
    return total, metrics


def whole_stream(
    model: TokenModel, params: Params, given: Tokens, streams: tuple[Stream, ...], t: int
) -> Float[Array, "B N D"]:
    """What the decoder says at every place of image stream `t`."""
    encoded, _ = model.encode(params, given)
    place = jnp.broadcast_to(jnp.arange(streams[t].size, dtype=jnp.int32), (len(given.ids), streams[t].size))
    queries = Tokens(jnp.zeros_like(place), jnp.full_like(place, t), place, jnp.ones(place.shape, bool))
    return model.decode(params, encoded, given, queries, None)
