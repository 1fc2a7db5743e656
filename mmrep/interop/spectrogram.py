"""Audio Spectrogram Transformers of Hugging Face folders (AST), with their classifier."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, PRNGKeyArray

from mmrep import modality
from mmrep.config import Data, Experiment
from mmrep.errors import ConfigError, DataError
from mmrep.interop import names as n
from mmrep.interop import vit
from mmrep.nn.encoders.spectrogram import SpectrogramEncoder
from mmrep.nn.norms import layer_norm
from mmrep.nn.pooling import layer_features
from mmrep.system import Batch, Extras, Params, System


class Head(nn.Module):
    """A norm, then a linear map."""

    classes: int
    epsilon: float

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return nn.Dense(self.classes, name="out")(layer_norm(jnp.float32, "norm", self.epsilon)(x))


@dataclass(frozen=True)
class Config:
    """An audio encoder as a system over the modality "audio".   classes: of the classifier over the pooled vector; 0 for none."""

    audio: SpectrogramEncoder = SpectrogramEncoder()
    classes: int = 0

    def build(self) -> System:
        """infer: "audio", "audio_tokens", "audio_layers", and "logits" [B, classes] where there is a classifier. It has no loss."""
        module, head = self.audio.module(jnp.float32), Head(self.classes or 1, self.audio.transformer.epsilon)

        def run(params: Params, batch: Batch) -> tuple[Array, dict[str, Array]]:
            return module.apply({"params": params["encoder"]}, batch["audio"], batch["audio_length"])

        def init(rng: PRNGKeyArray, batch: Batch) -> tuple[Params, Extras]:
            keys, shape = jax.random.split(rng), batch["audio"].shape
            params = {"encoder": module.init(keys[0], jnp.zeros(shape), jnp.ones(shape[0], jnp.int32))["params"]}
            if self.classes:
                params["head"] = head.init(keys[1], jnp.zeros((1, self.audio.transformer.width)))["params"]
            return params, {}

        def loss(params: Params, extras: Extras, batch: Batch, rng: PRNGKeyArray) -> Any:
            raise ConfigError("an audio encoder of a file has no loss: use mmrep.finetune")

        def tokens(params: Params, extras: Extras, batch: Batch) -> tuple[Array, Array]:
            found = run(params, batch)[1]["tokens"]
            return found, jnp.ones(found.shape[:2], bool)

        infer: dict[str, Any] = {
            "audio": lambda params, extras, batch: run(params, batch)[0],
            "audio_tokens": tokens,
            "audio_layers": lambda params, extras, batch: layer_features(run(params, batch)[1]),
        }
        if self.classes:
            infer["logits"] = lambda params, extras, batch: head.apply(
                {"params": params["head"]}, run(params, batch)[0]
            )
        return System(init, loss, infer)


def table(encoder: SpectrogramEncoder) -> tuple[n.Row, ...]:
    """timm's names (see `mmrep.interop.vit`) <-> our paths; "cls" are both class tokens with their positions."""
    image = vit.ImageEncoder(encoder.transformer, 1, "mean")
    rows = vit.table(image, vit.HALF, vit.HALF)
    blocks = [
        row for row in rows if row.ours and all(path.startswith("encoder/transformer/") for path in vit.paths(row))
    ]
    return (
        *blocks, n.unused("blocks.{i}.attn.key.bias"),
        n.Row("patch_embed.proj.weight", "encoder/embed/kernel", n.CONV), n.Row("patch_embed.proj.bias", "encoder/embed/bias"),
        n.Row("cls", "encoder/cls"), n.Row("pos_embed", "encoder/positions/embedding"),
        *n.norm("head_norm", "head/norm"), *n.dense("head", "head/out"),
    )  # fmt: skip


def read(arrays: n.Arrays, about: Mapping[str, Any]) -> tuple[Experiment, dict[str, Any]] | None:
    """An AST as an experiment with its parameters; None for other models.

    Raises DataError for an activation that is not supported, and for arrays that do not fit config.json.
    """
    if about.get("model_type") != "audio-spectrogram-transformer":
        return None
    act = about.get("hidden_act", "gelu")
    if act not in vit.ACTIVATIONS:
        raise DataError(f"config.json has hidden_act {act!r}: only {', '.join(vit.ACTIVATIONS)} are supported")
    bare = vit.renamed(arrays, vit.HUGGING_FACE)
    rows = bare.pop("pos_embed")
    bare |= {
        "cls": np.concatenate([bare.pop("cls_token"), bare.pop("dist_token")], 1) + rows[:, :2],
        "pos_embed": rows[0, 2:],
    }
    pixels = about.get("preprocessor") or {}
    encoder = SpectrogramEncoder(
        vit.config(bare, about["num_attention_heads"], about.get("layer_norm_eps", 1e-12), vit.ACTIVATIONS[act]),
        about.get("num_mel_bins", 128), about.get("max_length", 1024), about.get("patch_size", 16),
        (about.get("frequency_stride", 10), about.get("time_stride", 10)), pixels.get("mean", -4.2677393), pixels.get("std", 4.5689974),
    )  # fmt: skip
    config = Config(encoder, len(bare["head.weight"]) if "head.weight" in bare else 0)
    part = modality.audio("audio", encoder.samples)
    shapes = jax.eval_shape(config.build().init, jax.random.key(0), modality.example((part,), 1))[0]
    return Experiment(config, Data(None, (part,))), n.to_params(table(encoder), bare, shapes)
