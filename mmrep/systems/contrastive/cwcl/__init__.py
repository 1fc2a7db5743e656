"""CWCL: continuously weighted contrastive loss, from a frozen text encoder to speech (Srinivasa et al. 2023, arXiv 2309.14580).

Equation 3, weighted contrastive loss L_cw         model.weighted_info_nce
Equation 4, intra-modal weights                    model.intra_modal_weights
Equation 5, L_cw of one direction plus L_cl        model.cwcl_loss
Zero-shot intents of speech by text prompts        evals.SpokenIntent
"""

import math
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from mmrep.errors import check_fields
from mmrep.losses.contrastive import info_nce
from mmrep.losses.large_batch import LargeBatch, in_micro_batches
from mmrep.losses.reduce import masked_mean
from mmrep.nn.dual import dual_encoder
from mmrep.nn.encoders.audio import AudioEncoder
from mmrep.nn.encoders.text import TextEncoder
from mmrep.nn.heads import Projection
from mmrep.system import Batch, Extras, Metrics, Params, System
from mmrep.systems.contrastive.cwcl.model import cwcl_loss

Weights = Literal["frozen", "identity", "permuted", "untrained"]


@dataclass(frozen=True)
class Config:
    """Modality U is text, frozen in the second phase (`Phase.trainable`); modality V is speech.

    objective: "intent": the text-only first phase, classification of intents.   "cwcl": the second.
    weights:   "frozen": w_ij = (1 + <p_i, p_j>) / 2.   "identity": plain contrast in both directions, as in locked-image tuning.
               Ablations of the geometry: "permuted": the weights of other rows, the diagonal kept; "untrained": the weights of a
               text encoder at its initialisation, kept in the extras.
    kernel:    None for the paper's linear weights; t for exp((cos - 1) / t), which is sharper and not the paper's.
    intents:   classes of the first phase.   temperature: at the start, learned down to 0.01.   large_batch: see LargeBatch.
    """

    text: TextEncoder = TextEncoder()
    speech: AudioEncoder = AudioEncoder()
    dim: int = 64
    intents: int = 20
    objective: Literal["intent", "cwcl"] = "cwcl"
    weights: Weights = "frozen"
    kernel: float | None = None
    temperature: float = 0.07
    dtype: str = "float32"
    large_batch: LargeBatch = LargeBatch()

    def check(self) -> None:
        weights = ("frozen", "identity", "permuted", "untrained")
        check_fields(self, {
            "objective": (self.objective in ("intent", "cwcl"), "choose intent or cwcl"),
            "weights": (self.weights in weights, f"choose one of {', '.join(weights)}"),
            "intents": (self.intents >= 2, "a classifier needs at least 2"),
            "kernel": (self.kernel is None or 0 < self.kernel < math.inf, "it must be positive and finite, or None"),
            "temperature": (0 < self.temperature < math.inf, "it must be positive and finite"),
        })  # fmt: skip
        self.large_batch.check()

    def table_sizes(self) -> dict[str, int]:
        """Ids that it can take of modalities that no part of it is named after."""
        return {"intent": self.intents}

    def build(self) -> System:
        self.check()
        model = dual_encoder(
            {"text": self.text, "speech": self.speech}, self.dim, scale=1 / self.temperature, dtype=self.dtype
        )
        head = Projection(self.intents, normalise=False, use_bias=True)
        parts, blocks = self.large_batch.micro_batches, self.large_batch.blocks()

        def init(rng: PRNGKeyArray, batch: Batch) -> tuple[Params, Extras]:
            keys = jax.random.split(rng, 3)
            params = model.init(keys[0], batch)
            params["intent"] = head.init(keys[1], jnp.zeros((1, self.dim), jnp.float32))["params"]
            return params, {"text": model.init(keys[2], batch)["text"]} if self.weights == "untrained" else {}

        def classify(params: Params, batch: Batch) -> Float[Array, "B C"]:
            return model.scale(params) * head.apply({"params": params["intent"]}, model.embed(params, batch, "text"))

        def intent(params: Params, batch: Batch) -> tuple[Array, Metrics]:
            logits, labels = classify(params, batch), batch["intent"]
            value = info_nce(logits, positives=jax.nn.one_hot(labels, self.intents) > 0).mean()
            return value, {"accuracy": (logits.argmax(-1) == labels).mean()}

        def cwcl(params: Params, extras: Extras, batch: Batch) -> tuple[Array, Metrics]:
            p, q = in_micro_batches(lambda part: [model.embed(params, part, n) for n in model.names], batch, parts)
            valid, scale = jnp.isfinite(p).all(-1), model.scale(params)
            p = jnp.where(valid[:, None], p, 0.0)
            around = model.embed(extras, batch, "text") if self.weights == "untrained" else p
            # Batches come shuffled, so a roll by one row is a random permutation.
            rows = jnp.roll(around, 1, axis=0) if self.weights == "permuted" else around
            geometry = None if self.weights == "identity" else (rows, around)
            value = masked_mean(cwcl_loss(p, q, scale, geometry, self.kernel, valid, blocks), valid)
            return value, {"scale": scale, "cosine": masked_mean((p * q).sum(-1), valid)}

        def loss(
            params: Params, extras: Extras, batch: Batch, rng: PRNGKeyArray
        ) -> tuple[Array, tuple[Extras, Metrics]]:
            if self.objective == "intent":
                value, metrics = intent(params, batch)
            else:
                value, metrics = cwcl(params, extras, batch)
            return value, (extras, metrics)

        infer = model.infer() | {"classify": lambda params, extras, batch: classify(params, batch)}
        return System(init, loss, infer)
