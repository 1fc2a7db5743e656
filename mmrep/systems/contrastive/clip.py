"""CLIP: a dual encoder of images and texts, trained to tell the pairs of a batch apart (Radford et al. 2021, arXiv 2103.00020)."""

from dataclasses import dataclass, field
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from mmrep.errors import ConfigError, near
from mmrep.losses.contrastive import cross_entropy, sigmoid_pairs, symmetric_info_nce
from mmrep.losses.large_batch import LargeBatch, in_micro_batches
from mmrep.modality import FIRST_PIECE
from mmrep.nn.dual import Embedder, dual_encoder, init_parts, inputs
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.nn.encoders.text import TextEncoder
from mmrep.nn.heads import LogitBias
from mmrep.system import Batch, Extras, Metrics, Params, System, stateless

LOSSES = ("softmax", "sigmoid", "words")


@dataclass(frozen=True)
class Config:
    """loss: softmax: InfoNCE both ways, the scale learnt from 1 / 0.07 and kept below 100 (CLIP).
          sigmoid: every pair of the batch is its own yes/no question, with a learnt bias (SigLIP, Zhai et al. 2023).
          words: no text encoder; the image predicts the bag of words of its caption (the baseline of CLIP's figure 2).
    scale, bias: of the logits at the start; SigLIP starts at 10 and -10.   max_scale: ceiling of the scale, None for none.
    large_batch: how much of the batch is compared and encoded at once; not for words, which compare nothing.
    """

    image: ImageEncoder = ImageEncoder(pool="cls", pre_norm=True)
    text: TextEncoder = TextEncoder(causal=True, pool="eos")
    dim: int = 64
    loss: Literal["softmax", "sigmoid", "words"] = "softmax"
    scale: float = 1 / 0.07
    max_scale: float | None = 100.0
    bias: float = -10.0
    dtype: str = "float32"
    large_batch: LargeBatch = field(default=LargeBatch(), metadata={"since": 2})

    def build(self) -> System:
        if self.loss not in LOSSES:
            raise ConfigError(f"system.loss is {self.loss!r}{near(self.loss, LOSSES)}")
        if self.scale <= 0:
            raise ConfigError(f"system.scale is {self.scale}: the scale of the logits must be positive")
        self.large_batch.check()
        if self.loss == "words" and self.large_batch != LargeBatch():
            raise ConfigError('system.large_batch is set, but system.loss "words" compares no pairs: leave it out')
        return _words(self) if self.loss == "words" else _pairs(self)


def _pairs(config: Config) -> System:
    encoders = {"image": config.image, "text": config.text}
    model = dual_encoder(encoders, config.dim, scale=config.scale, max_scale=config.max_scale, dtype=config.dtype)
    sigmoid, offset = config.loss == "sigmoid", LogitBias(config.bias)
    blocks, parts = config.large_batch.blocks(), config.large_batch.micro_batches

    def init(rng: PRNGKeyArray, batch: Batch) -> tuple[Params, dict]:
        params = model.init(rng, batch)
        return params | (init_parts(rng, {"bias": offset}, batch) if sigmoid else {}), {}

    def loss(params: Params, batch: Batch, rng: PRNGKeyArray) -> tuple[Array, Metrics]:
        x, y = in_micro_batches(lambda of: tuple(model.embed(params, of, n) for n in encoders), batch, parts)
        scale = model.scale(params)
        metrics = {"scale": scale, "cosine": (x * y).sum(-1).mean()}
        if not sigmoid:
            return symmetric_info_nce(x, y, scale, blocks=blocks).mean(), metrics
        bias = offset.apply({"params": params["bias"]})
        return sigmoid_pairs(x, y, scale, bias, blocks=blocks).mean(), metrics | {"bias": bias}

    return System(init, stateless(loss), model.infer())


def _words(config: Config) -> System:
    vocab = config.text.vocab
    model = Embedder(config.image, vocab, normalise=False, dtype=jnp.dtype(config.dtype))

    def predicted(params: Params, batch: Batch) -> Float[Array, "B V"]:
        return jax.nn.log_softmax(model.apply({"params": params["image"]}, *inputs(batch, "image"))[0])

    def init(rng: PRNGKeyArray, batch: Batch) -> tuple[Params, Extras]:
        return init_parts(rng, {"image": model}, batch), {"counts": jnp.ones(vocab, jnp.float32)}

    def loss(params: Params, extras: Extras, batch: Batch, rng: PRNGKeyArray) -> tuple[Array, tuple[Extras, Metrics]]:
        log_p, targets = predicted(params, batch), bag_of_words(batch["text"], vocab)
        counted = {"counts": extras["counts"] + targets.sum(0)}
        return cross_entropy(log_p, targets).mean(), (
            counted,
            {"words": (targets > 0).sum(-1).mean(dtype=jnp.float32)},
        )

    def informed(params: Params, extras: Extras, batch: Batch) -> Float[Array, "B V"]:
        """log p(word | image) - log p(word), the frequencies as counted in training."""
        return predicted(params, batch) - jnp.log(extras["counts"] / extras["counts"].sum())

    # Their dot product is the summed pointwise information of the caption's words: without the frequencies, captions of common
    # words would stand first for every image. For one caption the order of the images is that of its log-probability.
    infer = {
        "image": informed,
        "text": lambda params, extras, batch: (bag_of_words(batch["text"], vocab) > 0).astype(jnp.float32),
    }
    return System(init, loss, infer)


def bag_of_words(ids: Int[Array | np.ndarray, "B L"], vocab: int) -> Float[Array, "B V"]:
    """Rows share 1 equally over the caption's distinct pieces, special ids left out; a caption without pieces is all zero."""
    present = jnp.zeros((ids.shape[0], vocab), jnp.float32).at[jnp.arange(ids.shape[0])[:, None], ids].set(1.0)
    present = present.at[:, :FIRST_PIECE].set(0.0)
    return present / jnp.maximum(present.sum(-1, keepdims=True), 1.0)
