"""RREH: hash codes of two modalities from partly paired data, by relations to anchors (Wang et al. 2024, arXiv 2405.17777).

Relations of unpaired items to anchors          model.reconstruction
Objective J                                     model.objective
Alternating closed forms, each lowers J         model.UPDATES, model.solve
Hash functions, codes of new items              hashing.hash_functions, Solve, infer
Mean average precision by Hamming distance      mmrep.evals.precision.Precision
Records, some without one modality              data.SemiPaired

No code of the authors is available: the objective is reconstructed from the paper's text, and its exact terms are uncertain. Nothing is trained
by gradients. Features enter as vectors: `mmrep.data.features` makes them from pictures and words, any frozen encoder from anything.
"""

from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from mmrep.data.pipeline import embed_rows
from mmrep.errors import ConfigError, check_fields
from mmrep.system import Batch, Extras, Params, System
from mmrep.systems.retrieval.rreh.hashing import hash_functions
from mmrep.systems.retrieval.rreh.model import Weights


@dataclass(frozen=True)
class Config:
    """Codes in {-1, 1}^bits of two vector modalities; `infer` has a function named after each.

    names: of the modalities, which the batch holds as [B, D]; `present` [B, 2] in the batch marks the observed ones.
    """

    names: tuple[str, str] = ("image", "text")
    bits: int = 32

    def check(self) -> None:
        check_fields(self, {
            "bits": (self.bits >= 1, "a code needs at least one bit"),
            "names": (len({*self.names} - {"present"}) == 2, "give two names, none of them present"),
        })  # fmt: skip

    def build(self) -> System:
        self.check()

        def init(rng: PRNGKeyArray, batch: Batch) -> tuple[Params, Extras]:
            """Random hash functions; `Solve` replaces them."""
            params = {}
            for key, name in zip(jax.random.split(rng, 2), self.names):
                if batch[name].ndim != 2:
                    raise ConfigError(
                        f"modality {name!r} has shape {list(batch[name].shape[1:])}: hashing takes one vector a record"
                    )
                dim = batch[name].shape[1]
                weight = jax.random.normal(key, (dim, self.bits), jnp.float32) / np.float32(dim**0.5)
                params[name] = {"weight": weight, "mean": jnp.zeros(dim, jnp.float32)}
            return params, {"objective": jnp.zeros((), jnp.float32)}

        def code(params: Params, batch: Batch, name: str) -> Float[Array, "B C"]:
            p = params[name]
            projected = jnp.matmul(batch[name] - p["mean"], p["weight"], precision=jax.lax.Precision.HIGHEST)
            return jnp.where(projected >= 0, 1.0, -1.0).astype(jnp.float32)

        infer: dict[str, Any] = {n: lambda params, extras, batch, n=n: code(params, batch, n) for n in self.names}
        return System(init, None, infer)


@dataclass(frozen=True)
class Solve:
    """A phase's `run`: hash functions of the training split by the alternating closed forms.

    anchors: pairs that others are related to, at most.   weights: of the objective.   permuted, pairs_only: ablations.
    """

    anchors: int = 100
    weights: Weights = Weights()
    iterations: int = 15
    seed: int = 0
    permuted: bool = False
    pairs_only: bool = False

    def __call__(self, params: Params, extras: Extras, context: Any) -> tuple[Params, Extras]:
        first, second = context.system.infer
        n = len(context.split)
        x, y = (embed_rows(itemgetter(k), context.split, n) for k in (first, second))
        here = np.ones((n, 2), np.float32)
        if any(m.name == "present" for m in context.split.data.modalities):
            here = embed_rows(lambda b: b["present"], context.split, n)
        found = hash_functions(
            x, y, here, bits=params[first]["weight"].shape[1], anchors=min(self.anchors, int(here.all(1).sum())),
            weights=self.weights, iterations=self.iterations, seed=self.seed, permuted=self.permuted,
            pairs_only=self.pairs_only,
        )  # fmt: skip
        solved = {}
        for name, (scaler, w) in zip((first, second), found.functions):
            weight, mean = (w / scaler.scale).T.astype(np.float32), scaler.mean.astype(np.float32)
            solved[name] = {"weight": jnp.asarray(weight), "mean": jnp.asarray(mean)}
        return solved, {"objective": jnp.float32(found.trace[-1])}
