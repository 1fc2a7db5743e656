"""The encoder of Hugging Face folders of T5 and its kin (T5 1.1, FLAN-T5): a decoder in the file is left out."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from mmrep import modality
from mmrep.config import Data, Experiment, Tokenizer
from mmrep.errors import DataError
from mmrep.interop import names as n
from mmrep.interop.bert import Config
from mmrep.nn.config import TransformerConfig
from mmrep.nn.encoders.relative_text import RelativeTextEncoder

ACTIVATIONS = {"relu": "relu", "gated-gelu": "geglu", "gated-silu": "swiglu"}
LENGTH = 512
"""Of a text in tokens, on which T5 was trained; the encoder itself has no limit."""


def table(config: RelativeTextEncoder) -> tuple[n.Row, ...]:
    """Their names <-> our paths. Their logits are not divided by sqrt(head_dim): our query kernels are larger by it."""
    root = np.float32(config.transformer.key_dim**0.5)
    query = n.chain(n.DENSE, n.each(lambda a: a * root, lambda a: a / root))
    attention, mlp, theirs = "layer.0.SelfAttention", "layer.1.DenseReluDense", "encoder.block.{i}"
    gated = config.transformer.activation != "relu"
    wide = (("wi_0", "up"), ("wi_1", "gate")) if gated else (("wi", "up"),)
    block = (
        n.Row(f"{attention}.q.weight", "attn/query/kernel", query),
        *(n.Row(f"{attention}.{k[0]}.weight", f"attn/{k}/kernel", n.DENSE) for k in ("key", "value", "out")),
        *(n.Row(f"{mlp}.{k}.weight", f"mlp/{ours}/kernel", n.DENSE) for k, ours in (*wide, ("wo", "down"))),
        n.Row("layer.0.layer_norm.weight", "norm_attn/scale"), n.Row("layer.1.layer_norm.weight", "norm_mlp/scale"),
    )  # fmt: skip
    return (
        n.Row("shared.weight", "embed/embedding"),
        n.Row("encoder.embed_tokens.weight", "embed/embedding", tied=True),
        n.Row("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", "distances/embedding"),
        *n.within(theirs, "transformer/block{i:02d}", block),
        n.Row("encoder.final_layer_norm.weight", "transformer/norm/scale"),
    )


def config_of(about: Mapping[str, Any]) -> RelativeTextEncoder | None:
    """The encoder of a config.json; None where it is of another kind. Raises DataError for an activation that is not supported here."""
    if about.get("model_type") != "t5":
        return None
    form = about.get("feed_forward_proj", "relu")
    if form not in ACTIVATIONS:
        raise DataError(f"config.json has feed_forward_proj {form!r}: only {', '.join(ACTIVATIONS)} are supported")
    transformer = TransformerConfig(
        width=about["d_model"], depth=about["num_layers"], heads=about["num_heads"], head_dim=about["d_kv"], mlp_dim=about["d_ff"],
        norm_type="rms", epsilon=about.get("layer_norm_epsilon", 1e-6), use_bias=False,
        activation=ACTIVATIONS[form],  # type: ignore[arg-type]
    )  # fmt: skip
    distance = about.get("relative_attention_max_distance", 128)
    return RelativeTextEncoder(transformer, about["vocab_size"], about["relative_attention_num_buckets"], distance)


def read(arrays: n.Arrays, about: Mapping[str, Any]) -> tuple[Experiment, dict[str, Any]] | None:
    """The encoder of a T5 folder as an experiment with its parameters, its embedding the mean of the tokens; None for other models.

    Raises DataError for an activation that is not supported, and for arrays that do not fit config.json.
    """
    encoder = config_of(about)
    if encoder is None:
        return None
    kept = {k: v for k, v in arrays.items() if k.startswith(("shared.", "encoder."))}
    if "shared.weight" not in kept and "encoder.embed_tokens.weight" in kept:
        kept["shared.weight"] = kept["encoder.embed_tokens.weight"]
    shapes = jax.eval_shape(encoder.module(np.float32).init, jax.random.key(0), jax.ShapeDtypeStruct((1, 1), np.int32))
    params = n.to_params(table(encoder), kept, shapes["params"])
    text = modality.text("text", LENGTH, encoder.vocab)
    return Experiment(Config(encoder), Data(None, (text,), Tokenizer(encoder.vocab, "published", lower=False))), params
