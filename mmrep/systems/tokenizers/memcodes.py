"""4M-21's tokeniser of vectors: a bottleneck MLP on either side of a product quantiser (Bachmann et al., NeurIPS 2024, arXiv 2406.09406)."""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray

from mmrep.errors import ConfigError
from mmrep.nn.heads import l2_normalise
from mmrep.nn.quantise import product_codebook, product_quantise, product_values
from mmrep.nn.vqvae import Codec, vector_codec
from mmrep.system import Batch, Extras, Metrics, Params, System, stateless


@dataclass(frozen=True)
class Config:
    """name, shape: the batch entry and its shape, flattened.   mean, std: numbers are taken as (x - mean) / std.

    heads, codes: so many ids an example, each of its own codebook of so many codes.   width: of the MLPs and of all heads' codes.
    blocks, expansion: of each MLP.   loss: "cosine" (then the length is not kept, and decoded vectors are unit) or "smooth_l1".
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
        if self.heads < 1 or self.width % self.heads or self.codes < 2:
            raise ConfigError(
                f"system.width is {self.width}: its {self.heads} heads must divide it, and codes be 2 or more"
            )
        if self.loss == "cosine" and any(self.mean):
            raise ConfigError("system.loss 'cosine' keeps a direction from the origin: leave system.mean at 0")
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
            x, codec = standard(self, batch[self.name]), self.codec()
            found, ids = product_quantise(params["codebook"], codec.encode(params, x), rng, self.temperature)
            error = ERRORS[self.loss](codec.decode(params, found), x).mean()
            share = jnp.zeros((self.heads, self.codes), jnp.float32)
            share = share.at[jnp.arange(self.heads), ids].add(1.0 / len(ids))
            perplexity = jnp.exp(-(share * jnp.log(jnp.maximum(share, 1e-10))).sum(-1)).mean()
            return error, {"perplexity": perplexity}

        def ids_of(params: Params, extras: Extras, batch: Batch) -> Int[Array, "B h"]:
            return tokenise(self, params, extras, batch[self.name])

        def detokenised(params: Params, extras: Extras, batch: Batch) -> Float[Array, "B *n"]:
            """The vector of the batch's `ids`, or of its own tokens where it holds none."""
            ids = batch["ids"] if "ids" in batch else ids_of(params, extras, batch)
            return detokenise(self, params, extras, ids)

        def reconstruct(params: Params, extras: Extras, batch: Batch) -> Float[Array, "B *n"]:
            return detokenise(self, params, extras, ids_of(params, extras, batch))

        infer = {"tokenise": ids_of, "detokenise": detokenised, "reconstruct": reconstruct}
        return System(init, stateless(loss), infer)


def standard(config: Config, x: Float[Array | np.ndarray, "B *n"]) -> Float[Array, "B D"]:
    x = jnp.asarray(x, jnp.float32).reshape(len(x), -1)
    return (x - jnp.asarray(config.mean, jnp.float32)) / jnp.asarray(config.std, jnp.float32)


def _cosine(y: Float[Array, "B D"], x: Float[Array, "B D"]) -> Float[Array, " B"]:
    return 1 - (l2_normalise(y) * l2_normalise(x)).sum(-1)


ERRORS = {"cosine": _cosine, "smooth_l1": optax.losses.huber_loss}


def tokenise(config: Config, params: Params, extras: Extras, x: Float[Array | np.ndarray, "B *n"]) -> Int[Array, "B h"]:
    """Ids of a vector, each head's likeliest, for any system that holds this tokeniser's params; extras are empty."""
    return product_quantise(params["codebook"], config.codec().encode(params, standard(config, x)))[1]


def detokenise(
    config: Config, params: Params, extras: Extras, ids: Int[Array, "B h"], key: Key[Array, "*B"] | None = None
) -> Float[Array, "B *n"]:
    """The vector of these ids in its own units, of unit length under the cosine loss. key: unused, as nothing is drawn."""
    y = config.codec().decode(params, product_values(params["codebook"], ids))
    if config.loss == "cosine":
        y = l2_normalise(y)
    y = y * jnp.asarray(config.std, jnp.float32) + jnp.asarray(config.mean, jnp.float32)
    return y.reshape(len(ids), *config.shape)
