"""CWCL: continuously weighted contrastive loss, from a frozen text encoder to speech (Srinivasa et al. 2023, arXiv 2309.14580)."""

import math
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from mmrep.errors import ConfigError
from mmrep.losses.contrastive import Scalar, info_nce, similarity
from mmrep.losses.reduce import masked_mean
from mmrep.nn.dual import dual_encoder
from mmrep.nn.encoders.audio import AudioEncoder
from mmrep.nn.encoders.text import TextEncoder
from mmrep.nn.heads import Projection
from mmrep.system import Batch, Extras, Metrics, Params, System

Weights = Literal["frozen", "identity", "permuted", "untrained"]


@dataclass(frozen=True)
class Config:
    """Modality U is text (frozen in the second phase, by `Phase.trainable`), modality V is speech.

    objective: "intent": the text-only first phase, classification of intents.   "cwcl": the second.
    weights:   "frozen": w_ij = (1 + <p_i, p_j>) / 2.   "identity": plain contrast in both directions, as in locked-image tuning.
               Ablations of the geometry: "permuted": the weights of other rows, the diagonal kept; "untrained": the weights of a
               text encoder that learnt nothing, which then stands in the extras.
    kernel:    None for the paper's linear weights; t for exp((cos - 1) / t), which later work uses.
    """

    text: TextEncoder = TextEncoder()
    speech: AudioEncoder = AudioEncoder()
    dim: int = 64
    intents: int = 20
    objective: Literal["intent", "cwcl"] = "cwcl"
    weights: Weights = "frozen"
    kernel: float | None = None
    scale: float = 1 / 0.07
    dtype: str = "float32"

    def check(self) -> None:
        if self.objective not in ("intent", "cwcl"):
            raise ConfigError(f"system.objective is {self.objective!r}: choose intent or cwcl")
        if self.weights not in ("frozen", "identity", "permuted", "untrained"):
            raise ConfigError(f"system.weights is {self.weights!r}: choose frozen, identity, permuted or untrained")
        if self.intents < 2:
            raise ConfigError(f"system.intents is {self.intents}: a classifier needs at least 2")
        for field, value in (("kernel", self.kernel), ("scale", self.scale)):
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(f"system.{field} is {value}: it must be positive and finite")

    def build(self) -> System:
        self.check()
        model = dual_encoder({"text": self.text, "speech": self.speech}, self.dim, scale=self.scale, dtype=self.dtype)
        head = Projection(self.intents, normalise=False, use_bias=True)

        def init(rng: PRNGKeyArray, batch: Batch) -> tuple[Params, Extras]:
            keys = jax.random.split(rng, 3)
            params = model.init(keys[0], batch)
            params["intent"] = head.init(keys[1], jnp.zeros((1, self.dim), jnp.float32))["params"]
            return params, {"text": model.init(keys[2], batch)["text"]} if self.weights == "untrained" else {}

        def classify(params: Params, batch: Batch) -> Float[Array, "B C"]:
            return model.scale(params) * head.apply({"params": params["intent"]}, model.embed(params, batch, "text"))

        def intent(params: Params, batch: Batch) -> tuple[Array, Metrics]:
            logits, labels = classify(params, batch), batch["intent"]
            loss = info_nce(logits, positives=jax.nn.one_hot(labels, self.intents) > 0).mean()
            return loss, {"accuracy": (logits.argmax(-1) == labels).mean()}

        def contrast(params: Params, extras: Extras, batch: Batch) -> tuple[Array, Metrics]:
            p, q, scale = model.embed(params, batch, "text"), model.embed(params, batch, "speech"), model.scale(params)
            valid = jnp.isfinite(p).all(-1)
            p = jnp.where(valid[:, None], p, 0.0)
            eye = jnp.eye(len(p), dtype=bool)
            geometry = model.embed(extras, batch, "text") if self.weights == "untrained" else p
            w = eye.astype(jnp.float32) if self.weights == "identity" else intra_modal_weights(geometry, self.kernel)
            if self.weights == "permuted":
                # Batches come shuffled, so a roll is a random permutation. The diagonal stays: only the geometry is wrong.
                w = jnp.where(eye, w, jnp.roll(w, 1, axis=0))
            loss = masked_mean(cwcl_loss(p, q, scale, w, valid), valid)
            return loss, {"scale": scale, "cosine": masked_mean((p * q).sum(-1), valid), "weight": w.mean()}

        def loss(
            params: Params, extras: Extras, batch: Batch, rng: PRNGKeyArray
        ) -> tuple[Array, tuple[Extras, Metrics]]:
            reading = self.objective == "intent"
            value, metrics = intent(params, batch) if reading else contrast(params, extras, batch)
            return value, (extras, metrics)

        infer = model.infer() | {"classify": lambda params, extras, batch: classify(params, batch)}
        return System(init, loss, infer)


def intra_modal_weights(p: Float[Array, "B D"], kernel: float | None = None) -> Float[Array, "B B"]:
    """w_ij = <p_i, p_j> / 2 + 1/2, in [0, 1] with w_ii = 1, from the unit rows of the frozen modality (equation 4); no gradient.

    kernel: t for exp((<p_i, p_j> - 1) / t) instead.
    """
    cosine = jnp.clip(similarity(p, p), -1.0, 1.0)
    w = cosine / 2 + 0.5 if kernel is None else jnp.exp((cosine - 1.0) / kernel)
    return jax.lax.stop_gradient(jnp.where(jnp.eye(len(p), dtype=bool), 1.0, w))


def cwcl_loss(
    p: Float[Array, "B D"],
    q: Float[Array, "B D"],
    scale: Scalar,
    weights: Float[Array, "B B"],
    valid: Bool[Array, " B"] | None = None,
) -> Float[Array, " B"]:
    """L_cw + L_cl of each pair (equations 3 and 5): p -> q against the weights, each row over its sum; q -> p against the pair alone.

    p, q: unit rows of the frozen and of the trained modality.   valid: pairs that count; the others leave rows and columns and are 0.
    With weights = identity this is twice the symmetric InfoNCE. Raises ConfigError for fewer than two pairs.
    """
    if len(p) < 2:
        raise ConfigError(f"cwcl_loss: {len(p)} pair has no negatives; give data.batch_size of at least 2")
    logits = scale * similarity(p, q)
    known = jnp.ones(len(p), bool) if valid is None else valid
    keep = known[:, None] & known[None, :]
    kept = jnp.where(keep, weights, 0.0)
    targets = kept / jnp.maximum(kept.sum(-1, keepdims=True), 1e-12)
    to_q = info_nce(logits, targets=targets, ignore=~keep)
    return jnp.where(known, to_q + info_nce(logits.T, ignore=~keep), 0.0)
