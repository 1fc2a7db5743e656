"""The generic tests are not vacuous: each breaks when the thing it guards is broken."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
import test_systems as generic

from mmrep.data import pipeline
from mmrep.nn import heads
from mmrep.nn.encoders import text
from mmrep.training import loop, state


@pytest.fixture
def fresh():
    """Systems are built anew with the mutation, and again without it."""
    made = generic.made
    made.cache_clear()
    yield
    made.cache_clear()


def test_a_broken_padding_mask_is_noticed(monkeypatch):
    generic.made("align")
    monkeypatch.setattr(text, "padding_mask", lambda valid: jnp.ones_like(valid)[:, None, None, :])
    with pytest.raises(AssertionError):
        generic.test_infer_does_not_see_padding("align")


def test_a_dead_temperature_is_noticed(monkeypatch, fresh):
    plain = heads.LogScale.__call__
    monkeypatch.setattr(heads.LogScale, "__call__", lambda self: jax.lax.stop_gradient(plain(self)))
    with pytest.raises(AssertionError, match="scale/log_scale"):
        generic.test_one_step_moves_what_is_trainable_and_nothing_else("align")


def test_a_frozen_tower_that_learns_is_noticed(monkeypatch, fresh):
    step = state.make_step
    monkeypatch.setattr(state, "make_step", lambda system, tx, trainable, config: step(system, tx, (".*",), config))
    create = state.create
    monkeypatch.setattr(
        state, "create", lambda params, extras, tx, trainable, ema: create(params, extras, tx, (".*",), ema)
    )
    with pytest.raises(AssertionError):
        generic.test_one_step_moves_what_is_trainable_and_nothing_else("cwcl")


def test_an_embedding_that_looks_at_its_neighbours_is_noticed(monkeypatch):
    m = generic.made("align")
    leaky = {name: lambda p, e, b, f=f: f(p, e, b) - f(p, e, b).mean(0) for name, f in m.system.infer.items()}
    broken = type(m)(**vars(m) | {"system": m.system._replace(infer=leaky)})
    monkeypatch.setattr(generic, "made", lambda slug: broken)
    with pytest.raises(AssertionError):
        generic.test_infer_rows_are_independent_of_each_other("align")


def test_a_resume_that_starts_the_data_anew_is_noticed(monkeypatch, tmp_path):
    batches = pipeline.train_batches
    monkeypatch.setattr(
        pipeline, "train_batches", lambda split, size, seed, start=0, process=(0, 1): batches(split, size, seed)
    )
    with pytest.raises(AssertionError):
        generic.test_training_resumes_bit_for_bit_and_compiles_once("align", tmp_path)


def test_a_weakly_typed_leaf_is_noticed(monkeypatch):
    initial = loop.initial

    def weak(config):
        params, extras = initial(config)
        return params | {"scale": {"log_scale": jnp.asarray(2.0)}}, extras

    monkeypatch.setattr(loop, "initial", weak)
    with pytest.raises(AssertionError, match="weakly typed"):
        generic.test_parameter_tree_is_the_golden_one("align")


def test_a_loss_that_differs_between_devices_is_noticed(monkeypatch, fresh):
    config = generic.tiny("align")
    m = generic.made("align")
    loss = m.system.loss

    def uneven(params, extras, batch, rng):
        value, rest = loss(params, extras, batch, rng)
        return value * (1 + 1e-3 * (jax.sharding.get_abstract_mesh().shape.get("data", 1) > 1)), rest

    class Uneven:
        def build(self):
            return m.system._replace(loss=uneven)

    monkeypatch.setattr(
        generic, "made", lambda slug: type(m)(**vars(m) | {"config": dataclasses.replace(config, system=Uneven())})
    )
    with pytest.raises(AssertionError):
        generic.test_sharded_training_equals_one_device("align", (4, 1))
