import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from mmrep.config import Mesh, Rule
from mmrep.errors import ConfigError
from mmrep.train import sharding

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


def test_a_free_axis_takes_the_rest():
    assert dict(sharding.make_mesh(Mesh(-1, 2)).shape) == {"data": 2, "model": 2}
