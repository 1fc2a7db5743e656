import dataclasses
import math
import os
import subprocess
import sys
from functools import cache
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from experiments import _cli
from mmrep import catalogue, modality
from mmrep.config import Mesh, Phase, Rule, Train, flatten
from mmrep.errors import ConfigError
from mmrep.nn.placement import by_rows
from mmrep.training import loop, sharding

pytestmark = pytest.mark.mesh
TREE = {
    "params": {
        "text": {"kernel": jax.ShapeDtypeStruct((8, 6), jnp.float32), "bias": jax.ShapeDtypeStruct((6,), jnp.float32)}
    },
    "opt": ({"text/kernel": jax.ShapeDtypeStruct((8, 6), jnp.float32)},),
    "step": jax.ShapeDtypeStruct((), jnp.int32),
}


def specs(*rules, mesh=None):
    mesh = mesh or Mesh(2, 2)
    return jax.tree.map(lambda s: s.spec, sharding.by_rules(TREE, rules, sharding.make_mesh(mesh)))


def test_first_matching_rule_wins_and_moments_follow_their_parameter():
    found = specs(Rule("text/kernel", "shard_dim", "model", -1), Rule(".*", "fsdp", min_size=1))
    assert found["params"]["text"]["kernel"] == P(None, "model") == found["opt"][0]["text/kernel"]
    assert found["params"]["text"]["bias"] == P("data") and found["step"] == P()


def test_fsdp_takes_the_largest_dim_that_divides_and_leaves_small_arrays_whole():
    assert specs(Rule(".*", "fsdp", min_size=1))["params"]["text"]["kernel"] == P("data", None)
    assert specs(Rule(".*", "fsdp", min_size=49))["params"]["text"]["kernel"] == P()


def test_impossible_rules_and_meshes_are_told():
    with pytest.raises(ConfigError, match=r"text/kernel \[8, 6\] has no dim -1 that divides over data=4"):
        specs(Rule(".*kernel", "shard_dim", "data", -1), mesh=Mesh(4, 1))
    with pytest.raises(ConfigError, match="asks for 64 devices, here are 4"):
        sharding.make_mesh(Mesh(64, 1))
    with pytest.raises(ConfigError, match="no axis 'expert'"):
        specs(Rule(".*", "fsdp", "expert"))


def test_hybrid_meshes_split_rows_over_two_axes_and_parameters_over_one():
    mesh = sharding.make_mesh(Mesh(2, 1, fsdp=2))
    assert dict(mesh.shape) == {"data": 2, "fsdp": 2, "model": 1} and sharding.row_parts(mesh) == 4
    assert sharding.batch_sharding(mesh).spec == P(("data", "fsdp"))
    assert sharding.by_rules(TREE, (Rule(".*", "fsdp", min_size=1),), mesh)["params"]["text"]["kernel"].spec == P(
        "fsdp", None
    )
    x = jnp.ones((8, 16))
    with jax.set_mesh(mesh):
        kept = jax.jit(lambda x: by_rows(x + 1), in_shardings=jax.NamedSharding(mesh, P(None, "fsdp")))(x)
    assert {s.data.shape for s in kept.addressable_shards} == {(2, 16)}


def test_a_free_axis_takes_the_rest():
    assert dict(sharding.make_mesh(Mesh(-1, 2)).shape) == {"data": 2, "model": 2}


FSDP = (Rule(".*", "fsdp", min_size=64),)
TENSOR = (
    Rule("(up|query|key|value)/kernel", "shard_dim", "model", -1), Rule("(down|attn/out)/kernel", "shard_dim", "model", -2), *FSDP,
)  # fmt: skip
MESHES = {4: [(4, 1, 1), (2, 2, 1)], 8: [(8, 1, 1), (4, 2, 1), (2, 2, 2)]}  # data, model, fsdp
DEVICES = int(os.environ.get("JAX_NUM_CPU_DEVICES", "4"))


@cache
def twenty_steps(data: int, model: int, fsdp: int, rules: tuple) -> SimpleNamespace:
    """The state of tiny clip, one block deep, after 20 AdamW steps on a mesh, its abstract twin and the losses."""
    shallow = ["--system.image.transformer.depth", "1", "--system.text.transformer.depth", "1"]
    config = _cli.experiment("clip", "tiny", shallow)
    optim = dataclasses.replace(config.optim, warmup=5)
    config = dataclasses.replace(
        config,
        mesh=Mesh(data, model, fsdp),
        sharding=rules,
        phases=(Phase(steps=20),),
        optim=optim,
        train=Train(ema=0.9),
    )
    mesh = sharding.make_mesh(config.mesh)
    rng, losses = np.random.default_rng(0), []
    with jax.set_mesh(mesh):
        stage = loop.make_phase_state(config, 0, mesh)
        state = stage.create(*loop.initial(config, sharding.of((stage.abstract["params"], stage.abstract["extras"]))))
        key = sharding.key(0, mesh)
        example = modality.example(config.data.modalities, 8)
        for _ in range(20):
            pixels = np.clip(example["image"] + rng.uniform(-0.2, 0.2, example["image"].shape), 0, 1).astype(np.float32)
            batch = example | {"image": pixels, "text": rng.permutation(example["text"])}
            state, metrics = stage.step(state, sharding.put_batch(batch, sharding.batch_sharding(mesh)), key)
            losses.append(float(metrics["loss"]))
    return SimpleNamespace(state=state, abstract=stage.abstract, losses=losses)


@pytest.mark.parametrize(
    ("shape", "rules"),
    [
        pytest.param(shape, rules, marks=pytest.mark.slow if rules is FSDP else ())
        for shape, rules in zip(MESHES.get(DEVICES, ()), (FSDP, TENSOR, TENSOR))
    ],
)
def test_twenty_steps_on_a_mesh_are_those_of_one_device_and_stay_sharded(shape, rules):
    one, many = twenty_steps(1, 1, 1, FSDP), twenty_steps(*shape, rules)
    assert one.losses[-1] != pytest.approx(one.losses[0], abs=1e-2)  # something was learnt
    np.testing.assert_allclose(many.losses, one.losses, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), many.state, one.state)
    # Not the values alone: what the step returned is spread as the rules say, moments and averages like their parameter.
    assert jax.tree.all(
        jax.tree.map(lambda x, a: x.sharding.is_equivalent_to(a.sharding, x.ndim), many.state, many.abstract)
    )
    data, model, fsdp = shape
    data = fsdp if fsdp > 1 else data  # over what parameters are split
    is_adam = lambda x: hasattr(x, "mu")  # noqa: E731
    (adam,) = filter(is_adam, jax.tree.leaves(many.state["opt"], is_leaf=is_adam))
    flat = flatten(many.state["params"])
    for path, x in flat.items():
        parts = data
        if rules is TENSOR and path.endswith(("up/kernel", "query/kernel", "key/kernel", "value/kernel")):
            parts, dim = model, x.ndim - 1
        elif rules is TENSOR and path.endswith(("down/kernel", "attn/out/kernel")):
            parts, dim = model, x.ndim - 2
        else:
            fits = [d for d in range(x.ndim) if x.shape[d] % data == 0]
            if x.size < 64 or not fits:
                assert x.sharding.is_fully_replicated, path
                continue
            dim = max(fits, key=lambda d: x.shape[d])
        expected = tuple(n // parts if d == dim else n for d, n in enumerate(x.shape))
        for copy in (x, adam.mu[path], adam.nu[path], many.state["ema"][path]):
            assert {s.data.shape for s in copy.addressable_shards} == {expected}, path
    largest = max(flat.values(), key=lambda x: x.size)
    assert not largest.sharding.is_fully_replicated
    held = sum(math.prod(s.data.shape) for x in flat.values() for s in x.addressable_shards[:1])
    assert held < 0.75 * sum(x.size for x in flat.values())


@pytest.mark.slow
@pytest.mark.skipif(DEVICES == 8, reason="this is the process that it starts")
def test_the_same_on_eight_devices():
    env = os.environ | {"JAX_NUM_CPU_DEVICES": "8"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:xdist", "-o", "addopts=--import-mode=importlib"]
    done = subprocess.run(
        [*command, __file__, "-k", "twenty"], env=env, capture_output=True, text=True, cwd=catalogue.ROOT, timeout=300
    )
    assert done.returncode == 0 and "3 passed" in done.stdout, done.stdout[-3000:]


@pytest.mark.parametrize("slug", ["clip", "albef", "modx"])
def test_nothing_that_a_rule_can_shard_is_left_whole(slug):
    config = dataclasses.replace(_cli.experiment(slug, "tiny"), mesh=Mesh(4, 1), sharding=FSDP, train=Train(ema=0.9))
    mesh = sharding.make_mesh(config.mesh)
    with jax.set_mesh(mesh):
        for index in (i for i, p in enumerate(config.phases) if p.run is None):
            state = loop.abstract_state(config, index, mesh)
            for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]:
                can = math.prod(leaf.shape) >= 64 and any(n % 4 == 0 for n in leaf.shape)
                assert can != leaf.sharding.is_fully_replicated, (path, leaf)
            if slug == "albef":  # its queues and its momentum teacher travel in extras
                assert any(not x.sharding.is_fully_replicated for x in jax.tree.leaves(state["extras"]))


def test_activations_keep_their_rows_whatever_the_parameters_suggest():
    mesh = sharding.make_mesh(Mesh(4, 1))
    x, w = jnp.ones((8, 16)), jnp.ones((16, 16))
    split = jax.NamedSharding(mesh, P(None, "data"))
    with jax.set_mesh(mesh):
        kept = jax.jit(lambda x, w: by_rows(x @ w), in_shardings=(split, split))(x, w)
        assert kept.sharding.spec[0] in ("data", ("data",)) and not any(kept.sharding.spec[1:])
        odd = jax.jit(lambda x: by_rows(x[:7]))(x)  # rows that do not divide are left alone
        inside = jax.shard_map(by_rows, in_specs=P("data"), out_specs=P("data"))(x)
    assert odd.shape == (7, 16) and inside.shape == x.shape
    np.testing.assert_array_equal(kept, x @ w)
    np.testing.assert_array_equal(by_rows(x), x)  # no mesh
