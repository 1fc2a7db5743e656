"""An image encoder of a file as a system: what the readers of vision models share."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, PRNGKeyArray

from mmrep import modality
from mmrep.config import Data, Experiment
from mmrep.errors import ConfigError
from mmrep.interop import names as n
from mmrep.losses.contrastive import cross_entropy
from mmrep.nn.encoders.efficientnet import EfficientNetLite
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.nn.pooling import layer_features
from mmrep.system import Batch, Extras, Params, System


@dataclass(frozen=True)
class Config:
    """An image encoder as a system over the modality "image", with the classifier of its file where that has one.

    classes: of the classifier over the pooled vector; 0 for none.
    """

    image: ImageEncoder | EfficientNetLite = ImageEncoder()
    classes: int = 0

    def build(self) -> System:
        """infer: "image", "image_tokens", "image_layers", and "logits" [B, classes] where there is a classifier.

        Its loss is the classifier's cross-entropy with the modality "label".
        """
        encoder, head = self.image.module(jnp.float32), nn.Dense(self.classes or 1)

        def run(params: Params, batch: Batch) -> tuple[Array, dict[str, Array]]:
            return encoder.apply({"params": params["encoder"]}, batch["image"])

        def init(rng: PRNGKeyArray, batch: Batch) -> tuple[Params, Extras]:
            keys = jax.random.split(rng)
            params = {"encoder": encoder.init(keys[0], jnp.zeros(batch["image"].shape))["params"]}
            if self.classes:
                width = jax.eval_shape(run, params, batch)[0].shape[-1]
                params["head"] = head.init(keys[1], jnp.zeros((1, width)))["params"]
            return params, {}

        def logits(params: Params, extras: Extras, batch: Batch) -> Array:
            return head.apply({"params": params["head"]}, run(params, batch)[0])

        def loss(params: Params, extras: Extras, batch: Batch, rng: PRNGKeyArray) -> Any:
            if not self.classes or "label" not in batch:
                raise ConfigError(
                    "an image encoder of a file has no loss without its classifier and a modality 'label': use mmrep.finetune"
                )
            targets = jax.nn.one_hot(batch["label"], self.classes)
            return cross_entropy(logits(params, extras, batch), targets).mean(), (extras, {})

        def tokens(params: Params, extras: Extras, batch: Batch) -> tuple[Array, Array]:
            found = run(params, batch)[1]["tokens"]
            return found, jnp.ones(found.shape[:2], bool)

        infer: dict[str, Any] = {
            "image": lambda params, extras, batch: run(params, batch)[0],
            "image_tokens": tokens,
            "image_layers": lambda params, extras, batch: layer_features(run(params, batch)[1]),
        }
        return System(init, loss, infer | ({"logits": logits} if self.classes else {}))


def experiment(
    config: Config, picture: modality.Modality, rows: Sequence[n.Row], arrays: n.Arrays
) -> tuple[Experiment, dict[str, Any]]:
    """The experiment of a config and its parameters from a file's arrays."""
    shapes = jax.eval_shape(config.build().init, jax.random.key(0), modality.example((picture,), 1))[0]
    return Experiment(config, Data(None, (picture,))), n.to_params(rows, arrays, shapes)
