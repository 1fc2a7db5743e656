"""4M: massively multimodal masked modeling (Mizrahi et al., NeurIPS 2023, arXiv 2312.06647; 4M-21: Bachmann et al., NeurIPS 2024, arXiv 2406.09406).

One encoder-decoder over the tokens of all modalities. A few tokens of any modality are inputs, a few others are targets, both drawn anew
for every example; the targets are decoded in parallel (images) or autoregressively (sequences), with one cross-entropy per modality.

paper                                       here
modalities, their tokenizers                tokens.TokenModality, token_modality, BinQuantizer; learnt
input and target budgets, Dirichlet alphas  masking.DirichletMixture, token_budgets
span masking of sequences                   masking.span_mask, mask_spans, target_window
encoder, decoder, decoder attention mask    model.fourm_model, masking.expand_decoder_attention_mask
loss per modality, per token                heads.per_modality_cross_entropy, token_weights; fourm_loss below
MaskGIT, ROAR, autoregressive, guidance     decode.generate, schedules.Target, Guidance, chained_schedule
the authors' weights                        weights.from_authors, to_authors
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from mmrep.errors import ConfigError, near
from mmrep.nn.config import TransformerConfig
from mmrep.system import Batch, Extras, Metrics, Params, System
from mmrep.systems.masked.fourm import learnt
from mmrep.systems.masked.fourm.decode import TokenInfer, image_logits
from mmrep.systems.masked.fourm.heads import BLOCK_ROWS, per_modality_cross_entropy, token_weights
from mmrep.systems.masked.fourm.masking import DirichletMixture, MaskedTokens, check_mixtures, mask_tokens
from mmrep.systems.masked.fourm.model import BASE, DecodeState, FourM, fourm_model
from mmrep.systems.masked.fourm.tokens import (
    TokenModality,
    Tokens,
    all_tokens,
    check_modalities,
    detokenize,
    input_values,
    tokenize,
)  # fmt: skip

LossType = Literal["mod", "token", "token_vocab"]


@dataclass(frozen=True)
class Config:
    """modalities: each is a batch entry of the same name, see `TokenModality`.

    mixtures: components of the distribution of input and target budgets.
    num_input_tokens, num_target_tokens: tokens per example, padded.
    loss_type: mean per modality ("mod"), over tokens, or over tokens by vocabulary size ("token_vocab", the authors' token loss).
    per_modality_logits: logits of each target over its own modality alone; False computes all (slow; the reference for tests).
    decoder_sep_mask, decoder_causal_mask, position_base, embedding_std, decoder_embedding_std: see `fourm_model`.
    tokenizers: (modality, config of a trained tokenizer system): its ids are the modality's. Their parameters are in the extras under
        "tokenizers/<modality>/params" and ".../extras", and are not trained here.

    The batch may hold `present` [B, modalities], 1 where an example has the modality; absent ones are neither inputs nor targets.
    """

    modalities: tuple[TokenModality, ...] = ()
    mixtures: tuple[DirichletMixture, ...] = ()
    num_input_tokens: int = 128
    num_target_tokens: int = 128
    encoder: TransformerConfig = BASE
    decoder: TransformerConfig = BASE
    loss_type: LossType = "mod"
    per_modality_logits: bool = True
    decoder_sep_mask: bool = True
    decoder_causal_mask: bool = True
    dtype: str = "float32"
    position_base: float = 10_000.0
    embedding_std: float = 0.02
    decoder_embedding_std: float = 0.02
    tokenizers: tuple[tuple[str, Any], ...] = ()

    def check(self) -> None:
        """Raises ConfigError naming the field."""
        check_modalities(self.modalities)
        check_mixtures(self.modalities, self.mixtures, self.num_input_tokens, self.num_target_tokens)
        learnt.check_tokenizers(self.modalities, self.tokenizers)
        if self.loss_type not in get_args(LossType):
            raise ConfigError(f"system.loss_type is {self.loss_type!r}{near(self.loss_type, get_args(LossType))}")

    def model(self) -> FourM:
        return fourm_model(
            self.modalities, self.encoder, self.decoder, sep_mask=self.decoder_sep_mask,
            causal_mask=self.decoder_causal_mask, dtype=self.dtype, position_base=self.position_base,
            embedding_std=self.embedding_std, decoder_embedding_std=self.decoder_embedding_std,
        )  # fmt: skip

    def build(self) -> System:
        self.check()
        model, tokenizers = self.model(), learnt.systems(self.tokenizers)

        def init(rng: PRNGKeyArray, batch: Batch) -> tuple[Params, Extras]:
            return model.init(rng), learnt.init(rng, batch, tokenizers)

        def ids_of(extras: Extras, batch: Batch) -> dict[str, Int[Array, "B N"]]:
            return tokenize(self.modalities, learnt.with_ids(self.modalities, tokenizers, extras, batch))

        def loss(
            params: Params, extras: Extras, batch: Batch, rng: PRNGKeyArray
        ) -> tuple[Array, tuple[Extras, Metrics]]:
            present = batch["present"][:, : len(self.modalities)] > 0.5 if "present" in batch else None
            sizes = self.num_input_tokens, self.num_target_tokens
            masked = mask_tokens(rng, ids_of(extras, batch), self.modalities, self.mixtures, *sizes, present)
            value, metrics = fourm_loss(self, model, params, masked, input_values(self.modalities, batch))
            return value, (extras, metrics)

        def encoded(params: Params, extras: Extras, batch: Batch) -> tuple[Float[Array, "B N D"], Tokens]:
            inputs = all_tokens(ids_of(extras, batch), self.modalities)
            return model.encode(params, inputs, input_values(self.modalities, batch))[0], inputs

        def tokens(params: Params, extras: Extras, batch: Batch) -> tuple[Float[Array, "B N D"], Bool[Array, "B N"]]:
            """The encoder's tokens of the modalities in the batch, one after another; of pixels alone, those of a plain ViT."""
            x, inputs = encoded(params, extras, batch)
            return x, inputs.valid

        def fused(params: Params, extras: Extras, batch: Batch) -> Float[Array, "B D"]:
            """The mean of the encoder's tokens, padding excluded."""
            x, inputs = encoded(params, extras, batch)
            valid = inputs.valid[..., None]
            return jnp.where(valid, x, 0).sum(1) / jnp.maximum(valid.sum(1), 1)

        def predict(params: Params, extras: Extras, batch: Batch) -> dict[str, Int[Array, "B R C"]]:
            """The most likely ids of each image modality from all others in the batch, all tokens at once."""
            ids, values = ids_of(extras, batch), input_values(self.modalities, batch)
            infer, found = token_infer(self, params, extras), {}
            for i, m in enumerate(self.modalities):
                others = {k: v for k, v in ids.items() if k != m.name}
                if not m.is_sequence and not m.input_only and others:
                    logits = image_logits(infer, all_tokens(others, self.modalities), values, i)
                    found[m.name] = logits.argmax(-1).astype(jnp.int32).reshape(-1, *m.grid)
            return found

        infer = {"fused_tokens": tokens, "fused": fused, "predict": predict}
        return System(init, loss, infer, tokens=lambda params, extras: token_infer(self, params, extras))


def fourm_loss(
    config: Config, model: FourM, params: Params, masked: MaskedTokens, values: Mapping[str, Array] | None = None
) -> tuple[Float[Array, ""], Metrics]:
    """(weighted cross-entropy of the targets, metrics: each modality's mean, 0 where it has no target in the batch)."""
    context, _ = model.encode(params, masked.inputs, values)
    y = model.decode(params, context, masked.inputs, masked.queries, masked.decoder_attention_mask)
    kinds = len(config.modalities)
    modality = jnp.where(masked.queries.valid, masked.queries.modality, kinds).reshape(-1)
    weights, count = token_weights(modality, [m.num_embeddings for m in config.modalities], config.loss_type)
    total, losses = per_modality_cross_entropy(
        y.reshape(-1, y.shape[-1]), model.embeddings(params), masked.target_ids.reshape(-1), modality, weights,
        BLOCK_ROWS if config.per_modality_logits else None,
    )  # fmt: skip
    own = modality[:, None] == jnp.arange(kinds)
    by_modality = jnp.where(own, losses[:, None], 0).sum(0) / jnp.maximum(count, 1)
    metrics = {m.name: by_modality[i] for i, m in enumerate(config.modalities)}
    metrics |= {
        "inputs": masked.inputs.valid.mean(dtype=jnp.float32),
        "targets": (modality < kinds).mean(dtype=jnp.float32),
    }
    return total, metrics


def token_infer(config: Config, params: Params, extras: Extras | None = None) -> TokenInfer:
    """The model for generation; `extras` hold the learnt tokenizers. Its compiled steps are cached with this object: make it once."""
    model, tokenizers, extras = config.model(), learnt.systems(config.tokenizers), extras or {}

    def logits(
        params: Params, context: Array, inputs: Tokens, queries: Tokens, attention_mask: Array | None, i: int
    ) -> Array:
        return model.to_logits(params, model.decode(params, context, inputs, queries, attention_mask), i)

    def decode_step(params: Params, state: DecodeState, query: Tokens, i: int) -> tuple[Array, DecodeState]:
        y, state = model.decode_step(params, state, query)
        return model.to_logits(params, y[:, 0], i), state

    return TokenInfer(
        config.modalities, params,
        encode=lambda params, tokens, values: model.encode(params, tokens, values)[0],
        logits=logits, init_cache=model.init_cache, decode_step=decode_step,
        tokenize=lambda batch: (
            tokenize(config.modalities, learnt.with_ids(config.modalities, tokenizers, extras, batch)),
            input_values(config.modalities, batch),
        ),
        detokenize=lambda ids: detokenize(config.modalities, ids) | learnt.decoded(config.modalities, tokenizers, extras, ids),
    )  # fmt: skip
