"""The generic tests are not vacuous: each fails when what it guards is broken."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from generic import shared, test_mesh, test_spec, test_step

from mmrep.data import pipeline
from mmrep.nn import heads
from mmrep.nn.encoders import text
from mmrep.training import loop, state

pytestmark = pytest.mark.mesh


@pytest.fixture
def fresh():
    """The shared state is made anew with the mutation, and again without it."""
    shared.one_step.cache_clear()
    yield
    shared.one_step.cache_clear()


@pytest.fixture
def broken(monkeypatch):
    """broken("align", image=f) -> replaces infer functions of the shared state of a system."""

    def replace(slug, **functions):
        m = shared.one_step(slug)
        system = m.system._replace(infer={**m.system.infer, **functions})
        changed = dataclasses.replace(m, stage=m.stage._replace(system=system))
        monkeypatch.setattr(shared, "one_step", lambda slug: changed)
        shared._programs.clear()

    yield replace
    shared._programs.clear()


def test_a_broken_padding_mask_is_noticed(monkeypatch, broken):
    broken("align")
    monkeypatch.setattr(text, "padding_mask", lambda valid: jnp.ones_like(valid)[:, None, None, :])
    with pytest.raises(AssertionError):
        test_step.test_infer_ignores_padding("align")


def test_an_embedding_that_depends_on_other_rows_is_noticed(broken):
    image = shared.one_step("align").system.infer["image"]
    broken("align", image=lambda p, e, b: image(p, e, b) - image(p, e, b).mean(0))
    with pytest.raises(AssertionError):
        test_step.test_infer_rows_are_independent_of_each_other("align")


def test_an_embedding_that_depends_on_another_modality_is_noticed(broken):
    image = shared.one_step("align").system.infer["image"]
    broken("align", image=lambda p, e, b: image(p, e, b) + b.get("text", jnp.zeros((1, 1))).mean(1, keepdims=True))
    with pytest.raises(AssertionError):
        test_step.test_infer_of_one_modality_needs_and_uses_no_other("align")


def test_data_that_begins_again_at_a_resume_is_noticed(monkeypatch, tmp_path):
    shared.one_step("align")
    batches = pipeline.train_batches
    monkeypatch.setattr(
        pipeline, "train_batches", lambda split, size, seed, start=0, process=(0, 1): batches(split, size, seed)
    )
    with pytest.raises(AssertionError):
        test_step.test_a_restored_state_takes_the_same_step_without_compiling("align", tmp_path)


def test_a_loss_that_differs_between_devices_is_noticed(monkeypatch):
    m = shared.one_step("align")

    def uneven(params, extras, batch, rng):
        value, rest = m.system.loss(params, extras, batch, rng)
        return value * (1 + 1e-3 * (jax.sharding.get_abstract_mesh().shape.get("data", 1) > 1)), rest

    class Uneven:
        def build(self):
            return m.system._replace(loss=uneven)

    changed = dataclasses.replace(m, config=dataclasses.replace(m.config, system=Uneven()))
    monkeypatch.setattr(shared, "one_step", lambda slug: changed)
    with pytest.raises(AssertionError):
        test_mesh.test_data_and_model_parallel_equal_one_device("align")


def test_a_constant_temperature_is_noticed(monkeypatch, fresh):
    plain = heads.LogScale.__call__
    monkeypatch.setattr(heads.LogScale, "__call__", lambda self: jax.lax.stop_gradient(plain(self)))
    with pytest.raises(AssertionError, match="scale/log_scale"):
        test_step.test_one_step_moves_what_is_trainable_and_nothing_else("align")


def test_a_frozen_encoder_that_learns_is_noticed(monkeypatch, fresh):
    make_step, create = state.make_step, state.create
    monkeypatch.setattr(state, "make_step", lambda system, tx, _, config: make_step(system, tx, (".*",), config))
    monkeypatch.setattr(state, "create", lambda params, extras, tx, _, ema: create(params, extras, tx, (".*",), ema))
    with pytest.raises(AssertionError):
        test_step.test_one_step_moves_what_is_trainable_and_nothing_else("cwcl")


def test_a_weakly_typed_leaf_is_noticed(monkeypatch):
    initial = loop.initial

    def weak(config):
        params, extras = initial(config)
        return params | {"scale": {"log_scale": jnp.asarray(2.0)}}, extras

    monkeypatch.setattr(loop, "initial", weak)
    with pytest.raises(AssertionError, match="weakly typed"):
        test_spec.test_the_parameter_tree_is_the_stored_one("align")


def test_two_ids_with_one_embedding_are_noticed(monkeypatch):
    m = shared.one_step("align")
    (limit,) = (x.vocab - 2 for x in m.config.data.modalities if x.kind == "text")
    plain = shared.OneStep.step

    def clipped(self, state, batch):
        return plain(self, state, {**batch, "text": np.minimum(batch["text"], limit)})

    monkeypatch.setattr(shared.OneStep, "step", clipped)
    with pytest.raises(AssertionError, match="give the same loss"):
        test_step.test_every_id_of_a_vocabulary_has_its_own_embedding("align")
