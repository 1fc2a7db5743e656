"""A step on simulated devices equals the step on one device."""

import dataclasses

import jax
import numpy as np
import pytest
from generic import shared
from generic.shared import every_system, of_the_panel

from mmrep.config import Mesh, Rule, flatten
from mmrep.training import loop, sharding

pytestmark = pytest.mark.mesh
FSDP = (Rule(".*kernel", "fsdp", min_size=64),)
TENSOR = (Rule(".*kernel", "shard_dim", "model", -1),)
# Where the last axis of some kernel does not divide over two devices.
ODD = (Rule(".*kernel", "fsdp", "model", min_size=64),)


def stage_on(config, mesh_config, rules):
    mesh = sharding.make_mesh(mesh_config)
    with jax.set_mesh(mesh):
        return loop.make_phase_state(dataclasses.replace(config, mesh=mesh_config, sharding=rules), 0, mesh)


def assert_sharded_equals_one_device(m, mesh_config, rules):
    stage = stage_on(m.config, mesh_config, rules)
    after, metrics = shared.take_step(stage, m.before, m.batch)
    sharded = [x for x in jax.tree.leaves(after["params"]) if not x.sharding.is_fully_replicated]
    assert sharded, "no parameter is sharded: the test would compare nothing"
    np.testing.assert_allclose(metrics["loss"], m.metrics["loss"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(metrics["grad_norm"], m.metrics["grad_norm"], rtol=2e-4, atol=1e-5)
    start, one, many = (flatten(jax.tree.map(np.asarray, tree["params"])) for tree in (m.before, m.after, after))
    for path, value in start.items():
        gradient, sharded_gradient = ((value - x[path]) / shared.RATE for x in (one, many))
        rounding = 4 * np.spacing(np.abs(value).max()) / shared.RATE  # of the parameter that the gradient is read off
        atol = 1e-4 * max(np.abs(gradient).max(), 1e-3) + rounding
        np.testing.assert_allclose(sharded_gradient, gradient, rtol=1e-3, atol=atol, err_msg=path)


@every_system
def test_data_and_model_parallel_equal_one_device(slug):
    m = shared.one_step(slug)
    kernels = [v for k, v in flatten(m.before["params"]).items() if k.endswith("kernel")]
    assert_sharded_equals_one_device(m, Mesh(2, 2), ODD if any(k.shape[-1] % 2 for k in kernels) else TENSOR)


@pytest.mark.slow
@of_the_panel
def test_fully_sharded_data_parallel_equals_one_device(slug):
    assert_sharded_equals_one_device(shared.one_step(slug), Mesh(4, 1), FSDP)
