"""A source and a system small enough to reckon by hand, for tests of the parts around systems."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from mmrep.config import Data, Experiment, Mesh, Optim, Phase, Train
from mmrep.errors import DataError
from mmrep.modality import vector
from mmrep.system import System


@dataclass(frozen=True)
class Points:
    """n points x with 3 x0 to be learnt; the records named in `broken` cannot be read."""

    n: int = 50
    broken: tuple[int, ...] = ()

    def open(self, split):
        sizes = {"train": self.n, "val": 8, "test": 12, "empty": 0}
        if split not in sizes:
            raise DataError(f"no split {split!r}")
        return _Records(self, sizes[split])

    def texts(self, split):
        return []

    def view(self, record, rng):
        return record if rng is None else {**record, "x": record["x"] + rng.normal(0, 1e-3, 2).astype(np.float32)}


class _Records:
    def __init__(self, source, n):
        self.source, self.n = source, n

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        if i in self.source.broken:
            raise DataError("points.bin: cannot be read")
        return {"x": np.array([i / 50, 1.0], np.float32), "number": i}


@dataclass(frozen=True)
class Line:
    """Two linear maps; `bad_from` makes the loss infinite from that step on. The step is counted in extras."""

    width: int = 4
    bad_from: int = 10**6

    def build(self):
        def init(rng, batch):
            first, second = jax.random.split(rng)
            return {
                "a": {"kernel": jax.random.normal(first, (2, self.width))},
                "b": {"kernel": jax.random.normal(second, (self.width, 1))},
            }, {"seen": jnp.zeros((), jnp.float32)}

        def predict(params, x):
            return (x @ params["a"]["kernel"] @ params["b"]["kernel"])[:, 0]

        def loss(params, extras, batch, rng):
            error = predict(params, batch["x"]) - 3 * batch["x"][:, 0] + 0.01 * jax.random.normal(rng, ())
            value = jnp.mean(error**2) * jnp.where(extras["seen"] >= self.bad_from, jnp.inf, 1.0)
            return value, ({"seen": extras["seen"] + 1}, {"error": jnp.abs(error).mean()})

        return System(init, loss, {"x": lambda params, extras, batch: predict(params, batch["x"])})


@dataclass(frozen=True)
class MeanPrediction:
    split: str = "test"

    def run(self, model):
        return {"mean": float(np.mean(model.embed_split("x", self.split)))}


def experiment(steps=20, **changes):
    made = {
        "system": Line(), "data": Data(Points(), (vector("x", 2),), batch_size=8), "phases": (Phase(steps=steps),),
        "optim": Optim(lr=0.05, schedule="constant"), "train": Train(log_every=5), "mesh": Mesh(1, 1), "evals": (MeanPrediction(),),
    } | changes  # fmt: skip
    return Experiment(**made)
