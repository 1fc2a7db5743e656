"""Memcodes: 4M-21's tokenizer of vectors, a few ids per vector (Bachmann et al., NeurIPS 2024, arXiv 2406.09406).

| paper                                             | function                              |
|---------------------------------------------------|---------------------------------------|
| bottleneck MLPs as encoder and decoder            | model.BottleneckMlp, vector_codec     |
| product quantiser with Gumbel-softmax             | model.product_quantise                |
| cosine or smooth L1 reconstruction                | memcodes_loss                         |
"""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray

from mmrep.errors import ConfigError
from mmrep.nn.codec import Codec
from mmrep.nn.heads import l2_normalise
from mmrep.system import Batch, Extras, Metrics, Params, System, stateless
from mmrep.systems.tokenizers.memcodes.model import (
    product_codebook,
    product_quantise,
    product_values,
    vector_codec,
)


@dataclass(frozen=True)
class Config:
    """name, shape: the batch entry and its shape, flattened.   mean, std: numbers are standardised as (x - mean) / std.

    heads, codes: ids per example, and codes of each one's codebook.   width: of the MLPs and of all heads' codes together.
    blocks, expansion: of each MLP.   loss: "cosine" (decoded vectors are unit) or "smooth_l1".
    temperature: of the Gumbel-softmax in training.
    """

    name: str = "teacher"
    shape: tuple[int, ...] = (64,)
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    heads: int = 8
    codes: int = 8192
    width: int = 1024
    blocks: int = 6
    expansion: int = 4
    loss: Literal["cosine", "smooth_l1"] = "cosine"
    temperature: float = 1.0
    scan: bool = False
    dtype: str = "float32"

    @property
    def dim(self) -> int:
        size = 1
        for n in self.shape:
            size *= n
        return size

    def check(self) -> None:
        if self.loss not in ("cosine", "smooth_l1"):
            raise ConfigError(f"system.loss is {self.loss!r}: choose 'cosine' or 'smooth_l1'")
        if self.heads < 1 or self.width < 1 or self.width % self.heads or self.codes < 2:
            raise ConfigError(
                f"system.width is {self.width}: its {self.heads} heads must divide it, and codes be 2 or more"
            )
        if self.loss == "cosine" and any(self.mean):
            raise ConfigError("system.loss 'cosine' depends on directions from the origin only: leave system.mean at 0")
        if self.temperature <= 0 or min(self.std) <= 0 or self.blocks < 1 or self.dim < 1:
            raise ConfigError("system.temperature, std, blocks and shape must be positive")

    def codec(self) -> Codec:
        return vector_codec(
            self.dim, self.width, self.blocks, expansion=self.expansion, scan=self.scan, dtype=self.dtype
        )

    def build(self) -> System:
        self.check()

        def init(rng: PRNGKeyArray, batch: Batch) -> tuple[Params, Extras]:
            weights, codes = jax.random.split(rng)
            found = product_codebook(codes, self.heads, self.codes, self.width)
            return self.codec().init(weights) | {"codebook": found}, {}

        def loss(params: Params, batch: Batch, rng: PRNGKeyArray) -> tuple[Array, Metrics]:
            return memcodes_loss(self, params, batch[self.name], rng)

        def ids_of(params: Params, extras: Extras, batch: Batch) -> Int[Array, "B h"]:
            return vector_to_ids(self, params, extras, batch[self.name])

        def decoded(params: Params, extras: Extras, batch: Batch) -> Float[Array, "B *n"]:
            """The vector of the batch's `ids`, or of its own ids where it has none."""
            ids = batch["ids"] if "ids" in batch else ids_of(params, extras, batch)
            return ids_to_vector(self, params, extras, ids)

        def reconstruct(params: Params, extras: Extras, batch: Batch) -> Float[Array, "B *n"]:
            return ids_to_vector(self, params, extras, ids_of(params, extras, batch))

        infer = {"tokenize": ids_of, "detokenize": decoded, "reconstruct": reconstruct}
        return System(init, stateless(loss), infer)


def memcodes_loss(
    config: Config, params: Params, x: Float[Array | np.ndarray, "B *n"], rng: PRNGKeyArray
) -> tuple[Float[Array, ""], Metrics]:
    """The reconstruction error through sampled codes, and the mean perplexity of the heads' codes."""
    target, codec = standard(config, x), config.codec()
    found, ids = product_quantise(params["codebook"], codec.encode(params, target), rng, config.temperature)
    error = ERRORS[config.loss](codec.decode(params, found), target).mean()
    share = jnp.zeros((config.heads, config.codes), jnp.float32)
    share = share.at[jnp.arange(config.heads), ids].add(1.0 / len(ids))
    perplexity = jnp.exp(-(share * jnp.log(jnp.maximum(share, 1e-10))).sum(-1)).mean()
    return error, {"perplexity": perplexity}


def standard(config: Config, x: Float[Array | np.ndarray, "B *n"]) -> Float[Array, "B D"]:
    x = jnp.asarray(x, jnp.float32).reshape(len(x), -1)
    return (x - jnp.asarray(config.mean, jnp.float32)) / jnp.asarray(config.std, jnp.float32)


def _cosine(y: Float[Array, "B D"], x: Float[Array, "B D"]) -> Float[Array, " B"]:
    return 1 - (l2_normalise(y) * l2_normalise(x)).sum(-1)


ERRORS = {"cosine": _cosine, "smooth_l1": optax.losses.huber_loss}


def vector_to_ids(
    config: Config, params: Params, extras: Extras, x: Float[Array | np.ndarray, "B *n"]
) -> Int[Array, "B h"]:
    """Ids of a vector, the most likely of each head; another system may call it with this tokenizer's params. extras: empty."""
    return product_quantise(params["codebook"], config.codec().encode(params, standard(config, x)))[1]


def ids_to_vector(
    config: Config, params: Params, extras: Extras, ids: Int[Array, "B h"], key: Key[Array, "*B"] | None = None
) -> Float[Array, "B *n"]:
    """The vector of these ids in its own units, of unit length under the cosine loss.   key: unused, since decoding is deterministic."""
    y = config.codec().decode(params, product_values(params["codebook"], ids))
    if config.loss == "cosine":
        y = l2_normalise(y)
    y = y * jnp.asarray(config.std, jnp.float32) + jnp.asarray(config.mean, jnp.float32)
    return y.reshape(len(ids), *config.shape)
