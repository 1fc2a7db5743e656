"""CLIP: a dual encoder of images and texts, trained to tell the pairs of a batch apart (Radford et al. 2021, arXiv 2103.00020)."""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from mmrep.errors import ConfigError, near
from mmrep.losses.contrastive import cross_entropy, sigmoid_loss, similarity, symmetric_info_nce
from mmrep.modality import FIRST_PIECE
from mmrep.nn.heads import LogitBias
from mmrep.nn.towers import Embedder, ImageTower, TextTower, encoders, init_parts, inputs
from mmrep.system import Batch, Metrics, Params, System, stateless

LOSSES = ("softmax", "sigmoid", "words")


@dataclass(frozen=True)
class Config:
    """loss: softmax: InfoNCE both ways, the scale learnt from 1 / 0.07 and kept below 100 (CLIP).
          sigmoid: every pair of the batch is its own yes/no question, with a learnt bias (SigLIP, Zhai et al. 2023).
          words: no text encoder; the image predicts the bag of words of its caption (the baseline of CLIP's figure 2).
    scale, bias: of the logits at the start; SigLIP starts at 10 and -10.   max_scale: ceiling of the scale, None for none.
    """

    image: ImageTower = ImageTower(pool="cls", pre_norm=True)
    text: TextTower = TextTower(causal=True, pool="eos")
    dim: int = 64
    loss: Literal["softmax", "sigmoid", "words"] = "softmax"
    scale: float = 1 / 0.07
    max_scale: float | None = 100.0
    bias: float = -10.0
    dtype: str = "float32"

    def build(self) -> System:
        if self.loss not in LOSSES:
            raise ConfigError(f"system.loss is {self.loss!r}{near(self.loss, LOSSES)}")
        if self.scale <= 0:
            raise ConfigError(f"system.scale is {self.scale}: the scale of the logits must be positive")
        return _words(self) if self.loss == "words" else _pairs(self)


def _pairs(config: Config) -> System:
    towers = {"image": config.image, "text": config.text}
    model = encoders(towers, config.dim, scale=config.scale, max_scale=config.max_scale, dtype=config.dtype)
    sigmoid, offset = config.loss == "sigmoid", LogitBias(config.bias)

    def init(rng: PRNGKeyArray, batch: Batch) -> tuple[Params, dict]:
        params = model.init(rng, batch)
        return params | (init_parts(rng, {"bias": offset}, batch) if sigmoid else {}), {}

    def loss(params: Params, batch: Batch, rng: PRNGKeyArray) -> tuple[Array, Metrics]:
        x, y, scale = model.embed(params, batch, "image"), model.embed(params, batch, "text"), model.scale(params)
        metrics = {"scale": scale, "cosine": (x * y).sum(-1).mean()}
        if not sigmoid:
            return symmetric_info_nce(x, y, scale).mean(), metrics
        bias = offset.apply({"params": params["bias"]})
        return sigmoid_loss(scale * similarity(x, y) + bias).mean(), metrics | {"bias": bias}

    return System(init, stateless(loss), model.infer())


def _words(config: Config) -> System:
    vocab = config.text.vocab
    model = Embedder(config.image, vocab, normalise=False, dtype=jnp.dtype(config.dtype))

    def predicted(params: Params, batch: Batch) -> Float[Array, "B V"]:
        return jax.nn.log_softmax(model.apply({"params": params["image"]}, *inputs(batch, "image"))[0])

    def loss(params: Params, batch: Batch, rng: PRNGKeyArray) -> tuple[Array, Metrics]:
        log_p, targets = predicted(params, batch), bag_of_words(batch["text"], vocab)
        return cross_entropy(log_p, targets).mean(), {"words": (targets > 0).sum(-1).mean(dtype=jnp.float32)}

    # The dot product of the two is the mean log-probability of the caption's words: it ranks captions and class prompts.
    infer = {
        "image": lambda params, extras, batch: predicted(params, batch),
        "text": lambda params, extras, batch: bag_of_words(batch["text"], vocab),
    }
    return System(lambda rng, batch: (init_parts(rng, {"image": model}, batch), {}), stateless(loss), infer)


def bag_of_words(ids: Int[Array | np.ndarray, "B L"], vocab: int) -> Float[Array, "B V"]:
    """Rows share 1 equally over the caption's distinct pieces, special ids left out; a caption without pieces is all zero."""
    present = jnp.zeros((ids.shape[0], vocab), jnp.float32).at[jnp.arange(ids.shape[0])[:, None], ids].set(1.0)
    present = present.at[:, :FIRST_PIECE].set(0.0)
    return present / jnp.maximum(present.sum(-1, keepdims=True), 1.0)
