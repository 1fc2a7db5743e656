"""CLIP: a dual encoder of images and texts with a contrastive loss over the batch (Radford et al. 2021, arXiv 2103.00020).

Figure 3, symmetric cross-entropy over scaled cosines          mmrep.losses.contrastive.symmetric_info_nce
Section 2.5, learned temperature, clipped at 0.01              Config.temperature, mmrep.nn.heads.LogScale
Section 3.1.4, prompt ensembles                                mmrep.evals.zero_shot.class_embeddings
Figure 2, baseline that predicts the caption's bag of words    bag_of_words_loss
SigLIP (Zhai et al. 2023, arXiv 2303.15343), equation 1        mmrep.losses.contrastive.sigmoid_pairs
"""

import math
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from mmrep.errors import ConfigError, check_fields
from mmrep.losses.contrastive import cross_entropy, sigmoid_pairs, symmetric_info_nce
from mmrep.losses.large_batch import LargeBatch, in_micro_batches
from mmrep.modality import FIRST_PIECE
from mmrep.nn.dual import Embedder, dual_encoder, init_parts, inputs
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.nn.encoders.text import TextEncoder
from mmrep.nn.heads import LogitBias
from mmrep.system import Batch, Extras, Metrics, Params, System, stateless


@dataclass(frozen=True)
class Config:
    """loss: softmax: InfoNCE both ways.   sigmoid: binary cross-entropy of every pair with a learned bias (SigLIP).
          words: no text encoder; the image predicts the bag of words of its caption (the baseline of CLIP's figure 2).
    temperature, bias: of the logits at the start, learned; SigLIP starts at 0.1 and -10.   min_temperature: its floor, None for none.
    large_batch: see LargeBatch; not for words, which compare no pairs.
    """

    image: ImageEncoder = ImageEncoder(pool="cls", pre_norm=True)
    text: TextEncoder = TextEncoder(causal=True, pool="eos")
    dim: int = 64
    loss: Literal["softmax", "sigmoid", "words"] = "softmax"
    temperature: float = 0.07
    min_temperature: float | None = 0.01
    bias: float = -10.0
    dtype: str = "float32"
    large_batch: LargeBatch = LargeBatch()

    def check(self) -> None:
        floor = self.min_temperature
        check_fields(self, {
            "loss": (self.loss in ("softmax", "sigmoid", "words"), "choose softmax, sigmoid or words"),
            "temperature": (self.temperature > 0, "it must be positive"),
            "min_temperature": (floor is None or floor > 0, "it must be positive, or None"),
        })  # fmt: skip
        self.large_batch.check()
        if self.loss == "words" and self.large_batch != LargeBatch():
            raise ConfigError('system.large_batch is set, but system.loss "words" compares no pairs: leave it out')

    def chance_loss(self, batch_size: int) -> float | None:
        """The loss at equal logits for all pairs of a batch; None for the losses that depend on the data."""
        return math.log(batch_size) if self.loss == "softmax" else None

    def build(self) -> System:
        self.check()
        return _words(self) if self.loss == "words" else _pairs(self)


def _pairs(config: Config) -> System:
    model = dual_encoder(
        {"image": config.image, "text": config.text}, config.dim, scale=1 / config.temperature,
        max_scale=None if config.min_temperature is None else 1 / config.min_temperature, dtype=config.dtype,
    )  # fmt: skip
    sigmoid, offset = config.loss == "sigmoid", LogitBias(config.bias)
    blocks, parts = config.large_batch.blocks(), config.large_batch.micro_batches

    def init(rng: PRNGKeyArray, batch: Batch) -> tuple[Params, dict]:
        params = model.init(rng, batch)
        return params | (init_parts(rng, {"bias": offset}, batch) if sigmoid else {}), {}

    def loss(params: Params, batch: Batch, rng: PRNGKeyArray) -> tuple[Array, Metrics]:
        x, y = in_micro_batches(lambda part: [model.embed(params, part, n) for n in model.names], batch, parts)
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

    def predict(params: Params, batch: Batch) -> Float[Array, "B V"]:
        return model.apply({"params": params["image"]}, *inputs(batch, "image"))[0]

    def init(rng: PRNGKeyArray, batch: Batch) -> tuple[Params, Extras]:
        return init_parts(rng, {"image": model}, batch), {"counts": jnp.ones(vocab, jnp.float32)}

    def loss(params: Params, extras: Extras, batch: Batch, rng: PRNGKeyArray) -> tuple[Array, tuple[Extras, Metrics]]:
        values, targets = bag_of_words_loss(predict(params, batch), batch["text"])
        counts = extras["counts"] + targets.sum(0)
        return values.mean(), ({"counts": counts}, {"words": (targets > 0).sum(-1).mean(dtype=jnp.float32)})

    def information(params: Params, extras: Extras, batch: Batch) -> Float[Array, "B V"]:
        """log p(word | image) - log p(word), with the frequencies counted in training."""
        log_p = jax.nn.log_softmax(predict(params, batch))
        return log_p - jnp.log(extras["counts"] / extras["counts"].sum())

    def words(params: Params, extras: Extras, batch: Batch) -> Float[Array, "B V"]:
        return (bag_of_words(batch["text"], vocab) > 0).astype(jnp.float32)

    # The dot product is the summed pointwise information of the caption's words. Without the frequencies, captions of common words
    # would rank first for every image; for one caption the order of the images is that of its log-probability.
    return System(init, loss, {"image": information, "text": words})


def bag_of_words_loss(
    logits: Float[Array, "B V"], ids: Int[Array | np.ndarray, "B L"]
) -> tuple[Float[Array, " B"], Float[Array, "B V"]]:
    """(cross-entropy of each row's `bag_of_words`, the bags themselves)."""
    targets = bag_of_words(ids, logits.shape[-1])
    return cross_entropy(logits, targets), targets


def bag_of_words(ids: Int[Array | np.ndarray, "B L"], vocab: int) -> Float[Array, "B V"]:
    """Each row has 1 in equal shares on the caption's distinct pieces, special ids left out; a caption without pieces is all zero."""
    present = jnp.zeros((ids.shape[0], vocab), jnp.float32).at[jnp.arange(ids.shape[0])[:, None], ids].set(1.0)
    present = present.at[:, :FIRST_PIECE].set(0.0)
    return present / jnp.maximum(present.sum(-1, keepdims=True), 1.0)
