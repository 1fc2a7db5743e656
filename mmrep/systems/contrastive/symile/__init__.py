"""Symile: contrastive learning of any number of modalities through total correlation (Saporta et al. 2024, arXiv 2411.01053)."""

import math
from dataclasses import dataclass, field
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from mmrep.errors import ConfigError
from mmrep.losses.contrastive import pairwise_info_nce
from mmrep.losses.large_batch import LargeBatch, in_micro_batches
from mmrep.nn.dual import Encoder, dual_encoder
from mmrep.nn.heads import l2_normalise
from mmrep.system import Batch, Metrics, Params, System, stateless
from mmrep.systems.contrastive.symile.model import (
    Negatives,
    agreement,
    multilinear_product,
    sum_loss,
    symile_loss,
)

Objective = Literal["symile", "pairwise", "sum"]


@dataclass(frozen=True)
class Config:
    """An encoder for each of M >= 2 modalities into one space; `infer` has a function named after each.

    objective: "symile": the contrast of whole tuples by their multilinear product.   "pairwise": CLIP summed over all pairs.
               "sum": Symile's tuples scored by the sum of their pairwise dot products, an ablation.
    negatives: "n" shuffles the other modalities, "n_squared" takes all B^(M-1) combinations.
    scale:     initial inverse temperature.   max_scale: its ceiling. Symile needs none: products of M unit vectors are small.
    pairs:     modalities that "pairwise" contrasts, e.g. (("image", "text"),); empty: all.   smoothing: of its labels.
    large_batch: how much of the batch is compared and encoded at once.
    missing:   the batch may hold `present` [B, M], 1 where a modality was observed; a missing one enters as a learnt vector.
    """

    encoders: tuple[tuple[str, Encoder], ...] = ()
    dim: int = 64
    objective: Objective = "symile"
    negatives: Negatives = "n"
    scale: float = 1 / 0.07
    max_scale: float | None = None
    missing: bool = False
    hidden: int | None = None
    dtype: str = "float32"
    pairs: tuple[tuple[str, str], ...] = ()
    smoothing: float = 0.0
    large_batch: LargeBatch = field(default=LargeBatch(), metadata={"since": 2})

    def check(self) -> None:
        names = [name for name, _ in self.encoders]
        if len(names) < 2 or len(set(names)) < len(names):
            raise ConfigError(f"system.encoders names {names}: give at least two modalities, each once")
        if {"scale", "missing", "present"} & {*names}:
            raise ConfigError(
                f"system.encoders names {names}: scale, missing and present are taken, rename the modality"
            )
        if self.objective not in ("symile", "pairwise", "sum"):
            raise ConfigError(f"system.objective is {self.objective!r}: choose symile, pairwise or sum")
        if self.negatives not in ("n", "n_squared"):
            raise ConfigError(f"system.negatives is {self.negatives!r}: choose n or n_squared")
        if self.objective == "sum" and self.negatives != "n":
            raise ConfigError('system.negatives is "n_squared": objective "sum" has only the "n" sampler')
        if self.objective != "pairwise" and self.negatives == "n" and len(names) == 2:
            raise ConfigError(
                'system.negatives is "n": with two modalities a shuffle repeats the true pairs, take "n_squared"'
            )
        if not {n for pair in self.pairs for n in pair} <= {*names} or not 0 <= self.smoothing < 1:
            raise ConfigError(f"system.pairs {self.pairs} must name encoders, smoothing {self.smoothing} lie in [0, 1)")
        self.large_batch.check()
        if self.large_batch.loss != "plain" and self.objective == "sum":
            raise ConfigError(
                f'system.large_batch.loss is {self.large_batch.loss!r}: objective "sum" has only the plain one'
            )
        if self.large_batch.loss == "ring" and self.objective == "symile" and self.negatives == "n_squared":
            raise ConfigError(
                'system.large_batch.loss is "ring": "n_squared" negatives go round one device, take "chunked"'
            )
        for name, value in (("scale", self.scale), ("max_scale", self.max_scale)):
            if value is not None and not (0 < value < math.inf):
                raise ConfigError(f"system.{name} is {value}: it must be positive and finite")

    def build(self) -> System:
        self.check()
        names = tuple(name for name, _ in self.encoders)
        model = dual_encoder(
            dict(self.encoders), self.dim, scale=self.scale, max_scale=self.max_scale, hidden=self.hidden,
            normalise=not self.missing, dtype=self.dtype,
        )  # fmt: skip

        def init(rng: PRNGKeyArray, batch: Batch) -> tuple[Params, dict]:
            params = model.init(rng, batch)
            if self.missing:
                keys = jax.random.split(jax.random.fold_in(rng, 1), len(names))
                # Not zeros: a zero factor would silence the whole product, and the gradient of every other factor.
                draw = {n: jax.random.normal(k, (2, self.dim), jnp.float32) for n, k in zip(names, keys)}
                params["missing"] = jax.tree.map(lambda x: x * self.dim**-0.5, draw)
            return params, {}

        def embed(params: Params, batch: Batch, name: str) -> Float[Array, "B D"]:
            x = model.embed(params, batch, name)
            if not self.missing:
                return x
            here = jnp.ones(len(x), bool) if "present" not in batch else batch["present"][:, names.index(name)] > 0.5
            absent, observed = params["missing"][name]
            return l2_normalise(jnp.where(here[:, None], x + observed, absent))

        def loss(params: Params, batch: Batch, rng: PRNGKeyArray) -> tuple[Array, Metrics]:
            parts, blocks = self.large_batch.micro_batches, self.large_batch.blocks()
            vectors = in_micro_batches(lambda of: [embed(params, of, n) for n in names], batch, parts)
            scale = model.scale(params)
            if self.objective == "pairwise":
                chosen = [(names.index(a), names.index(b)) for a, b in self.pairs] or None
                value = pairwise_info_nce(vectors, scale, chosen, self.smoothing, blocks).mean()
                return value, {"scale": scale, "cosine": agreement(vectors).mean() / math.comb(len(names), 2)}
            if self.objective == "sum":
                value = sum_loss(rng, vectors, scale).mean()
                return value, {"scale": scale, "cosine": agreement(vectors).mean() / math.comb(len(names), 2)}
            value = symile_loss(vectors, scale, rng, self.negatives, blocks=blocks).mean()
            tuples = len(vectors[0]) ** (1 if self.negatives == "n" else len(names) - 1)
            # Theorem 3.1: log(number of tuples in the softmax) - loss is a lower bound on the total correlation.
            bound = math.log(tuples) - value
            return value, {"scale": scale, "bound": bound, "product": multilinear_product(vectors).mean()}

        infer = {n: lambda params, extras, batch, n=n: embed(params, batch, n) for n in names}
        return System(init, stateless(loss), infer)
