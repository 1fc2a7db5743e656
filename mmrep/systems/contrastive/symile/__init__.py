"""Symile: contrastive learning of any number of modalities by total correlation (Saporta et al. 2024, arXiv 2411.01053).

Multilinear inner product                            model.multilinear_product
Equation 4, InfoNCE over tuples                      model.symile_loss
Negatives "n" and "n_squared"                        model.permuted_logits, model.rolled_logits
Theorem 3.1, bound on the total correlation          the metric "bound"
Section 3.3, scores of a missing modality            model.mip_scores, evals.Predict
Section 5.1, XOR; a small Symile-M3                  data.XorData, data.PolyglotData
Baseline, CLIP on all pairs                          mmrep.losses.contrastive.pairwise_info_nce
"""

import math
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from mmrep.errors import ConfigError, check_fields
from mmrep.losses.contrastive import pairwise_info_nce
from mmrep.losses.large_batch import LargeBatch, in_micro_batches
from mmrep.nn.dual import Encoder, dual_encoder
from mmrep.nn.heads import l2_normalise
from mmrep.system import Batch, Metrics, Params, System, stateless
from mmrep.systems.contrastive.symile.model import Negatives, agreement, multilinear_product, sum_loss, symile_loss

Objective = Literal["symile", "pairwise", "sum"]


@dataclass(frozen=True)
class Config:
    """An encoder for each of M >= 2 modalities into one space; `infer` has a function named after each.

    objective: "symile": the contrast of whole tuples by their multilinear product.   "pairwise": CLIP summed over all pairs.
               "sum": Symile's tuples scored by the sum of their pairwise dot products, an ablation.
    negatives: "n" shuffles the other modalities, "n_squared" takes all B^(M-1) combinations.
    temperature: at the start.   min_temperature: its floor; None for Symile, since products of M unit vectors are small.
    missing:   the batch may hold `present` [B, M], 1 where a modality was observed; a missing one is replaced by a learned vector.
    hidden:    width of a two-layer projection head; None: linear.
    pairs:     modalities that "pairwise" contrasts, e.g. (("image", "text"),); empty: all.   smoothing: of its labels.
    large_batch: see LargeBatch.
    """

    encoders: tuple[tuple[str, Encoder], ...] = ()
    dim: int = 64
    objective: Objective = "symile"
    negatives: Negatives = "n"
    temperature: float = 0.07
    min_temperature: float | None = None
    missing: bool = False
    hidden: int | None = None
    dtype: str = "float32"
    pairs: tuple[tuple[str, str], ...] = ()
    smoothing: float = 0.0
    large_batch: LargeBatch = LargeBatch()

    def check(self) -> None:
        names, floor, sampled = [name for name, _ in self.encoders], self.min_temperature, self.negatives == "n"
        check_fields(self, {
            "objective": (self.objective in ("symile", "pairwise", "sum"), "choose symile, pairwise or sum"),
            "negatives": (self.negatives in ("n", "n_squared"), "choose n or n_squared"),
            "temperature": (0 < self.temperature < math.inf, "it must be positive and finite"),
            "min_temperature": (floor is None or 0 < floor < math.inf, "it must be positive and finite, or None"),
            "pairs": ({n for pair in self.pairs for n in pair} <= {*names}, "name encoders"),
            "smoothing": (0 <= self.smoothing < 1, "it must be in [0, 1)"),
        })  # fmt: skip
        self.large_batch.check()
        if not 2 <= len(names) == len({*names} - {"scale", "missing", "present"}):
            raise ConfigError(
                f"system.encoders names {names}: give two or more, each once, none scale, missing or present"
            )
        if self.objective == "sum" and not sampled:
            raise ConfigError('system.negatives is "n_squared": objective "sum" has only the "n" sampler')
        if self.objective != "pairwise" and sampled and len(names) == 2:
            raise ConfigError('system.negatives is "n": a shuffle of one modality repeats true pairs, take "n_squared"')
        if self.large_batch.loss == "ring" and self.objective == "symile" and not sampled:
            raise ConfigError(
                'system.large_batch.loss is "ring": one device builds "n_squared" negatives, take "chunked"'
            )

    def chance_loss(self, batch_size: int) -> float | None:
        """The loss at equal logits for all tuples (of "symile") or pairs of a batch; None for "sum"."""
        modalities = len(self.encoders)
        if self.objective == "symile":
            return math.log(batch_size) * (1 if self.negatives == "n" else modalities - 1)
        if self.objective == "pairwise":
            return math.log(batch_size) * (len(self.pairs) or math.comb(modalities, 2))
        return None

    def build(self) -> System:
        self.check()
        model = dual_encoder(
            dict(self.encoders), self.dim, scale=1 / self.temperature, hidden=self.hidden, normalise=not self.missing,
            max_scale=None if self.min_temperature is None else 1 / self.min_temperature, dtype=self.dtype,
        )  # fmt: skip
        names, parts, blocks = model.names, self.large_batch.micro_batches, self.large_batch.blocks()

        def init(rng: PRNGKeyArray, batch: Batch) -> tuple[Params, dict]:
            params = model.init(rng, batch)
            return params | (missing_vectors(rng, names, self.dim) if self.missing else {}), {}

        def embed(params: Params, batch: Batch, name: str) -> Float[Array, "B D"]:
            x = model.embed(params, batch, name)
            return replace_missing(params, batch, x, name, names) if self.missing else x

        def loss(params: Params, batch: Batch, rng: PRNGKeyArray) -> tuple[Array, Metrics]:
            vectors = in_micro_batches(lambda part: [embed(params, part, n) for n in names], batch, parts)
            scale = model.scale(params)
            if self.objective == "symile":
                value = symile_loss(vectors, scale, rng, self.negatives, blocks=blocks).mean()
                tuples = len(vectors[0]) ** (1 if self.negatives == "n" else len(names) - 1)
                # Theorem 3.1: log(number of tuples in the softmax) - loss is a lower bound on the total correlation.
                bound = math.log(tuples) - value
                return value, {"scale": scale, "bound": bound, "product": multilinear_product(vectors).mean()}
            if self.objective == "sum":
                value = sum_loss(rng, vectors, scale, blocks).mean()
            else:
                pairs = [(names.index(a), names.index(b)) for a, b in self.pairs] or None
                value = pairwise_info_nce(vectors, scale, pairs, self.smoothing, blocks).mean()
            return value, {"scale": scale, "cosine": agreement(vectors).mean() / math.comb(len(names), 2)}

        layers = {k: v for k, v in model.infer().items() if k not in names}
        infer = {n: lambda params, extras, batch, n=n: embed(params, batch, n) for n in names}
        return System(init, stateless(loss), infer | layers)


def missing_vectors(rng: PRNGKeyArray, names: tuple[str, ...], dim: int) -> Params:
    """{"missing": {name: [2, dim]}}: of each modality what replaces a missing value, and what is added to an observed one.

    Random, since zeros would zero the product and every other factor's gradient.
    """
    keys = jax.random.split(jax.random.fold_in(rng, 1), len(names))
    drawn = {n: jax.random.normal(k, (2, dim), jnp.float32) for n, k in zip(names, keys)}
    return {"missing": jax.tree.map(lambda x: x * dim**-0.5, drawn)}


def replace_missing(
    params: Params, batch: Batch, x: Float[Array, "B D"], name: str, names: tuple[str, ...]
) -> Float[Array, "B D"]:
    """Unit embeddings of modality `name` in which the learned vector replaces every row that `present` marks as missing."""
    here = jnp.ones(len(x), bool) if "present" not in batch else batch["present"][:, names.index(name)] > 0.5
    absent, observed = params["missing"][name]
    return l2_normalise(jnp.where(here[:, None], x + observed, absent))
