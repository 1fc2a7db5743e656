"""The contrastive gap: the two-encoder loss itself opens it, uniformity and alignment close it (Fahim et al. 2024, arXiv 2405.18570).

Section 2, CLIP's loss at a fixed temperature           mmrep.losses.contrastive.symmetric_info_nce
Section 4.2, uniformity and alignment of modalities     gap_loss, mmrep.losses.geometry
Section 4.2, cross-uniformity                           mmrep.losses.geometry.cross_uniformity
Sections 3 and 5, gap measures                          mmrep.evals.geometry.Gap
Section 3, the same data in both encoders, two starts   Config.offset, Config.cones
Section 5.4, query arithmetic                           mmrep.evals.arithmetic

Training starts from random weights or from `Phase.start`, not from OpenAI's. The terms have weight 1 each, as in the authors' code.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from mmrep.errors import ConfigError, check_fields
from mmrep.losses.contrastive import symmetric_info_nce
from mmrep.losses.geometry import alignment, cross_uniformity, uniformity
from mmrep.nn.dual import Encoder, dual_encoder
from mmrep.nn.heads import l2_normalise
from mmrep.system import Batch, Metrics, Params, System, stateless


class Weights(NamedTuple):
    """Of the four terms of the loss. CLIP: (1, 0, 0, 0); CUA: (1, 1, 1, 0); CUAXU: (1, 1, 1, 1)."""

    clip: float = 1.0
    uniform: float = 1.0
    align: float = 1.0
    cross: float = 1.0


CUAXU = Weights()


@dataclass(frozen=True)
class Config:
    """Two encoders into one space; `infer` has a function named after each.

    clip, uniform, align, cross: weights of the loss's terms; the defaults are CUAXU, (1, 0, 0, 0) is CLIP.
    temperature: fixed.
    offset: length at the start, in units of sqrt(dim), of a learned vector added to every output of an encoder; 0: there is none.
    cones:  1: both encoders start with the same offset, in one cone; 2: each with its own.
    """

    encoders: tuple[tuple[str, Encoder], ...] = ()
    dim: int = 64
    clip: float = 1.0
    uniform: float = 1.0
    align: float = 1.0
    cross: float = 1.0
    temperature: float = 0.01
    offset: float = 0.0
    cones: int = 2
    dtype: str = "float32"

    def check(self) -> None:
        weights = (self.clip, self.uniform, self.align, self.cross)
        check_fields(self, {
            "temperature": (0 < self.temperature < math.inf, "it must be positive and finite"),
            "offset": (0 <= self.offset < math.inf, "it must be at least 0 and finite"),
            "cones": (self.cones in (1, 2), "choose 1 or 2"),
            "clip": (min(weights) >= 0 < max(weights), "clip, uniform, align and cross are at least 0, one is above"),
        })  # fmt: skip
        names = [name for name, _ in self.encoders]
        if not 2 == len(names) == len({*names} - {"scale", "offset"}):
            raise ConfigError(f"system.encoders names {names}: give two, none of them scale or offset")

    def build(self) -> System:
        self.check()
        model = dual_encoder(dict(self.encoders), self.dim, normalise=False, dtype=self.dtype)
        first, second = model.names
        weights = Weights(self.clip, self.uniform, self.align, self.cross)

        def init(rng: PRNGKeyArray, batch: Batch) -> tuple[Params, dict]:
            params = {name: model.init(rng, batch)[name] for name in model.names}
            if self.offset:
                keys = jax.random.split(jax.random.fold_in(rng, 1), 2)
                ways = [jax.random.normal(keys[i if self.cones == 2 else 0], (self.dim,), jnp.float32) for i in (0, 1)]
                params["offset"] = {name: self.offset * way for name, way in zip(model.names, ways)}
            return params, {}

        def embed(params: Params, batch: Batch, name: str) -> Float[Array, "B D"]:
            return l2_normalise(model.embed(params, batch, name) + (params["offset"][name] if self.offset else 0.0))

        def loss(params: Params, batch: Batch, rng: PRNGKeyArray) -> tuple[Array, Metrics]:
            x, y = embed(params, batch, first), embed(params, batch, second)
            value, terms = gap_loss(x, y, 1 / self.temperature, weights)
            return value, terms | {"centroid_distance": jnp.linalg.norm(x.mean(0) - y.mean(0))}

        infer: dict[str, Any] = model.infer()
        infer |= {n: lambda params, extras, batch, n=n: embed(params, batch, n) for n in model.names}
        return System(init, stateless(loss), infer)


def gap_loss(
    x: Float[Array, "B D"], y: Float[Array, "B D"], scale: float, weights: Weights
) -> tuple[Float[Array, ""], Metrics]:
    """(CLIP + (U(x) + U(y)) / 2 + A + XU, each times its weight; the four terms), of paired unit rows.

    Raises ConfigError for fewer than 2 rows.
    """
    terms = {
        "clip": symmetric_info_nce(x, y, scale).mean(),
        "uniform": 0.5 * (uniformity(x) + uniformity(y)),
        "align": alignment(x, y).mean(),
        "cross": cross_uniformity(x, y),
    }
    return sum((getattr(weights, k) * v for k, v in terms.items()), jnp.float32(0.0)), terms
