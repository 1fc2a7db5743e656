"""MultiModN: a state vector passed through one encoder a modality; missing modalities are skipped (Swamy et al. 2023, arXiv 2309.14118).

Section 3, state s_0, learned                                params["state"]
Section 3, encoders s_{k+1} = e_m(s_k, x_m)                  model.StateEncoder
Section 3, decoders d_t(s_k), after every step               model.Decoder, infer["trace"]
Section 3, missing modalities are skipped                    model.observed, model.walk
Section 3, loss over all steps and tasks, state change       model.multimodn_loss
Section 4.3, missing not at random, flipped in the test      data.TabularData
Baseline, parallel fusion of filled vectors (HAIM)           fusion="parallel"

The authors skip a modality for a whole batch where one of its numbers is NaN; here each record skips its own, which is the same for a batch
of one. Their LSTM, RNN and ResNet encoders are left out: give embeddings of texts, series and images, as their experiments do.
"""

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from mmrep.errors import ConfigError, check_fields
from mmrep.system import Batch, Extras, Metrics, Params, System, stateless
from mmrep.systems.fusion.multimodn import model
from mmrep.systems.fusion.multimodn.model import Decoder, StateEncoder


@dataclass(frozen=True)
class Task:
    """A label of the batch and its number of classes."""

    name: str
    classes: int = 2


@dataclass(frozen=True)
class Config:
    """modalities: vectors of the batch, of any shape, in the order of their encoders; NaN is a missing number, and misses its modality.

    state:      size of the state.
    fusion:     "sequential" is MultiModN; "parallel" a perceptron over all vectors at once, with missing ones filled (a baseline).
    encoder:    "late": the state joins the input of the last layer, which is linear.   "early": it joins the first, and every layer ends in
                ReLU (the authors' encoder for MIMIC).   hidden, decoder: widths of the hidden layers of encoders and decoders.
    dropout:    of the input of "early" encoders, in training, in [0, 1).
    order:      "random" draws an order of the encoders for each batch, in training.
    supervised: "every" step, or the "last" encoder's alone (an ablation).
    error, change: weights of the tasks' error and (times 0.01) of the squared change of the state.
    squash:     cross-entropy over the sigmoid of the decoders' outputs, as in the authors' code, not over the outputs themselves.
    fill:       what replaces missing numbers in "parallel" fusion.   flags: it also gets a 1 for each missing modality.
    forget:     share of modalities that "parallel" fusion fills at random in training (modality dropout), in [0, 1).
    """

    modalities: tuple[str, ...] = ()
    tasks: tuple[Task, ...] = ()
    state: int = 20
    fusion: Literal["sequential", "parallel"] = "sequential"
    encoder: Literal["late", "early"] = "late"
    hidden: tuple[int, ...] = (32,)
    decoder: tuple[int, ...] = ()
    dropout: float = 0.0
    order: Literal["fixed", "random"] = "fixed"
    supervised: Literal["every", "last"] = "every"
    error: float = 1.0
    change: float = 0.0
    squash: bool = False
    fill: float = 0.0
    flags: bool = False
    forget: float = 0.0

    def check(self) -> None:
        names, tasks = self.modalities, [t.name for t in self.tasks]
        check_fields(self, {
            "modalities": (0 < len(names) == len({*names} - {"trace", "fused"}), "name the vectors of the batch, each once"),
            "tasks": (0 < len(tasks) == len({*tasks}) and all(t.classes > 1 for t in self.tasks), "give labels, each with 2 classes or more"),
            "state": (self.state > 0, "it must be at least 1"),
            "fusion": (self.fusion in ("sequential", "parallel"), "choose sequential or parallel"),
            "encoder": (self.encoder in ("late", "early"), "choose late or early"),
            "hidden": (all(n > 0 for n in self.hidden), "give positive widths"),
            "decoder": (all(n > 0 for n in self.decoder), "give positive widths"),
            "dropout": (0 <= self.dropout < 1, "it must be in [0, 1)"),
            "forget": (0 <= self.forget < 1, "it must be in [0, 1)"),
            "order": (self.order in ("fixed", "random"), "choose fixed or random"),
            "supervised": (self.supervised in ("every", "last"), "choose every or last"),
            "error": (self.error >= 0, "it must not be negative"),
            "change": (self.change >= 0, "it must not be negative"),
        })  # fmt: skip
        if self.fusion == "parallel" and (self.order, self.supervised, self.change) != ("fixed", "every", 0.0):
            raise ConfigError('system.fusion is "parallel", which has one step: leave out order, supervised and change')

    def build(self) -> System:
        self.check()
        names, tasks, sequential = self.modalities, [t.name for t in self.tasks], self.fusion == "sequential"
        encoder = StateEncoder(self.state, self.hidden, self.encoder, self.dropout)
        trunk = Decoder((*self.hidden, self.state), 0)
        decoders = {t.name: Decoder(self.decoder, t.classes) for t in self.tasks}

        def init(rng: PRNGKeyArray, batch: Batch) -> tuple[Params, Extras]:
            keys = iter(jax.random.split(rng, len(names) + len(tasks) + 1))
            state = jax.random.normal(next(keys), (1, self.state), jnp.float32)
            values = {n: model.observed(jnp.asarray(batch[n]))[0] for n in names}
            params: dict[str, Any] = {}
            if sequential:
                start = jnp.tile(state, (len(values[names[0]]), 1))
                params["encoders"] = {n: encoder.init(next(keys), start, x)["params"] for n, x in values.items()}
                params["state"] = state
            else:
                x = model.joined(values, {n: jnp.ones(len(x), bool) for n, x in values.items()}, self.fill, self.flags)
                params["trunk"] = trunk.init(next(keys), x)["params"]
            params["decoders"] = {n: d.init(next(keys), state)["params"] for n, d in decoders.items()}
            return params, {}

        def states(params: Params, batch: Batch, rng: PRNGKeyArray | None = None) -> tuple[Array, Array]:
            """(states after every step [K, B, S], whether the step took place [K, B]); a modality that the batch lacks is missing."""
            seen = {n: model.observed(jnp.asarray(batch[n])) for n in names if n in batch}
            if not sequential:
                values, present = ({n: pair[i] for n, pair in seen.items()} for i in (0, 1))
                if rng is not None and self.forget:
                    kept = jax.random.bernoulli(rng, 1 - self.forget, (len(present), len(batch[tasks[0]])))
                    present = {n: p & k for (n, p), k in zip(present.items(), kept)}
                x = model.joined(values, present, self.fill, self.flags)
                state = trunk.apply({"params": params["trunk"]}, x)[None]
                return state, jnp.ones(state.shape[:2], bool)

            def encode(k: int, state: Array, key: PRNGKeyArray | None) -> tuple[Array, Array]:
                if names[k] not in seen:
                    return state, jnp.zeros(len(state), bool)
                x, present = seen[names[k]]
                rngs = None if key is None or not self.dropout else {"dropout": jax.random.fold_in(key, k)}
                return encoder.apply({"params": params["encoders"][names[k]]}, state, x, rngs=rngs), present

            rows = len(next(iter(seen.values()))[1])
            shuffled = rng if self.order == "random" else None
            return model.walk(jnp.tile(params["state"], (rows, 1)), encode, len(names), rng, shuffled)

        def decode(params: Params, state: Float[Array, "... S"], task: str) -> Float[Array, "... C"]:
            return decoders[task].apply({"params": params["decoders"][task]}, state)

        def loss(params: Params, batch: Batch, rng: PRNGKeyArray) -> tuple[Array, Metrics]:
            after, present = states(params, batch, rng)
            logits = {t: decode(params, after, t) for t in tasks}
            errors = jnp.stack([model.cross_entropy(logits[t], jnp.asarray(batch[t]), self.squash) for t in tasks], 1)
            if self.supervised == "last":
                present = present & (jnp.arange(len(present)) == len(present) - 1)[:, None]
            changes = jnp.mean(jnp.square(after[1:] - after[:-1]), -1)
            value = model.multimodn_loss(errors, changes, present, error=self.error, change=self.change).mean()
            right = jnp.stack([(logits[t][-1].argmax(-1) == batch[t]).mean() for t in tasks])
            return value, {"accuracy": right.mean(), "zero_states": (after[-1] == 0).all(-1).mean()}

        def fused(params: Params, extras: Extras, batch: Batch) -> Float[Array, "B S"]:
            return states(params, batch)[0][-1]

        def trace(params: Params, extras: Extras, batch: Batch) -> dict[str, Float[Array, "B K C"]]:
            after, _ = states(params, batch)
            return {t: jnp.swapaxes(model.probabilities(decode(params, after, t), self.squash), 0, 1) for t in tasks}

        infer: dict[str, Any] = {"fused": fused, "trace": trace}
        for task in tasks:
            infer[f"{task}_logits"] = lambda params, extras, batch, task=task: decode(
                params, fused(params, extras, batch), task
            )
        for name in names if sequential else ():
            infer[name] = lambda params, extras, batch, name=name: fused(params, extras, {name: batch[name]})
        return System(init, stateless(loss), infer)
