"""Every config at every size and variant builds, and its loss keeps the contract; found by shapes, nothing is computed."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from generic.shared import configs, every_system

from mmrep import modality
from mmrep.config import Mesh, to_json
from mmrep.training import sharding

pytestmark = pytest.mark.spec


def to_text(config: Any) -> str:
    return json.dumps(to_json(config), sort_keys=True)


@every_system
def test_every_config_builds_and_its_loss_keeps_the_contract(slug):
    # Sizes and variants that differ only in data, steps or optimiser are traced once.
    different = {
        (to_text(c.system), *(to_text(p.system) for p in c.phases), c.data.modalities): (name, c)
        for name, c in configs(slug).items()
    }
    one_device = sharding.make_mesh(Mesh(1, 1))
    for name, config in different.values():
        divisors = (getattr(config.system, "large_batch", None), "micro_batches"), (config.system, "parts")
        rows = max(4, *(n for part, name in divisors if isinstance(n := getattr(part, name, 1), int)))
        batch = jax.eval_shape(
            lambda m=config.data.modalities, n=rows: {k: jnp.asarray(v) for k, v in modality.example(m, n).items()}
        )
        params, extras = jax.eval_shape(config.system.build().init, jax.random.key(0), batch)
        systems = {to_text(s): s for s in (p.system or config.system for p in config.phases if p.run is None)}
        for system in systems.values():
            with jax.set_mesh(one_device):  # a ring needs a mesh
                value, (kept, metrics) = jax.eval_shape(system.build().loss, params, extras, batch, jax.random.key(0))
            assert value.shape == () and value.dtype == jnp.float32, name
            same = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)  # noqa: E731
            assert same(kept) == same(extras), name
            assert all(m.shape == () for m in metrics.values()), name
