"""DBL: a branch that must exceed its peer's similarities by a margin (Diao et al. 2024, IEEE TIP, arXiv 2404.18114).

Equation 2, triplet loss with the hardest negatives            mmrep.losses.ranking.hinge
Section III-B, absolute boosting                               boost_absolute
Section III-B, relative boosting                               boost_relative
Section III-C, margins that adapt to the anchor                upper_margin, lower_margin, Config.adapt
Section III-D, synchronous, asynchronous, momentum anchors     Config.anchor
Baseline, deep mutual learning (Zhang et al. 2018)             mutual_loss

Losses are means over the batch, the authors' are sums. Their asynchronous anchor is
`anchor="given"` with Phase(start=(Pretrained(plain, (("target/", "anchor/"),)),), trainable=("target/.*",)). The matcher that attends from
words to regions (SGRAF) is not here: both branches are dual encoders.
"""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from mmrep.errors import ConfigError, check_fields
from mmrep.losses.contrastive import similarity
from mmrep.losses.ranking import hinge, over_negatives
from mmrep.nn.dual import Encoder, dual_encoder
from mmrep.system import Batch, Extras, Infer, Metrics, Params, System

Boost = Literal["none", "relative", "absolute", "mutual"]
Anchor = Literal["synchronous", "given", "momentum", "shuffled"]
Adapt = Literal["none", "hard", "soft"]
Square = Float[Array, "B B"]
Both = tuple[Float[Array, " B"], Float[Array, " B"]]
"""Values of each row and of each column."""


@dataclass(frozen=True)
class Config:
    """Two encoders, of `image` and `text`, in each of two branches; `infer` uses the target. A batch may have `id`: equal ids are no negatives.

    boost:   the second loss; "none" trains the target alone.   alpha: its weight.
    anchor:  "synchronous": a branch of its own, trained by the triplet loss at the same time.   "momentum": an average of the target.
             "given": parameters "anchor", which the phase starts from and keeps.   "shuffled": synchronous, but each pair is compared with
             another pair of the batch (an ablation).
    margin:  of the triplet loss.   beta: that of boosting over it; 0 demands no less than the anchor.   gamma: share of it for the positive
             pair in absolute boosting.   adapt: of the margins near the bounds of the cosine, see `upper_margin`.
    hardest: the hardest negative of each row and column, not the sum over all.
    momentum: decay of the average at the start; it rises to 1 by a cosine over `momentum_steps` (0: constant).
    """

    image: Encoder | None = None
    text: Encoder | None = None
    dim: int = 64
    boost: Boost = "relative"
    anchor: Anchor = "synchronous"
    alpha: float = 1.0
    margin: float = 0.2
    beta: float = 1.0
    gamma: float = 0.5
    adapt: Adapt = "none"
    hardest: bool = True
    momentum: float = 0.9995
    momentum_steps: int = 0
    dtype: str = "float32"

    def check(self) -> None:
        check_fields(self, {
            "image": (self.image is not None and self.text is not None, "give it and text an encoder"),
            "margin": (0 < self.margin < 2, "cosines differ by at most 2: it must be in (0, 2)"),
            "beta": (self.beta >= 0, "it must be at least 0"),
            "alpha": (self.alpha >= 0, "it must be at least 0"),
            "gamma": (0 <= self.gamma <= 1, "it must be in [0, 1]"),
            "momentum": (0 <= self.momentum < 1, "it must be in [0, 1)"),
            "momentum_steps": (self.momentum_steps >= 0, "it must be at least 0"),
        })  # fmt: skip
        if self.adapt != "none" and not self.beta:
            raise ConfigError('system.beta is 0: there is no margin to adapt, set adapt to "none"')

    def build(self) -> System:
        self.check()
        assert self.image is not None and self.text is not None
        model = dual_encoder({"image": self.image, "text": self.text}, self.dim, dtype=self.dtype)
        alone, momentum = self.boost == "none", self.anchor == "momentum"

        def branch(rng: PRNGKeyArray, batch: Batch) -> Params:
            return {name: model.init(rng, batch)[name] for name in model.names}

        def init(rng: PRNGKeyArray, batch: Batch) -> tuple[Params, Extras]:
            params = {"target": branch(rng, batch)}
            if alone:
                return params, {}
            if momentum:
                return params, {"anchor": jax.tree.map(jnp.copy, params["target"]), "step": jnp.zeros((), jnp.int32)}
            return params | {"anchor": branch(jax.random.fold_in(rng, 1), batch)}, {}

        def scores(params: Params, batch: Batch) -> Square:
            return similarity(*(model.embed(params, batch, name) for name in model.names))

        def loss(
            params: Params, extras: Extras, batch: Batch, rng: PRNGKeyArray
        ) -> tuple[Array, tuple[Extras, Metrics]]:
            s, ids = scores(params["target"], batch), batch.get("id")
            total = mean(hinge(s, self.margin, self.hardest, ids))
            metrics = {"rank": total, "gap": gap(s).mean()}
            if not alone:
                a = scores(extras["anchor"] if momentum else params["anchor"], batch)
                if self.anchor in ("synchronous", "shuffled"):
                    metrics["anchor"] = mean(hinge(a, self.margin, self.hardest, ids))
                a = jax.lax.stop_gradient(a)
                if self.anchor == "shuffled":
                    order = jax.random.permutation(rng, len(a))
                    a = a[order][:, order]
                metrics["boost"] = mean(self.boosting(s, a, ids))
                total += self.alpha * metrics["boost"] + metrics.get("anchor", 0.0)
            return total, (extras, metrics)

        def update(params: Params, extras: Extras) -> Extras:
            if alone or not momentum:
                return extras
            decay = momentum_at(self.momentum, self.momentum_steps, extras["step"])
            anchor = optax.incremental_update(params["target"], extras["anchor"], 1 - decay)
            return {"anchor": anchor, "step": extras["step"] + 1}

        def of_target(function: Infer) -> Infer:
            return lambda params, extras, batch: function(params["target"], extras, batch)

        return System(init, loss, {name: of_target(f) for name, f in model.infer().items()}, update)

    def boosting(self, s: Square, a: Square, ids: Int[Array, " B"] | None) -> Both:
        """The boosting loss of target scores against the anchor's."""
        margin = self.beta * self.margin
        if self.boost == "mutual":
            return mutual_loss(s, a)
        if self.boost == "absolute":
            return boost_absolute(s, a, margin, self.gamma, self.adapt, self.hardest, ids)
        return boost_relative(s, a, margin, self.adapt, self.hardest, ids)


def mean(both: Both) -> Float[Array, ""]:
    return (both[0] + both[1]).mean()


def gap(s: Square) -> Float[Array, " B"]:
    """Each row's cosine of the pair, less that of its hardest negative."""
    return jnp.diagonal(s) - jnp.where(jnp.eye(len(s), dtype=bool), -jnp.inf, s).max(1)


def boost_absolute(
    s: Square, a: Square, margin: float, gamma: float = 0.5, adapt: Adapt = "none", hardest: bool = True,
    ids: Int[Array, " B"] | None = None,
) -> Both:  # fmt: skip
    """Pairs above the anchor's by gamma * margin, and negatives below the anchor's by the rest, for rows and columns."""
    a, up, down = jax.lax.stop_gradient(a), gamma * margin, (1 - gamma) * margin
    peer = jnp.diagonal(a)
    positive = jnp.maximum(upper_margin(peer, up, 1.0, adapt) + peer - jnp.diagonal(s), 0.0)
    costs = jnp.maximum(lower_margin(a, down, 1.0, adapt) + s - a, 0.0)
    rows, columns = over_negatives(costs, costs, hardest, ids)
    return positive + rows, positive + columns


def boost_relative(
    s: Square,
    a: Square,
    margin: float,
    adapt: Adapt = "none",
    hardest: bool = True,
    ids: Int[Array, " B"] | None = None,
) -> Both:
    """The gap between a pair and each negative above the anchor's gap by the margin, for rows and columns."""
    a, costs = jax.lax.stop_gradient(a), []
    for true, peer in ((jnp.diagonal(s)[:, None], jnp.diagonal(a)[:, None]), (jnp.diagonal(s), jnp.diagonal(a))):
        costs.append(jnp.maximum(upper_margin(peer - a, margin, 2.0, adapt) + (peer - a) - (true - s), 0.0))
    return over_negatives(costs[0], costs[1], hardest, ids)


def mutual_loss(s: Square, a: Square, smooth: float = 10.0) -> Both:
    """KL(softmax(smooth * a) || softmax(smooth * s)) of rows and columns: imitation of the peer, not more than that."""

    def one_way(x: Square, y: Square) -> Float[Array, " B"]:
        return optax.losses.kl_divergence(jax.nn.log_softmax(smooth * x), jax.nn.softmax(smooth * y))

    return one_way(s, a), one_way(s.T, a.T)


def upper_margin(a: Array, margin: float, edge: float, how: Adapt) -> Array:
    """The margin by which to exceed the anchor's `a`, at most `edge`: constant; "hard": at most edge - a; "soft": falling to 0 at the edge."""
    if how == "hard":
        return jnp.where(a < edge - margin, margin, edge - a)
    return 2 * margin * jax.nn.sigmoid(2 / margin * (edge - a)) - margin if how == "soft" else jnp.full_like(a, margin)


def lower_margin(a: Array, margin: float, edge: float, how: Adapt) -> Array:
    """The margin by which to stay below the anchor's `a`, at least -edge."""
    return upper_margin(-a, margin, edge, how)


def momentum_at(start: float, steps: int, step: Int[Array, ""]) -> Float[Array, ""]:
    """The decay of the anchor's average after `step` updates."""
    done = jnp.minimum(step / steps, 1.0) if steps else jnp.zeros((), jnp.float32)
    return 1 - (1 - start) * 0.5 * (1 + jnp.cos(jnp.pi * done))
