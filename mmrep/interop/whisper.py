"""The audio encoder of Whisper, from Hugging Face folders and CTranslate2 files: the decoder in the file is left out."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from mmrep import modality
from mmrep.config import Data, Experiment
from mmrep.errors import ConfigError
from mmrep.interop import names as n
from mmrep.nn.config import TransformerConfig
from mmrep.nn.encoders.whisper import WhisperEncoder
from mmrep.nn.pooling import layer_features
from mmrep.system import Batch, Extras, Params, System

BLOCK = (
    *n.norm("self_attn_layer_norm", "norm_attn"), *n.norm("final_layer_norm", "norm_mlp"),
    *n.dense("self_attn.q_proj", "attn/query"), *n.dense("self_attn.v_proj", "attn/value"),
    n.Row("self_attn.k_proj.weight", "attn/key/kernel", n.DENSE), *n.dense("self_attn.out_proj", "attn/out"),
    *n.dense("fc1", "mlp/up"), *n.dense("fc2", "mlp/down"),
)  # fmt: skip
TABLE = (
    *(row for i in (1, 2) for row in (
        n.Row(f"conv{i}.weight", f"conv{i - 1}/kernel", n.CONV), n.Row(f"conv{i}.bias", f"conv{i - 1}/bias"),
    )),
    n.Row("embed_positions.weight", "positions/embedding"),
    *n.within("layers.{i}", "transformer/block{i:02d}", BLOCK), *n.norm("layer_norm", "transformer/norm"),
)  # fmt: skip


@dataclass(frozen=True)
class Config:
    """Whisper's encoder as a system over the modality "audio"."""

    audio: WhisperEncoder = WhisperEncoder()

    def build(self) -> System:
        """infer: "audio", "audio_tokens", "audio_layers". It has no loss of its own: it is a part of other systems."""
        module = self.audio.module(jnp.float32)

        def run(params: Params, batch: Batch) -> tuple[Array, dict[str, Array]]:
            return module.apply({"params": params}, batch["audio"], batch["audio_length"])

        def init(rng: PRNGKeyArray, batch: Batch) -> tuple[Params, Extras]:
            shape = batch["audio"].shape
            return module.init(rng, jnp.zeros(shape), jnp.ones(shape[0], jnp.int32))["params"], {}

        def loss(params: Params, extras: Extras, batch: Batch, rng: PRNGKeyArray) -> Any:
            raise ConfigError(
                "an audio encoder of a file has no loss: name the file in Pretrained(file=...) of a system"
            )

        def tokens(params: Params, extras: Extras, batch: Batch) -> tuple[Array, Array]:
            out = run(params, batch)[1]
            return out["tokens"], out["valid"]

        def layers(params: Params, extras: Extras, batch: Batch) -> dict[str, Array]:
            return layer_features(run(params, batch)[1])

        def embed(params: Params, extras: Extras, batch: Batch) -> Array:
            return run(params, batch)[0]

        return System(init, loss, {"audio": embed, "audio_tokens": tokens, "audio_layers": layers})


def read(arrays: n.Arrays, about: Mapping[str, Any]) -> tuple[Experiment, dict[str, Any]] | None:
    """The encoder of a Whisper folder as an experiment with its parameters; None for other models.

    Raises DataError for arrays that do not fit config.json.
    """
    if "encoder/conv1/weight" in arrays and "encoder/num_heads" in arrays:
        arrays, about = _of_ctranslate2(arrays)
    if about.get("model_type") != "whisper":
        return None
    transformer = TransformerConfig(
        width=about["d_model"], depth=about["encoder_layers"], heads=about["encoder_attention_heads"],
        mlp_dim=about["encoder_ffn_dim"],
    )  # fmt: skip
    encoder = WhisperEncoder(transformer, about["num_mel_bins"], about["max_source_positions"])
    bare = {name.removeprefix("model."): array for name, array in arrays.items()}
    kept = {k.removeprefix("encoder."): v for k, v in bare.items() if k.startswith("encoder.")}
    wave, length = jax.ShapeDtypeStruct((1, encoder.samples), np.float32), jax.ShapeDtypeStruct((1,), np.int32)
    shapes = jax.eval_shape(encoder.module(jnp.float32).init, jax.random.key(0), wave, length)
    params = n.to_params(TABLE, kept, shapes["params"])
    return Experiment(Config(encoder), Data(None, (modality.audio("audio", encoder.samples),))), params


CTRANSLATE2 = (
    ("encoder/layer_norm", "encoder.layer_norm"), ("encoder/layer_", "encoder.layers."),
    ("/self_attention/layer_norm", ".self_attn_layer_norm"), ("/self_attention/linear_1", ".self_attn.out_proj"),
    ("/ffn/layer_norm", ".final_layer_norm"), ("/ffn/linear_0", ".fc1"), ("/ffn/linear_1", ".fc2"),
    ("encoder/position_encodings/encodings", "encoder.embed_positions.weight"), ("encoder/conv", "encoder.conv"),
    ("/weight", ".weight"), ("/bias", ".bias"), ("/gamma", ".weight"), ("/beta", ".bias"),
)  # fmt: skip
"""CTranslate2's names <-> Hugging Face's, but for the queries, keys and values, which are one array there."""


def _of_ctranslate2(arrays: n.Arrays) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """An encoder's arrays under Hugging Face's names, and the entries of config.json that they imply."""
    found: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        if not name.startswith("encoder/") or not array.ndim:
            continue
        for theirs, other in CTRANSLATE2:
            name = name.replace(theirs, other)
        if "/self_attention/linear_0" not in name:
            found[name] = array
            continue
        start, _, leaf = name.partition("/self_attention/linear_0")
        for part, rows in zip("qkv", np.split(array, 3)):
            if (part, leaf) != ("k", ".bias"):
                found[f"{start}.self_attn.{part}_proj{leaf}"] = rows
    hidden, width = found["encoder.layers.0.fc1.weight"].shape
    about = {
        "model_type": "whisper", "d_model": width, "encoder_layers": n.count(found, "encoder.layers.{i}.fc1.weight"),
        "encoder_attention_heads": int(arrays["encoder/num_heads"]), "encoder_ffn_dim": hidden,
        "num_mel_bins": found["encoder.conv1.weight"].shape[1], "max_source_positions": len(found["encoder.embed_positions.weight"]),
    }  # fmt: skip
    return found, about
