"""InvGC: inverse graph convolution over stored embeddings, against crowding (Jian and Wang 2023, arXiv 2310.13025).

Equation 6, InvGC                               model.inv_gc
Equation 8, LocalAdj over the k nearest rows    model.local_adj
The gallery's and the queries' bank together    model.mean_of_banks
R@1 against rivals and ablations                evals.gallery_normalisation, evals.Robust
Baseline, QB-Norm (Bogolin et al. 2022)         evals.qb_norm
"""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from mmrep.data.pipeline import embed_rows
from mmrep.errors import ConfigError, check_fields
from mmrep.losses.contrastive import symmetric_info_nce
from mmrep.losses.large_batch import LargeBatch, in_micro_batches
from mmrep.nn.dual import dual_encoder
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.nn.encoders.text import TextEncoder
from mmrep.system import Batch, Extras, Infer, Metrics, Params, System, stateless
from mmrep.systems.retrieval.invgc.model import local_adj, mean_of_banks, num_neighbours

PARTNER = {"image": "text", "text": "image"}


@dataclass(frozen=True)
class Config:
    """A small dual encoder whose galleries are post-processed.

    bank: training embeddings stored of each modality.   rate: share of a bank that counts as near (LocalAdj).
    r_g, r_q: step sizes away from the gallery's own bank and from the queries' bank; choose them on validation (`evals.Robust`).
    large_batch: see LargeBatch.
    """

    image: ImageEncoder = ImageEncoder()
    text: TextEncoder = TextEncoder()
    dim: int = 64
    bank: int = 1000
    rate: float = 0.01
    r_g: float = 0.5
    r_q: float = 0.5
    dtype: str = "float32"
    large_batch: LargeBatch = LargeBatch()

    def check(self) -> None:
        check_fields(self, {
            "bank": (self.bank >= 1, "a bank needs at least one row"),
            "rate": (0.0 < self.rate <= 1.0, "it is a share of the bank, in (0, 1]"),
        })  # fmt: skip
        self.large_batch.check()

    def chance_loss(self, batch_size: int) -> float:
        """The loss at equal logits for all pairs of a batch."""
        return math.log(batch_size)

    def build(self) -> System:
        self.check()
        model = dual_encoder({"image": self.image, "text": self.text}, self.dim, dtype=self.dtype)
        k = num_neighbours(self.rate, self.bank)
        parts, blocks = self.large_batch.micro_batches, self.large_batch.blocks()

        def init(rng: PRNGKeyArray, batch: Batch) -> tuple[Params, Extras]:
            return model.init(rng, batch), {f"bank_{n}": jnp.zeros((self.bank, self.dim), jnp.float32) for n in PARTNER}

        def loss(params: Params, batch: Batch, rng: PRNGKeyArray) -> tuple[Array, Metrics]:
            x, y = in_micro_batches(lambda part: [model.embed(params, part, n) for n in model.names], batch, parts)
            scale = model.scale(params)
            value = symmetric_info_nce(x, y, scale, blocks=blocks).mean()
            return value, {"scale": scale, "cosine": (x * y).sum(-1).mean()}

        def gallery(name: str) -> Infer:
            def embed(params: Params, extras: Extras, batch: Batch) -> Array:
                x = model.embed(params, batch, name)
                own, other = extras[f"bank_{name}"], extras[f"bank_{PARTNER[name]}"]
                return mean_of_banks(local_adj(x, own, self.r_g, k), local_adj(x, other, self.r_q, k))

            return embed

        return System(init, stateless(loss), {**model.infer(), **{f"{n}_gallery": gallery(n) for n in PARTNER}})


def collect_banks(params: Params, extras: Extras, context: Any) -> tuple[Params, Extras]:
    """A phase: the first training pairs' embeddings become the banks. Raises ConfigError where the split has too few."""
    n = extras["bank_image"].shape[0]
    if len(context.split) < n:
        raise ConfigError(f"system.bank is {n}, but the training split has only {len(context.split)} pairs: lower it")

    def bank(name: str) -> Array:
        run = jax.jit(context.system.infer[name])
        return jnp.asarray(embed_rows(lambda batch: run(params, extras, batch), context.split, n))

    return params, extras | {f"bank_{name}": bank(name) for name in PARTNER}
