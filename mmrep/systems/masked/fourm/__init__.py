"""4M: one encoder-decoder over the tokens of every modality, any to any (Mizrahi et al., NeurIPS 2023, arXiv 2312.06647)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from mmrep.errors import ConfigError
from mmrep.nn.config import TransformerConfig
from mmrep.nn.quantise import check_levels
from mmrep.system import Batch, Extras, Metrics, Params, System, stateless
from mmrep.systems.masked.fourm import masking as spans
from mmrep.systems.masked.fourm.decode import TokenInfer
from mmrep.systems.masked.fourm.heads import BLOCK, table_cross_entropy, target_weights
from mmrep.systems.masked.fourm.masking import Masked, Mixture, Stream, Tokens
from mmrep.systems.masked.fourm.model import BASE, Memory, TokenModel, token_model
from mmrep.systems.masked.fourm.predict import whole_stream
from mmrep.systems.masked.fourm.tokens import Levels, detokenise, patches, tokenise


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
    encoder: TransformerConfig = BASE
    decoder: TransformerConfig = BASE
    weighting: Literal["mod", "token", "token_vocab"] = "mod"
    grouped: bool = True
    separate: bool = True
    causal: bool = True
    dtype: str = "float32"
    position_base: float = field(default=10_000.0, metadata={"since": 2})

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
            self.streams, self.encoder, self.decoder, separate=self.separate, causal=self.causal, dtype=self.dtype,
            position_base=self.position_base,
        )  # fmt: skip

    def build(self) -> System:
        self.check()
        model = self.model()

        def loss(params: Params, batch: Batch, rng: PRNGKeyArray) -> tuple[Array, Metrics]:
            present = batch["present"][:, : len(self.streams)] > 0.5 if "present" in batch else None
            tokens = tokenise(self.streams, self.levels, batch)
            masked = spans.mask(rng, tokens, self.streams, self.mixtures, self.n_input, self.n_target, present)
            return masked_loss(self, model, params, masked, patches(self.streams, batch))

        def encoded(params: Params, extras: Extras, batch: Batch) -> Float[Array, "B N D"]:
            """The encoder's tokens of the streams that the batch holds, one after another; of pixels alone, those of a plain ViT."""
            given = spans.everything(tokenise(self.streams, self.levels, batch), self.streams)
            return model.encode(params, given, patches(self.streams, batch))[0]

        def fused(params: Params, extras: Extras, batch: Batch) -> Float[Array, "B D"]:
            """The mean of the encoder's real tokens."""
            real = spans.everything(tokenise(self.streams, self.levels, batch), self.streams).valid[..., None]
            return jnp.where(real, encoded(params, extras, batch), 0).sum(1) / jnp.maximum(real.sum(1), 1)

        def predict(params: Params, extras: Extras, batch: Batch) -> dict[str, Int[Array, "B R C"]]:
            """Every image stream's likeliest ids from all other streams that the batch holds, all places at once."""
            tokens, found, ask = tokenise(self.streams, self.levels, batch), {}, token_infer(self, params)
            for t, s in enumerate(self.streams):
                others = {k: v for k, v in tokens.items() if k != s.name}
                if not s.length and not s.patch and others:
                    logits = whole_stream(ask, spans.everything(others, self.streams), patches(self.streams, batch), t)
                    found[s.name] = logits.argmax(-1).astype(jnp.int32).reshape(-1, *s.grid)
            return found

        infer = {"tokens": encoded, "fused": fused, "predict": predict}
        tokens = lambda params, extras: token_infer(self, params)  # noqa: E731
        return System(lambda rng, batch: (model.init(rng), {}), stateless(loss), infer, tokens=tokens)


def token_infer(config: Config, params: Params) -> TokenInfer:
    """The trained model as `mmrep.systems.masked.fourm.decode` takes it. Made once, its steps compile once."""
    model = config.model()

    def spoken(params: Params, y: Array, t: int) -> Array:
        return y @ model.tables(params)[t].astype(y.dtype).T

    def logits(params: Params, context: Array, given: Tokens, queries: Tokens, reach: Array | None, t: int) -> Array:
        return spoken(params, model.decode(params, context, given, queries, reach), t)

    def read(params: Params, memory: Memory, query: Tokens, t: int) -> tuple[Array, Memory]:
        y, memory = model.read(params, memory, query)
        return spoken(params, y[:, 0], t), memory

    def tokenised(batch: Batch) -> tuple[dict[str, Array], dict[str, Array]]:
        return tokenise(config.streams, config.levels, batch), patches(config.streams, batch)

    return TokenInfer(
        config.streams, lambda p, tokens, pixels: model.encode(p, tokens, pixels)[0], logits, model.begin, read, params, tokenised,
        lambda ids: detokenise(config.streams, config.levels, ids),
    )  # fmt: skip


def masked_loss(
    config: Config, model: TokenModel, params: Params, masked: Masked, pixels: Mapping[str, Array] | None = None
) -> tuple[Array, Metrics]:
    """The weighted cross-entropy of the targets, and each stream's mean, which is 0 where it has no target in the batch."""
    encoded, _ = model.encode(params, masked.inputs, pixels)
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
