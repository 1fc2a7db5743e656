"""The steps of a round that are no training: the server's features go out, the clients' come back and are aggregated."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmrep.config import Phase
from mmrep.data.pipeline import eval_batches
from mmrep.errors import DataError
from mmrep.nn.heads import l2_normalise
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
        found, names = public_features(params, extras, context), [*extras["chosen"]]
        rank = jax.random.permutation(context.rng, len(names))
        chosen = dict(zip(names, (rank < (self.participants or len(names))).astype(jnp.float32)))
        own = jax.tree.map(jnp.asarray, found)
        return params, extras | own.pop("server") | {"old": own, "chosen": chosen}


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
        there = [name for name, chosen in extras["chosen"].items() if float(chosen)]
        n, d = extras["image"].shape
        for i, name in enumerate(self.broken):
            noise = l2_normalise(jax.random.normal(jax.random.fold_in(context.rng, i), (n, d)))
            found[name] = {m: jnp.roll(noise, k, 0) for k, m in enumerate(found[name])}
        result: dict[str, Any] = {"target": {}, "has": {}, "trust": {}}
        sent, none, one = 0, jnp.zeros((), jnp.float32), jnp.ones((), jnp.float32)
        for m, other in (("image", "text"), ("text", "image")):
            own = {name: jnp.asarray(found[name][m]) for name in there if m in found[name]}
            trust = {name: none for name, of in extras["old"].items() if m in of}
            result["target"][m], result["has"][m] = extras["target"][m], none
            if own:
                result["target"][m], weights = aggregate(own, extras[other], self.temperature, self.uniform)
                result["has"][m] = one
                trust |= {name: w.mean() for name, w in zip(own, weights)}
            result["trust"][m], sent = trust, sent + len(own)
        moved = 4 * n * d * (sent + 2 * len(there))
        return params, extras | result | {"megabytes": extras["megabytes"] + jnp.float32(moved / 2**20)}


def rounds(system: Any, count: int, *, server: int, private: int, contrast: int, distil: int, broadcast: Broadcast = Broadcast(), gather: Aggregate = Aggregate()) -> tuple[Phase, ...]:  # fmt: skip
    """The phases of `count` rounds, of so many steps each; 0 steps leave a phase out, and the server is alone without contrast and distil."""
    encoders, theirs = ("server/(image|text)/.*",), ("client_.*",)
    sides = {"server": ("server/.*",), "private": theirs, "contrast": theirs, "distil": encoders}
    before = {"private": Phase("broadcast", run=broadcast), "distil": Phase("aggregate", run=gather)}
    one: list[Phase] = []
    for (name, which), steps in zip(sides.items(), (server, private, contrast, distil)):
        if name in before and contrast + distil:
            one.append(before[name])
        if steps:
            one.append(Phase(name, steps, trainable=which, system=replace(system, stage=name)))
    return tuple(replace(p, name=f"{p.name} {i + 1}") for i in range(count) for p in one)
