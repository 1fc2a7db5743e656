"""DLCH: hashing of images and texts whose stored codes stay when new categories arrive (Xu et al. 2023, arXiv 2304.13357).

Stage 1, pair loss over buffers, label network as bridge     model.pair_loss, objective "base"
Stage 1, quantisation to sign(2F + H), sign(2G + H)          model.quantisation_loss
Graded similarity of multi-hot labels                        model.graded_similarity
Stage 2, loss against frozen old and new codes               model.code_loss, objective "adapt"
Stage 2, discrete update of the new codes                    model.solve_codes, Codes
Retrieval from the stored codes                              evals.Stored

Stage 1 updates the three networks in one step, the authors in turns. Not copied from the authors' code: the new codes' term left out of stage 2,
a balance term that is linear, raw outputs for tanh, sampled rows left out of the discrete update, changed old codes. One code, sign(F + G), is
stored for an item.
"""

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from mmrep.data.pipeline import embed_rows
from mmrep.errors import check_fields
from mmrep.nn.dual import Encoder, dual_encoder
from mmrep.nn.encoders.vector import VectorEncoder
from mmrep.system import Batch, Extras, Metrics, Params, System
from mmrep.systems.retrieval.dlch.model import (
    code_loss,
    graded_similarity,
    pair_loss,
    quantisation_loss,
    solve_codes,
)

NAMES = ("image", "text", "labels")


@dataclass(frozen=True)
class Config:
    """Networks of images, texts (tags) and labels; the batch also holds row [B], the item's number in the database.

    items, categories: size of the database and of its labels.   bits: of a code.
    objective:  "base": stage 1.   "adapt": stage 2.
    eta, gamma, mu: weights of stage 1: own pairs, labels against texts, quantisation.   alpha, beta: of stage 2: quantisation, balance.
    old:    keep the old codes' term in stage 2.   graded: cosine of labels; False: whether one is shared.   Both False are ablations.
    """

    image: Encoder = VectorEncoder((256,))
    text: Encoder = VectorEncoder((256,))
    label: Encoder = VectorEncoder((64,))
    bits: int = 64
    items: int = 1000
    categories: int = 10
    objective: Literal["base", "adapt"] = "base"
    eta: float = 10.0
    gamma: float = 10.0
    mu: float = 1.0
    alpha: float = 10.0
    beta: float = 100.0
    old: bool = True
    graded: bool = True

    def check(self) -> None:
        weights = (self.eta, self.gamma, self.mu, self.alpha, self.beta)
        check_fields(self, {
            "bits": (self.bits >= 2, "a code needs at least 2 bits"),
            "categories": (self.categories >= 1, "it must be at least 1"),
            "items": (self.items >= 1, "the database needs at least one item"),
            "objective": (self.objective in ("base", "adapt"), "choose base or adapt"),
            "eta": (min(weights) >= 0, "eta, gamma, mu, alpha and beta must be at least 0"),
        })  # fmt: skip

    def build(self) -> System:
        self.check()
        encoders = dict(zip(NAMES, (self.image, self.text, self.label)))
        model = dual_encoder(encoders, self.bits, normalise=False)

        def init(rng: PRNGKeyArray, batch: Batch) -> tuple[Params, Extras]:
            keys = jax.random.split(rng, 5)
            made = model.init(keys[0], batch)
            n, c = self.items, self.bits
            codes = jnp.where(jax.random.bernoulli(keys[1], 0.5, (n, c)), 1.0, -1.0).astype(jnp.float32)
            buffers = {name: jax.random.normal(k, (n, c), jnp.float32) for name, k in zip(NAMES, keys[2:])}
            labels = jnp.zeros((n, self.categories), jnp.float32)
            old = jnp.zeros(n, jnp.float32)
            return {k: made[k] for k in NAMES}, {"codes": codes, "buffers": buffers, "labels": labels, "old": old}

        def base(params: Params, extras: Extras, batch: Batch) -> tuple[Array, tuple[Extras, Metrics]]:
            outputs, rows = {n: model.embed(params, batch, n) for n in NAMES}, batch["row"]
            buffers = {n: extras["buffers"][n].at[rows].set(jax.lax.stop_gradient(outputs[n])) for n in NAMES}
            target = graded_similarity(batch["labels"], extras["labels"], self.graded)
            here = extras["old"] > 0.5
            bridge = {n: jnp.where(2 * buffers[n] + buffers["labels"] >= 0, 1.0, -1.0)[rows] for n in NAMES[:2]}
            of = {(a, b): pair_loss(outputs[a], buffers[b], target, here) for a in NAMES for b in NAMES}
            quantised = {n: quantisation_loss(outputs[n], code) for n, code in bridge.items()}
            value = self.eta * sum(of[n, n] for n in NAMES) + self.mu * sum(quantised.values())
            value += (
                of["labels", "image"] + self.gamma * of["labels", "text"] + of["image", "labels"] + of["text", "labels"]
            )
            value += self.mu / 2 * sum(quantisation_loss(outputs["labels"], code) for code in bridge.values())
            metrics = {
                "pairs": of["image", "labels"] + of["text", "labels"],
                "quantisation": jnp.asarray(sum(quantised.values())),
            }
            return value, (extras | {"buffers": buffers}, metrics)

        def adapt(params: Params, extras: Extras, batch: Batch) -> tuple[Array, tuple[Extras, Metrics]]:
            target = graded_similarity(batch["labels"], extras["labels"], self.graded)
            weight = jnp.ones(self.items, jnp.float32) if self.old else 1.0 - extras["old"]
            own = extras["codes"][batch["row"]]
            values = {
                n: code_loss(
                    jnp.tanh(model.embed(params, batch, n)), own, extras["codes"], target, weight, self.alpha, self.beta
                )
                for n in NAMES[:2]
            }
            return jnp.asarray(sum(values.values())), (extras, values)

        def loss(
            params: Params, extras: Extras, batch: Batch, rng: PRNGKeyArray
        ) -> tuple[Array, tuple[Extras, Metrics]]:
            return (base if self.objective == "base" else adapt)(params, extras, batch)

        def code(params: Params, batch: Batch, name: str) -> Float[Array, "B C"]:
            return jnp.where(model.embed(params, batch, name) >= 0, 1.0, -1.0).astype(jnp.float32)

        infer: dict[str, Any] = {n: lambda params, extras, batch, n=n: code(params, batch, n) for n in NAMES}
        for n in NAMES[:2]:
            infer[f"{n}_outputs"] = lambda params, extras, batch, n=n: model.embed(params, batch, n)
        return System(init, loss, infer)


def columns(params: Params, extras: Extras, context: Any, *names: str) -> list[np.ndarray]:
    """(row numbers, then for each name an infer function or a batch entry) of every record of the phase's split."""
    infer = {k: jax.jit(context.system.infer[k]) for k in names if k.endswith("_outputs")}

    def of(k: str) -> np.ndarray:
        take = (lambda b: infer[k](params, extras, b)) if k in infer else (lambda b: b[k].astype(np.float32))
        return embed_rows(lambda b: take(b).reshape(len(b["row"]), -1), context.split, len(context.split))

    return [of("row")[:, 0].astype(np.int64), *map(of, names)]


@dataclass(frozen=True)
class Register:
    """A phase's `run` over the whole stream: labels of all items. `base`: items of the first stage are those without a label of `new`."""

    new: tuple[int, ...] = (8, 9)

    def __call__(self, params: Params, extras: Extras, context: Any) -> tuple[Params, Extras]:
        rows, labels = columns(params, extras, context, "labels")
        stored = np.zeros(extras["labels"].shape, np.float32)
        stored[rows] = labels
        old = np.zeros(len(stored), np.float32)
        old[rows] = ~stored[rows][:, list(self.new)].any(1) if self.new else 1.0
        return params, {**extras, "labels": jnp.asarray(stored), "old": jnp.asarray(old)}


@dataclass(frozen=True)
class Store:
    """A phase's `run` over the whole stream, after stage 1: every item's code sign(F + G); those of old items never change again."""

    def __call__(self, params: Params, extras: Extras, context: Any) -> tuple[Params, Extras]:
        rows, f, g = columns(params, extras, context, "image_outputs", "text_outputs")
        codes = np.asarray(extras["codes"]).copy()
        codes[rows] = np.where(f + g >= 0, 1.0, -1.0)
        return params, {**extras, "codes": jnp.asarray(codes)}


@dataclass(frozen=True)
class Codes:
    """A phase's `run` over the sampled items: the new items' codes by `solve_codes`. random: drawn instead (an ablation)."""

    alpha: float = 10.0
    graded: bool = True
    random: bool = False
    seed: int = 0

    def __call__(self, params: Params, extras: Extras, context: Any) -> tuple[Params, Extras]:
        codes, labels = np.asarray(extras["codes"]).copy(), np.asarray(extras["labels"])
        new = np.asarray(extras["old"]) < 0.5
        if self.random:
            codes[new] = np.random.default_rng(self.seed).choice([-1.0, 1.0], codes[new].shape)
            return params, {**extras, "codes": jnp.asarray(codes)}
        rows, *outputs = columns(params, extras, context, "image_outputs", "text_outputs")
        outputs, expanded = [np.tanh(u) for u in outputs], []
        for u in outputs:
            whole = np.zeros(codes.shape)
            whole[rows] = u
            expanded.append(whole[new])
        target = np.asarray(graded_similarity(jnp.asarray(labels[rows]), jnp.asarray(labels[new]), self.graded))
        codes[new] = solve_codes(codes[new], outputs, expanded, target, self.alpha)
        return params, {**extras, "codes": jnp.asarray(codes)}
