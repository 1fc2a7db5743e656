"""OmniBind: spaces of many specialists, bound into one by projectors and routers (Wang et al. 2024, arXiv 2407.11895).

Section 3.2, pseudo tuples from unpaired corpora               data.PseudoTuples
Section 3.3, projectors, seven copies of each expert's         model.Projector, model.projection_loss
Section 3.4, routers, weights of the experts                   model.Router, model.route_weights, model.bind
Section 3.4, overall cross-modal alignment                     model.alignment_loss
Section 3.4, language representation decoupling                model.decoupling_loss (reconstructed)

LayerNorm replaces BatchNorm; with norm "none" published weights fit, their statistics folded into the linear maps. Copies differ by their
initial weights alone. ImageBind is an expert of its own; the authors add a tenth of it to the base of images and texts.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from mmrep.errors import ConfigError, check_fields
from mmrep.nn.heads import l2_normalise
from mmrep.system import Batch, Metrics, Params, System, stateless
from mmrep.systems.contrastive.omnibind.model import (
    Expert,
    Norm,
    Projector,
    Router,
    alignment_loss,
    bind,
    decoupling_loss,
    field,
    projection_loss,
    route_weights,
)


@dataclass(frozen=True)
class Config:
    """A batch has stored embeddings `<modality>_<expert>`, and `start` [B], the number of the modality that a tuple was mined from.

    experts:   with the one named `base`, whose space is kept.   Modalities are numbered in the order of the experts.
    inputs:    (modality, experts whose embeddings its router takes); all of its experts where it is not named.
    copies:    projectors of each expert.   hidden, router: widths of their hidden layers.
    stage:     "project" trains the projectors, "route" the routers; see Phase.trainable.
    routing:   "learned"; "constant": weights that do not depend on the input (an ablation).
    sharpness: of the weights of `text`; 1 for the others.   decouple: weight of the decoupling loss.
    """

    experts: tuple[Expert, ...] = ()
    base: str = "base"
    text: str = "text"
    inputs: tuple[tuple[str, tuple[str, ...]], ...] = ()
    copies: int = 7
    hidden: int = 2048
    router: tuple[int, int] = (512, 100)
    stage: Literal["project", "route"] = "route"
    routing: Literal["learned", "constant"] = "learned"
    sharpness: float = 10.0
    temperature: float = 0.05
    decouple: float = 1.0
    norm: Norm = "layer"

    @property
    def modalities(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(m for e in self.experts for m in e.modalities))

    def of(self, modality: str) -> tuple[Expert, ...]:
        """The experts that embed a modality."""
        return tuple(e for e in self.experts if modality in e.modalities)

    def router_inputs(self, modality: str) -> tuple[str, ...]:
        return dict(self.inputs).get(modality, tuple(e.name for e in self.of(modality)))

    def check(self) -> None:
        names = [e.name for e in self.experts]
        check_fields(self, {
            "base": (self.base in names, "name one of the experts"),
            "text": (len(self.of(self.text)) > 1, "name a modality of two or more experts"),
            "copies": (self.copies >= 1, "give at least 1"),
            "hidden": (self.hidden >= 1, "give at least 1"),
            "temperature": (0 < self.temperature < math.inf, "it must be positive and finite"),
            "sharpness": (0 < self.sharpness < math.inf, "it must be positive and finite"),
            "decouple": (self.decouple >= 0, "it must be at least 0"),
        })  # fmt: skip
        if len(names) < 2 or len({*names}) < len(names) or any("_" in m for m in self.modalities):
            raise ConfigError(
                f"system.experts names {names}: give two or more, each once, and modalities without underscores"
            )
        for m, experts in self.inputs:
            if not {*experts} <= {e.name for e in self.of(m)} or not experts:
                raise ConfigError(f"system.inputs has {experts} for {m!r}: name experts that embed it")

    def build(self) -> System:
        self.check()
        dims = {e.name: e.dim for e in self.experts}
        learnt = [e for e in self.experts if e.name != self.base]
        base = next(e for e in self.experts if e.name == self.base)
        projector = Projector(self.hidden, base.dim, self.norm)
        routers = {m: Router(self.router, len(self.of(m)), self.norm) for m in self.modalities if len(self.of(m)) > 1}
        widths = {m: sum(dims[e] for e in self.router_inputs(m)) for m in self.modalities}

        def init(rng: PRNGKeyArray, batch: Batch) -> tuple[Params, dict]:
            params: Params = {"project": {}, "route": {}}
            for i, e in enumerate(learnt):
                keys = jax.random.split(jax.random.fold_in(rng, i), self.copies)
                of = jax.vmap(lambda key, dim=e.dim: projector.init(key, jnp.zeros((1, dim)))["params"])
                params["project"][e.name] = of(keys)
            for i, (m, router) in enumerate(routers.items()):
                key = jax.random.fold_in(rng, len(learnt) + i)
                params["route"][m] = router.init(key, jnp.zeros((1, widths[m])))["params"]
            return params, {}

        def stored(batch: Batch, m: str, expert: str) -> Float[Array, "B I"]:
            return l2_normalise(jnp.asarray(batch[field(m, expert)]))

        def copies(params: Params, batch: Batch, m: str, expert: str) -> Float[Array, "K B D"]:
            of = jax.vmap(lambda p, x: projector.apply({"params": p}, x), (0, None))
            return of(params["project"][expert], stored(batch, m, expert))

        def projected(params: Params, batch: Batch, m: str) -> Float[Array, "B E D"]:
            """Each expert's mean of copies; the base's own embedding."""
            return jnp.stack([
                stored(batch, m, e.name) if e.name == self.base else copies(params, batch, m, e.name).mean(0)
                for e in self.of(m)
            ], 1)  # fmt: skip

        def scores(params: Params, batch: Batch, m: str) -> Float[Array, "B E"]:
            x = jnp.concatenate([stored(batch, m, e) for e in self.router_inputs(m)], 1)
            x = jnp.ones_like(x) if self.routing == "constant" else x
            return routers[m].apply({"params": params["route"][m]}, x)

        def weights(params: Params, batch: Batch, m: str) -> Float[Array, "B E"]:
            if m not in routers:  # a single expert
                return jnp.ones((len(stored(batch, m, self.of(m)[0].name)), 1))
            return route_weights(scores(params, batch, m), self.sharpness if m == self.text else 1.0)

        def embed(params: Params, batch: Batch, m: str) -> Float[Array, "B D"]:
            return bind(projected(params, batch, m), weights(params, batch, m))

        def loss(params: Params, batch: Batch, rng: PRNGKeyArray) -> tuple[Array, Metrics]:
            if self.stage == "project":
                each = {field(m, e.name): copies(params, batch, m, e.name) for e in learnt for m in e.modalities}
                value = projection_loss(
                    each, {m: stored(batch, m, base.name) for m in base.modalities}, self.temperature
                )
                return value.mean(), {"project": value.mean()}
            align = alignment_loss({m: embed(params, batch, m) for m in self.modalities}, self.temperature).mean()
            found = scores(params, batch, self.text)
            decouple = decoupling_loss(found, batch["start"], self.of(self.text), self.modalities, self.text).mean()
            return align + self.decouple * decouple, {"align": align, "decouple": decouple}

        infer: dict[str, Any] = {}
        for m in self.modalities:
            infer[m] = lambda params, extras, batch, m=m: embed(params, batch, m)
            infer[f"{m}_uniform"] = lambda params, extras, batch, m=m: projected(params, batch, m).mean(1)
            infer[f"{m}_weights"] = lambda params, extras, batch, m=m: weights(params, batch, m)
            for e in self.of(m):
                name: Any = e.name
                infer[f"{m}_in_{name}"] = lambda params, extras, batch, m=m, e=name: stored(batch, m, e)
        return System(init, stateless(loss), infer)
