"""Text encoders of Hugging Face folders in BERT's form (BERT, RoBERTa, XLM-R), and sentence encoders made of them (MiniLM)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray

from mmrep import modality
from mmrep.config import Data, Experiment, Tokenizer
from mmrep.errors import ConfigError, DataError
from mmrep.interop import names as n
from mmrep.nn.config import TransformerConfig
from mmrep.nn.encoders.relative_text import RelativeTextEncoder
from mmrep.nn.encoders.text import TextEncoder
from mmrep.nn.heads import l2_normalise
from mmrep.nn.pooling import layer_features
from mmrep.system import Batch, Extras, Params, System

ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "relu": "relu"}
POOLS = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls", "mean": "mean", "cls": "cls"}


@dataclass(frozen=True)
class Config:
    """A text encoder as a system over the modality "text": ids of the file's own vocabulary, padded behind each row with `pad`.

    normalise: embeddings have unit length.   Our encoder's padding is id 0: `pad` and 0 change places in its table and in the ids.
    """

    text: TextEncoder | RelativeTextEncoder = TextEncoder()
    pad: int = 0
    normalise: bool = False

    def build(self) -> System:
        """infer: "text", "text_tokens", "text_layers". It has no loss of its own: it is a part of other systems."""
        module = self.text.module(jnp.float32)

        def run(params: Params, batch: Batch) -> tuple[Array, dict[str, Array]]:
            return module.apply({"params": params}, swapped(jnp.asarray(batch["text"]), self.pad))

        def init(rng: PRNGKeyArray, batch: Batch) -> tuple[Params, Extras]:
            return module.init(rng, jnp.ones(batch["text"].shape, jnp.int32))["params"], {}

        def loss(params: Params, extras: Extras, batch: Batch, rng: PRNGKeyArray) -> Any:
            raise ConfigError("a text encoder of a file has no loss: name the file in Pretrained(file=...) of a system")

        def embed(params: Params, extras: Extras, batch: Batch) -> Array:
            pooled = run(params, batch)[0]
            return l2_normalise(pooled) if self.normalise else pooled

        def tokens(params: Params, extras: Extras, batch: Batch) -> tuple[Array, Array]:
            out = run(params, batch)[1]
            return out["tokens"], out["valid"]

        def layers(params: Params, extras: Extras, batch: Batch) -> dict[str, Array]:
            return layer_features(run(params, batch)[1])

        return System(init, loss, {"text": embed, "text_tokens": tokens, "text_layers": layers})


def swapped(ids: Int[Array, "..."], pad: int) -> Int[Array, "..."]:
    """The ids with 0 and `pad` in each other's place."""
    return jnp.where(ids == pad, 0, jnp.where(ids == 0, pad, ids))


def table(config: Config) -> tuple[n.Row, ...]:
    """Their names <-> our paths; "positions" are theirs and the vector of the first token type together (see `read`)."""
    rows = np.arange(config.text.vocab)
    rows[[0, config.pad]] = rows[[config.pad, 0]]
    theirs, ours = "encoder.layer.{i}", "transformer/block{i:02d}"
    block = (
        *(row for k in ("query", "value") for row in n.dense(f"attention.self.{k}", f"attn/{k}")),
        # A key bias has no effect on a softmax over keys.
        n.Row("attention.self.key.weight", "attn/key/kernel", n.DENSE),
        *n.dense("attention.output.dense", "attn/out"), *n.norm("attention.output.LayerNorm", "norm_attn"),
        *n.dense("intermediate.dense", "mlp/up"), *n.dense("output.dense", "mlp/down"), *n.norm("output.LayerNorm", "norm_mlp"),
    )  # fmt: skip
    return (
        n.Row("embeddings.word_embeddings.weight", "embed/embedding", n.chosen(rows)),
        n.Row("positions", "positions/embedding"),
        *n.norm("embeddings.LayerNorm", "embed_norm"),
        *n.within(theirs, ours, block),
        n.unused(f"{theirs}.attention.self.key.bias"),
    )


def config_of(about: Mapping[str, Any]) -> Config | None:
    """The encoder of a config.json, with the modules of a sentence encoder under about["modules"]; None where it is of another kind.

    Without such modules the embedding is the last layer's first token. Raises DataError for a form that is not supported here.
    """
    kind = about.get("model_type")
    if kind not in ("bert", "roberta", "xlm-roberta"):
        return None
    if about.get("position_embedding_type", "absolute") != "absolute" or about.get("is_decoder"):
        raise DataError(
            "config.json has relative positions or is a decoder: only encoders with absolute positions are supported"
        )
    if (activation := about.get("hidden_act", "gelu")) not in ACTIVATIONS:
        raise DataError(f"config.json has hidden_act {activation!r}: only {', '.join(ACTIVATIONS)} are supported")
    transformer = TransformerConfig(
        width=about["hidden_size"], depth=about["num_hidden_layers"], heads=about["num_attention_heads"],
        mlp_dim=about["intermediate_size"], norm="post", epsilon=about.get("layer_norm_eps", 1e-12),
        activation=ACTIVATIONS[activation],  # type: ignore[arg-type]
    )  # fmt: skip
    pool, normalise = "cls", False
    for module in about.get("modules", ()):
        name = str(module.get("type", "")).rpartition(".")[2]
        if name == "Pooling":
            modes = [k for k, v in module.items() if k.startswith("pooling_mode_") and v is True]
            modes = modes or [module.get("pooling_mode", "")]
            if len(modes) != 1 or modes[0] not in POOLS:
                raise DataError(f"the sentence encoder pools by {modes}: only the mean or the first token is supported")
            pool = POOLS[modes[0]]
        elif name == "Normalize":
            normalise = True
        elif name != "Transformer":
            raise DataError(
                f"the sentence encoder has a module {name!r}: only Transformer, Pooling and Normalize are supported"
            )
    pad = about.get("pad_token_id", 0 if kind == "bert" else 1)
    length = about["max_position_embeddings"] - _offset(kind, pad)
    return Config(TextEncoder(transformer, about["vocab_size"], length, pool=pool), pad, normalise)  # type: ignore[arg-type]


def read(arrays: n.Arrays, about: Mapping[str, Any]) -> tuple[Experiment, dict[str, Any]] | None:
    """A folder of BERT, RoBERTa, XLM-R or a sentence encoder as an experiment with its parameters; None for other models.

    Heads over the encoder (the pooler, masked language modelling) are left out. Raises DataError for a setting that is not supported, and
    for arrays that do not fit config.json.
    """
    config = config_of(about)
    if config is None:
        return None
    bare = {name.removeprefix("bert.").removeprefix("roberta."): array for name, array in arrays.items()}
    kept = {name: array for name, array in bare.items() if name.startswith(("embeddings.", "encoder."))}
    kept.pop("embeddings.position_ids", None)
    rows, types = (kept.pop(f"embeddings.{k}_embeddings.weight", None) for k in ("position", "token_type"))
    if rows is None:
        raise DataError("the file has no array 'embeddings.position_embeddings.weight': is it of another model?")
    rows = np.asarray(rows, np.float32)[_offset(about["model_type"], config.pad) :]
    # All tokens have the first type, so that its vector is a part of every position.
    kept["positions"] = rows if types is None else rows + np.asarray(types, np.float32)[0]
    # Old files name the scale and the shift of a norm gamma and beta.
    kept = {
        k.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias"): v
        for k, v in kept.items()
    }
    shapes = jax.eval_shape(
        config.text.module(jnp.float32).init, jax.random.key(0), jax.ShapeDtypeStruct((1, 1), np.int32)
    )
    params = n.to_params(table(config), kept, shapes["params"])
    text = modality.text("text", len(rows), config.text.vocab)
    return Experiment(config, Data(None, (text,), Tokenizer(config.text.vocab, "published", lower=False))), params


def _offset(kind: str, pad: int) -> int:
    """RoBERTa's first token has position pad + 1."""
    return 0 if kind == "bert" else pad + 1


def write(
    experiment: Experiment, params: Mapping[str, Any], form: str
) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
    """(arrays, {JSON file: its entries}) of an encoder in BERT's form for Hugging Face; None for other systems and formats.

    A mean of tokens and unit length are written as a sentence encoder's modules. An encoder that pads with another id than 0 is a RoBERTa.
    """
    config = experiment.system
    if form != "hf" or not isinstance(config, Config) or not isinstance(config.text, TextEncoder):
        return None
    text, t = config.text, config.text.transformer
    acts = {v: k for k, v in ACTIVATIONS.items()}
    if t.norm != "post" or t.scan or text.causal or t.activation not in acts or text.pool not in ("cls", "mean"):
        raise ConfigError(
            f"the format 'hf' has an encoder with unscanned post-norm blocks and one of {', '.join(acts)}"
        )
    arrays = n.to_arrays(table(config), params)
    # The table pairs our row i with the file's row rows[i], a permutation that is its own inverse.
    words = arrays["embeddings.word_embeddings.weight"].copy()
    words[[0, config.pad]] = words[[config.pad, 0]]
    kind = "roberta" if config.pad else "bert"
    before = np.zeros((_offset(kind, config.pad), t.width), np.float32)
    arrays |= {
        "embeddings.word_embeddings.weight": words,
        "embeddings.position_embeddings.weight": np.concatenate([before, arrays.pop("positions")]),
        "embeddings.token_type_embeddings.weight": np.zeros((1 if config.pad else 2, t.width), np.float32),
    }
    arrays |= {f"encoder.layer.{i}.attention.self.key.bias": np.zeros(t.width, np.float32) for i in range(t.depth)}
    about = {
        "architectures": ["RobertaModel" if config.pad else "BertModel"], "model_type": kind, "hidden_size": t.width, "num_hidden_layers": t.depth,
        "num_attention_heads": t.heads, "intermediate_size": t.hidden, "hidden_act": acts[t.activation], "layer_norm_eps": t.epsilon,
        "vocab_size": text.vocab, "max_position_embeddings": text.length + len(before), "type_vocab_size": 1 if config.pad else 2,
        "pad_token_id": config.pad,
    }  # fmt: skip
    kinds = ["Transformer", "Pooling", *(["Normalize"] if config.normalise else [])]
    modules = [
        {
            "idx": i,
            "name": str(i),
            "path": "" if k == "Transformer" else f"{i}_{k}",
            "type": f"sentence_transformers.models.{k}",
        }
        for i, k in enumerate(kinds)
    ]
    pooling = {
        "word_embedding_dimension": t.width,
        "pooling_mode_cls_token": text.pool == "cls",
        "pooling_mode_mean_tokens": text.pool == "mean",
    }
    return arrays, {"config.json": about, "modules.json": modules, "1_Pooling/config.json": pooling}
