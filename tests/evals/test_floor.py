"""Floors: the untrained network is the system's own start, the raw input its patches."""

from dataclasses import dataclass

import jax
import numpy as np

from mmrep import modality
from mmrep.config import Data, Experiment
from mmrep.evals.floor import Floor, raw_tokens
from mmrep.model import Model
from mmrep.nn.maps import DenseModality
from mmrep.system import System


@dataclass(frozen=True)
class First:
    """The first number of the first token of a picture."""

    def run(self, model):
        return {
            "first": float(
                np.asarray(model.call("image_tokens", image=[np.full((4, 4, 1), 0.75, np.float32)])[0])[0, 0, 0]
            )
        }


def test_floors_of_a_trained_system():
    def init(rng, batch):
        return {"w": jax.random.normal(rng, ())}, {}

    def tokens(params, extras, batch):
        return batch["image"].reshape(len(batch["image"]), 1, -1) * params["w"], np.ones((1, 1), bool)

    system = System(init, None, {"image_tokens": tokens})
    experiment = Experiment(system, Data(None, (modality.image("image", 4, 1),)))
    map = DenseModality("image", (4, 4), 2, std=(0.25,))
    model = Model(experiment, {"w": 100.0}, {}, system=system)
    found = Floor(First(), (("image_tokens", (map,)),)).run(model)
    start = float(jax.random.normal(jax.random.key(experiment.train.seed), ()))
    assert found.keys() == {"untrained first", "raw first"} and First().run(model)["first"] == 75.0
    np.testing.assert_allclose([found["untrained first"], found["raw first"]], [0.75 * start, 1.0], rtol=1e-5)


def test_raw_tokens_are_the_standardised_patches_and_their_squares():
    map = DenseModality("image", (4, 4), 2, std=(0.25,))
    x, valid = raw_tokens((map, map))({}, {}, {"image": np.full((2, 4, 4, 1), 0.0, np.float32)})
    assert x.shape == (2, 4, 16) and valid.all()
    assert (x[..., :8] == -2).all() and (x[..., 8:] == 4).all()
