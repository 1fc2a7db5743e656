"""FLOPs, memory and traffic of a step, held to arithmetic that can be done by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
import toy
from jax.sharding import PartitionSpec as P

from experiments import _cli
from mmrep.config import Mesh, Rule, Train, flatten
from mmrep.errors import ConfigError
from mmrep.training import collectives, cost, sharding
from mmrep.training.collectives import Collective


def compiled(config):
    mesh = sharding.make_mesh(config.mesh)
    with jax.set_mesh(mesh):
        step = cost.abstract_step(config, mesh)
        traced = step.stage.step.trace(*step.arguments)
        return step.arguments[0], traced.jaxpr.jaxpr, traced.lower().compile()


def clip(mesh, *rules, batch=256):
    shallow = [a for t in ("image", "text") for a in (f"--system.{t}.transformer.depth", "1")]
    config = _cli.experiment("clip", "tiny", shallow)
    return dataclasses.replace(
        config, mesh=Mesh(*mesh), sharding=rules, data=dataclasses.replace(config.data, batch_size=batch)
    )


@pytest.mark.mesh
def test_a_data_parallel_step_sums_its_gradients():
    state, jaxpr, program = compiled(clip((4, 1), Rule(".*", "replicate")))
    sent = collectives.traffic(collectives.collectives(program.as_text()))
    gradients = 2 * 3 / 4 * 4 * cost.parameters(state)
    embeddings = 3 / 4 * 4 * 256 * 32  # one of the two matrices is gathered, and its gradient scattered
    # Besides: metrics, and the columns' maxima and sums of the softmax.
    assert gradients <= sent["all-reduce"] < 1.05 * gradients
    assert sent["all-gather"] == pytest.approx(embeddings, rel=0.1)
    assert sent["reduce-scatter"] == pytest.approx(embeddings, rel=0.1)
    assert "all-to-all" not in sent
    # All devices together do what XLA counts for one of them four times, element-wise work aside.
    assert 0.8 < cost.flops(jaxpr) / (4 * program.cost_analysis()["flops"]) <= 1.0
    assert cost.bytes_per_device(state["params"]) == 4 * cost.parameters(state)


@pytest.mark.mesh
def test_an_fsdp_step_gathers_its_parameters_and_scatters_their_gradients():
    state, _, program = compiled(clip((4, 1), Rule(".*", "fsdp", min_size=64)))
    sent = collectives.traffic(collectives.collectives(program.as_text()))
    shared = sum(4 * x.size for x in flatten(state["params"]).values() if not x.sharding.is_fully_replicated)
    expected = 3 / 4 * (shared + 4 * 256 * 32)
    # Each parameter once: without rematerialisation the gathered ones are kept for the backward pass.
    assert sent["all-gather"] == pytest.approx(expected, rel=0.02)
    assert sent["reduce-scatter"] == pytest.approx(expected, rel=0.02)
    # Activations stay where they are: without by_rows of mmrep.nn.placement this is many times the parameters.
    assert sent["all-reduce"] < 0.1 * expected and "all-to-all" not in sent
    assert cost.bytes_per_device(state["params"]) == 4 * cost.parameters(state) - 3 * shared // 4


@pytest.mark.mesh
def test_accumulation_leaves_the_rows_of_a_batch_on_their_devices():
    """Micro-batches are strided, so the only traffic is the sum of the gradients, once a micro-batch."""
    config = toy.experiment(1, system=toy.Line(width=64), mesh=Mesh(4, 1))
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, batch_size=256))
    sent = {}
    for parts in (1, 4):
        program = compiled(dataclasses.replace(config, train=Train(accumulate=parts)))[2]
        sent[parts] = collectives.traffic(collectives.collectives(program.as_text()))
    assert set(sent[1]) == set(sent[4]) == {"all-reduce"}
    assert sent[4]["all-reduce"] == pytest.approx(4 * sent[1]["all-reduce"], rel=0.05)


@pytest.mark.mesh
def test_loops_count_by_their_length():
    mesh = sharding.make_mesh(Mesh(4, 1))
    rows, x, w = jax.NamedSharding(mesh, P("data")), jnp.ones((8, 16)), jnp.ones((5, 16, 16))

    def f(x, w):
        def body(c, w):
            c = jnp.tanh(c @ w)
            return c, jax.lax.with_sharding_constraint(c, P()).sum()

        return jax.lax.scan(body, x, w)

    with jax.set_mesh(mesh):
        traced = jax.jit(f, in_shardings=(rows, jax.NamedSharding(mesh, P()))).trace(x, w)
        found = collectives.collectives(traced.lower().compile().as_text())
    assert cost.flops(traced.jaxpr.jaxpr) == 5 * 2 * 8 * 16 * 16
    assert collectives.traffic(found).get("all-gather", 0) + collectives.traffic(found).get("all-reduce", 0) > 0
    assert {c.times for c in found} == {5}


@pytest.mark.mesh
def test_flops_of_the_primitives():
    def flops(f, *args):
        return cost.flops(jax.make_jaxpr(f)(*args).jaxpr)

    a, b = jnp.ones((3, 4, 5)), jnp.ones((3, 5, 6))
    assert flops(jnp.matmul, a, b) == 2 * 3 * 4 * 5 * 6
    image, kernel = jnp.ones((2, 8, 8, 3)), jnp.ones((3, 3, 3, 7))
    conv = lambda x, k: jax.lax.conv_general_dilated(x, k, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))  # noqa: E731
    assert flops(conv, image, kernel) == 2 * (2 * 4 * 4 * 7) * (3 * 3 * 3)
    remat = lambda x: jax.grad(jax.checkpoint(lambda x: jnp.tanh(x @ x).sum()))(x)  # noqa: E731
    assert flops(remat, jnp.ones((4, 4))) == 4 * 2 * 4**3  # forward, again, and two products backward
    mesh = sharding.make_mesh(Mesh(4, 1))
    spread = jax.shard_map(lambda x: x @ x.T, mesh=mesh, in_specs=P("data"), out_specs=P("data"))
    assert flops(spread, jnp.ones((8, 5))) == 4 * 2 * 2 * 2 * 5


HLO = """
%body (p: (f32[8,4], f32[8,4])) -> (f32[8,4], f32[8,4]) {
  %p = (f32[8,4]{1,0}, f32[8,4]{1,0}) parameter(0)
  %x = f32[8,4]{1,0} get-tuple-element(%p), index=0
  %g = bf16[16,4]{1,0} all-gather(%x), replica_groups=[4,2]<=[8], dimensions={0}
  ROOT %t = (f32[8,4]{1,0}, f32[8,4]{1,0}) tuple(%x, %x)
}

%fused (q: f32[8,4]) -> f32[2,4] {
  %q = f32[8,4]{1,0} parameter(0)
  ROOT %s = f32[2,4]{1,0} dynamic-slice(%q, %i, %j), dynamic_slice_sizes={2,4}
}

ENTRY %main (a: f32[8,4]) -> f32[2,4] {
  %a = f32[8,4]{1,0} parameter(0)
  %w = (f32[8,4]{1,0}, f32[8,4]{1,0}) while(%a), condition=%c, body=%body, backend_config={"known_trip_count":{"n":"7"}}
  %r = (f32[8,4]{1,0}, s32[]) all-reduce(%a, %n), replica_groups={{0,1,2,3}}, to_apply=%add
  %e0 = f32[8,4]{1,0} get-tuple-element(%r), index=0
  %e1 = s32[] get-tuple-element(%r), index=1
  %u = f32[8,4]{1,0} collective-permute(%a), source_target_pairs={{0,1},{1,0}}
  %z = f32[8,4]{1,0} all-to-all(%u), replica_groups=mesh['x'=4,'y'=2] {'x'}
  %one = f32[8,4]{1,0} all-reduce(%a), replica_groups={{0},{1}}, to_apply=%add
  ROOT %f = f32[2,4]{1,0} fusion(%e0), kind=kLoop, calls=%fused
}
"""


def test_collectives_of_a_program_in_every_notation():
    assert collectives.collectives(HLO) == [
        Collective("all-gather", 16 * 4 * 2, 2, 7), Collective("reduce-scatter", 8 * 4 * 4 // 4, 4, 1), Collective("all-reduce", 4, 4, 1),
        Collective("collective-permute", 128, 2, 1), Collective("all-to-all", 128, 4, 1),
    ]  # fmt: skip
    assert collectives.traffic(collectives.collectives(HLO)) == {
        "all-reduce": 2 * 3 / 4 * 4, "all-gather": 7 * 128 / 2, "reduce-scatter": 3 / 4 * 128, "all-to-all": 3 / 4 * 128,
        "collective-permute": 128,
    }  # fmt: skip


@pytest.mark.mesh
def test_a_batch_that_does_not_divide_is_an_error():
    with pytest.raises(ConfigError, match="data.batch_size 6 does not divide over mesh.data x train.accumulate = 4"):
        cost.abstract_step(clip((4, 1), batch=6), sharding.make_mesh(Mesh(4, 1)))
