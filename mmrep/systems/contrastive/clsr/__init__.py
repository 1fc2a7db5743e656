"""CLSR: contrast of sounds and texts with adaptive temperatures and reconstruction of latents (IEEE ICTAI 2023).

Contrastive Latent Space Reconstruction Learning for Audio-Text Retrieval. No code and few formulas are published: all of them are our
reconstruction from the abstract.

Cross-modal contrast, a temperature for each sample          cross_modal_loss
Adaptive temperature from neighbours of the text             adaptive_temperature
Intra-modal separability, weighted by the texts' similarity  repulsion
Latent reconstruction, four decoders                         reconstruction_loss, Config.reconstruct
What a sound's embedding keeps                               evals.Content
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from mmrep.errors import check_fields
from mmrep.losses.contrastive import info_nce, similarity
from mmrep.nn.dual import Encoder, dual_encoder, inputs
from mmrep.nn.encoders.audio import AudioEncoder
from mmrep.nn.encoders.text import TextEncoder
from mmrep.nn.heads import Projection, l2_normalise
from mmrep.system import Batch, Extras, Metrics, Params, System

NAMES = ("audio", "text")
WAYS = tuple((a, b) for a in NAMES for b in NAMES)


@dataclass(frozen=True)
class Config:
    """temperature: "adaptive": within [tau_min, tau_max], by the mean similarity of a text to its `neighbours` nearest in the batch;
                 "learned": one for all, from tau_start; "fixed": tau_start;   "shuffled": adaptive ones of other rows (a control).
    intra, reconstruct: weights of the intra-modal repulsion and of the reconstruction; 0 leaves the term out.
    momentum: of the running mean and variance by which latents are standardised.
    """

    audio: Encoder = AudioEncoder()
    text: Encoder = TextEncoder()
    dim: int = 64
    temperature: Literal["adaptive", "learned", "fixed", "shuffled"] = "adaptive"
    tau_min: float = 0.03
    tau_max: float = 0.15
    tau_start: float = 0.07
    neighbours: int = 5
    intra: float = 0.1
    reconstruct: float = 0.1
    momentum: float = 0.99
    dtype: str = "float32"

    def check(self) -> None:
        kinds = ("adaptive", "learned", "fixed", "shuffled")
        check_fields(self, {
            "temperature": (self.temperature in kinds, f"choose one of {', '.join(kinds)}"),
            "tau_min": (0.01 <= self.tau_min <= self.tau_max < math.inf, "it must be at least 0.01 and at most tau_max"),
            "tau_start": (0.01 <= self.tau_start < math.inf, "it must be at least 0.01"),
            "neighbours": (self.neighbours >= 1, "it must be at least 1"),
            "intra": (min(self.intra, self.reconstruct) >= 0, "intra and reconstruct must be at least 0"),
            "momentum": (0 <= self.momentum < 1, "it must be in [0, 1)"),
        })  # fmt: skip

    def build(self) -> System:
        self.check()
        model = dual_encoder(
            dict(zip(NAMES, (self.audio, self.text))), self.dim, scale=1 / self.tau_start, dtype=self.dtype
        )

        def decoder(size: int) -> Projection:
            return Projection(size, hidden=self.dim, normalise=False, use_bias=True)

        def init(rng: PRNGKeyArray, batch: Batch) -> tuple[Params, Extras]:
            made = model.init(rng, batch)
            params = made if self.temperature == "learned" else {n: made[n] for n in NAMES}
            sizes = {
                n: jax.eval_shape(lambda p, b, n=n: model.full(p, b, n), made, batch)[1]["pooled"].shape[-1]
                for n in NAMES
            }
            if self.reconstruct:
                keys = jax.random.split(jax.random.fold_in(rng, 1), len(WAYS))
                start = jnp.zeros((1, self.dim), jnp.float32)
                params["decoders"] = {
                    f"{a}_{b}": decoder(sizes[b]).init(key, start)["params"] for (a, b), key in zip(WAYS, keys)
                }
            zeros = {n: {"mean": jnp.zeros(k, jnp.float32), "var": jnp.ones(k, jnp.float32)} for n, k in sizes.items()}
            return params, {"latents": zeros}

        def loss(
            params: Params, extras: Extras, batch: Batch, rng: PRNGKeyArray
        ) -> tuple[Array, tuple[Extras, Metrics]]:
            full = {n: model.full(params, batch, n) for n in NAMES}
            p, q = (full[n][0] for n in NAMES)
            latents = {n: jax.lax.stop_gradient(full[n][1]["pooled"].astype(jnp.float32)) for n in NAMES}
            running = {n: moved(extras["latents"][n], latents[n], self.momentum) for n in NAMES}
            standard = {n: (latents[n] - s["mean"]) * jax.lax.rsqrt(s["var"] + 1e-5) for n, s in running.items()}
            same = equal_rows(batch, "text")
            near = text_similarity(standard["text"], same)
            tau = self._tau(params, near, model, rng)
            value = contrast = cross_modal_loss(p, q, tau, same).mean()
            metrics = {"contrast": contrast, "tau": tau.mean()}
            if self.intra:
                metrics["intra"] = 0.5 * (repulsion(p, near, tau) + repulsion(q, near, tau)).mean()
                value = value + self.intra * metrics["intra"]
            if self.reconstruct:
                errors = [
                    reconstruction_loss(
                        decoder(latents[b].shape[-1]).apply({"params": params["decoders"][f"{a}_{b}"]}, full[a][0]),
                        standard[b],
                    )
                    for a, b in WAYS
                ]
                metrics["reconstruction"] = jnp.asarray(sum(errors)).mean()
                value = value + self.reconstruct * metrics["reconstruction"]
            return value, ({"latents": running}, metrics)

        return System(init, loss, model.infer())

    def _tau(self, params: Params, near: Float[Array, "B B"], model: Any, rng: PRNGKeyArray) -> Float[Array, " B"]:
        if self.temperature in ("learned", "fixed"):
            tau = 1 / model.scale(params) if self.temperature == "learned" else jnp.float32(self.tau_start)
            return jnp.broadcast_to(tau, near.shape[:1])
        tau = adaptive_temperature(near, self.neighbours, self.tau_min, self.tau_max)
        return jax.random.permutation(rng, tau) if self.temperature == "shuffled" else tau


def moved(stats: dict[str, Array], x: Float[Array, "B D"], momentum: float) -> dict[str, Array]:
    """Running mean and variance after a batch."""
    now = {"mean": x.mean(0), "var": x.var(0)}
    return {k: momentum * stats[k] + (1 - momentum) * now[k] for k in now}


def equal_rows(batch: Batch, name: str) -> Bool[Array, "B B"]:
    """True where two rows of a modality are the same input: identical captions."""
    parts = [jnp.asarray(x).reshape(len(x), -1) for x in inputs(batch, name)]
    return jnp.stack([(x[:, None] == x[None]).all(-1) for x in parts]).all(0)


def text_similarity(x: Float[Array, "B D"], same: Bool[Array, "B B"]) -> Float[Array, "B B"]:
    """r: cosine of the texts' standardised latents within [0, 1]; 1 for identical texts. No gradient."""
    unit = l2_normalise(jax.lax.stop_gradient(x))
    return jnp.where(same, 1.0, jnp.clip(similarity(unit, unit), 0.0, 1.0))


def adaptive_temperature(
    near: Float[Array, "B B"], neighbours: int, tau_min: float, tau_max: float
) -> Float[Array, " B"]:
    """tau_min + (tau_max - tau_min) h, h the mean of a row's largest r besides its own: softer among similar texts. A single row: tau_min."""
    n = near.shape[0]
    if n < 2:
        return jnp.full(n, tau_min, jnp.float32)
    others = jnp.where(jnp.eye(n, dtype=bool), -1.0, near)
    h = jax.lax.top_k(others, min(neighbours, n - 1))[0].mean(-1)
    return jax.lax.stop_gradient(tau_min + (tau_max - tau_min) * h)


def cross_modal_loss(
    p: Float[Array, "B D"], q: Float[Array, "B D"], tau: Float[Array, " B"], same: Bool[Array, "B B"]
) -> Float[Array, " B"]:
    """Half the sum of both InfoNCE: row i of p against q at tau_i, row j of q against p at tau_j; identical texts are no negatives."""
    s = similarity(p, q)
    return 0.5 * (info_nce(s / tau[:, None], ignore=same) + info_nce(s.T / tau[:, None], ignore=same))


def repulsion(p: Float[Array, "B D"], near: Float[Array, "B B"], tau: Float[Array, " B"]) -> Float[Array, " B"]:
    """log of the mean over j != i of (1 - r_ij) exp(<p_i, p_j> / tau_i); 0 where every other row has r = 1, and for a single row."""
    n = p.shape[0]
    weight = jnp.where(jnp.eye(n, dtype=bool), 0.0, 1.0 - near)
    here = weight > 0
    values = jnp.where(here, similarity(p, p) / tau[:, None] + jnp.log(jnp.where(here, weight, 1.0)), -1e9)
    return jnp.where(here.any(-1), jax.nn.logsumexp(values, axis=-1) - np.log(max(n - 1, 1)), 0.0)


def reconstruction_loss(decoded: Float[Array, "B D"], target: Float[Array, "B D"]) -> Float[Array, " B"]:
    """Mean squared error of each row against a standardised latent, without gradient into it."""
    return ((decoded.astype(jnp.float32) - jax.lax.stop_gradient(target)) ** 2).mean(-1)
