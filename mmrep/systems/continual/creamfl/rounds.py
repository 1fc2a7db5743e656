"""The steps of a round that are no training: the server's features go out, the clients' come back and are aggregated."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmrep.config import Phase
from mmrep.data.pipeline import eval_batches
from mmrep.errors import DataError
from mmrep.system import Extras, Params
from mmrep.systems.continual.creamfl.model import aggregate


def public_features(params: Params, extras: Extras, context: Any) -> dict[str, Any]:
    """{"server" or client: {modality: [n, d]}} of the public samples, in the order of their numbers. Raises DataError for another order."""
    n = len(extras["image"])
    function, parts, rows = jax.jit(context.system.infer["public"]), [], []
    for batch, real in eval_batches(context.split, 256):
        found = jax.tree.map(np.asarray, function(params, extras, batch))
        parts.append(jax.tree.map(lambda x, real=real: x[:real], found))
        rows.append(batch["row"][:real])
        if sum(map(len, rows)) >= n:
            break
    row = np.concatenate(rows)[:n]
    if not np.array_equal(row, np.arange(n)):
        raise DataError(
            f"system.public is {n}, but the first {n} training records are not the public samples 0 to {n - 1}"
        )
    return jax.tree.map(lambda *xs: np.concatenate(xs)[:n], *parts)


@dataclass(frozen=True)
class Broadcast:
    """A phase's `run`: the server's features of the public samples, the clients' at the round's start, and who takes part.

    participants: clients of a round, drawn at random; 0: all.
    """

    participants: int = 0

    def __call__(self, params: Params, extras: Extras, context: Any) -> tuple[Params, Extras]:
        found, clients = public_features(params, extras, context), extras["chosen"]
        count = self.participants or len(clients)
        order = jax.random.permutation(context.rng, len(clients))
        chosen = jnp.zeros(len(clients), jnp.float32).at[order[:count]].set(1.0)
        own = {k: jax.tree.map(jnp.asarray, v) for k, v in found.items() if k != "server"}
        server = {k: jnp.asarray(v) for k, v in found["server"].items()}
        return params, extras | server | {"old": own, "chosen": chosen}


@dataclass(frozen=True)
class Aggregate:
    """A phase's `run`: the features of the clients that took part, weighted for each sample by global-local cross-modal contrast (GCA).

    temperature: of the contrast; at 1, the authors', unit vectors have weights of nearly one size.   uniform: equal weights.
    broken: clients that return random unit vectors, an experiment on faults.
    """

    temperature: float = 1.0
    uniform: bool = False
    broken: tuple[str, ...] = ()

    def __call__(self, params: Params, extras: Extras, context: Any) -> tuple[Params, Extras]:
        found = public_features(params, extras, context)
        names = [*(k for k in extras["old"])]
        there = [name for name, chosen in zip(names, np.asarray(extras["chosen"])) if chosen]
        n, d = extras["image"].shape
        for i, name in enumerate(self.broken):
            noise = jax.random.normal(jax.random.fold_in(context.rng, i), (n, d))
            noise = noise / jnp.linalg.norm(noise, axis=1, keepdims=True)
            found[name] = {m: jnp.roll(noise, k, 0) for k, m in enumerate(found[name])}
        result: dict[str, Any] = {"target": {}, "has": {}, "trust": {}}
        sent = 0
        for m, other in (("image", "text"), ("text", "image")):
            own = {name: jnp.asarray(found[name][m]) for name in there if m in found[name]}
            trust = {name: jnp.zeros((), jnp.float32) for name in names if m in extras["old"][name]}
            result["target"][m], result["has"][m] = extras["target"][m], jnp.zeros((), jnp.float32)
            if own:
                result["target"][m], weights = aggregate(own, extras[other], self.temperature, self.uniform)
                result["has"][m] = jnp.ones((), jnp.float32)
                trust |= {name: w.mean() for name, w in zip(own, weights)}
            result["trust"][m], sent = trust, sent + len(own)
        moved = 4 * n * d * (sent + 2 * len(there))
        return params, extras | result | {"megabytes": extras["megabytes"] + jnp.float32(moved / 2**20)}


def rounds(system: Any, count: int, *, server: int, private: int, contrast: int, distil: int, broadcast: Broadcast = Broadcast(), gather: Aggregate = Aggregate()) -> tuple[Phase, ...]:  # fmt: skip
    """The phases of `count` rounds, of so many steps each; 0 steps leave a phase out, and the server is alone without contrast and distil."""
    encoders, theirs = ("server/(image|text)/.*",), ("client_.*",)
    one: list[Phase] = []
    for name, steps, which in (
        ("server", server, ("server/.*",)),
        ("private", private, theirs),
        ("contrast", contrast, theirs),
        ("distil", distil, encoders),
    ):
        if name == "private" and contrast + distil:
            one.append(Phase("broadcast", run=broadcast))
        if name == "distil" and distil:
            one.append(Phase("aggregate", run=gather))
        if steps:
            one.append(Phase(name, steps, trainable=which, system=replace(system, stage=name)))
    return tuple(replace(p, name=f"{p.name} {i + 1}") for i in range(count) for p in one)
