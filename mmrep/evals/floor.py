"""Floors of a probe: what the raw input and an untrained network reach through it."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mmrep import modality
from mmrep.model import Model
from mmrep.nn.maps import DenseModality
from mmrep.nn.patches import patchify
from mmrep.system import Batch, Extras, Infer, Params


def raw_tokens(maps: tuple[DenseModality, ...]) -> Infer:
    """An infer function of tokens that learns nothing: each patch's standardised numbers and their squares, of all maps side by side."""

    def tokens(params: Params, extras: Extras, batch: Batch) -> tuple[Float[Array, "B N P"], Array]:
        patches = [patchify(m.standard(batch[m.name]), m.patch) for m in maps]
        x = jnp.concatenate([*patches, *(p**2 for p in patches)], axis=-1)
        return x, jnp.ones(x.shape[:2], bool)

    return tokens


@dataclass(frozen=True)
class Floor:
    """`probe`'s metrics of the system at its initialisation ("untrained ...") and of its raw input ("raw ..."): the same probe, labels and split.

    probe: an evaluator that fits a head to frozen tokens.   raw: each infer function that it calls, and the maps whose patches take the
    place of its tokens.   The number of training steps has no influence.
    """

    probe: Any
    raw: tuple[tuple[str, tuple[DenseModality, ...]], ...]

    def run(self, model: Model) -> dict[str, float]:
        batch = modality.example(model.data.modalities, 2)
        key = jax.random.key(model.experiment.train.seed)
        params, extras = jax.jit(model.system.init)(key, batch)
        infer = dict(model.system.infer) | {name: raw_tokens(maps) for name, maps in self.raw}
        systems = {"untrained": model.system, "raw": model.system._replace(infer=infer)}
        found: dict[str, float] = {}
        for label, system in systems.items():
            floor = Model(model.experiment, params, extras, system=system)
            found |= {f"{label} {k}": v for k, v in self.probe.run(floor).items()}
        return found
