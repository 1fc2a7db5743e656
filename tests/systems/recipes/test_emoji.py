"""The main job: what its config promises about data, augmentation and evaluation; and the pairs it contrasts."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.recipes import emoji
from mmrep import modality
from mmrep.data import pipeline
from mmrep.errors import ConfigError
from mmrep.evals.suite import Retrieval, on_split
from mmrep.losses.contrastive import info_nce, pairwise_info_nce, symmetric_info_nce
from mmrep.model import Model
from mmrep.systems.contrastive.symile import Config
from mmrep.training import loop


@pytest.fixture(scope="module")
def tiny():
    return emoji.get_config("tiny")


@pytest.fixture(scope="module")
def tokenize(tiny):
    return pipeline.load_tokenizer(tiny.data, pipeline.fit_tokenizer(tiny.data, [tiny.data.source], None))


@pytest.fixture(scope="module")
def model(tiny, tokenize):
    params, extras = loop.initial(tiny)
    return Model(tiny, params, extras, tokenize=tokenize)


def test_splits_share_no_family_and_no_concept(tiny):
    source = tiny.data.source
    parts = {s: source.open(s) for s in ("train", "val", "test", "flags_train")}
    for field in ("family", "id"):
        seen = {s: {r[field] for r in rows} for s, rows in parts.items()}
        for a in seen:
            for b in seen:
                assert a == b or not seen[a] & seen[b], (field, a, b)


def test_what_is_called_unseen_is_not_in_training(tiny):
    small = emoji.get_config("small").data.source
    assert small.unseen_languages == ("pt", "id")
    record = tiny.data.source.open("train")[0]
    rng = np.random.default_rng(0)
    views = [small.view(record, rng) for _ in range(50)]
    fields = {k for v in views for k in v}
    assert not {"text_pt", "text_id", "speech_en_unseen_voice"} & fields
    assert {v["text"] for v in views} > {record["names"]["en"]}
    assert not {v["text"] for v in views} & {record["names"][u] for u in ("pt", "id")} - set(
        record["names"][s] for s in small.languages
    )
    shown = small.view(tiny.data.source.open("test")[0], None)
    for e in emoji.EVALS:
        if isinstance(e, Retrieval):
            assert {f for _, f in (*e.query_fields, *e.target_fields)} <= set(shown), e.label


def test_training_batches_are_valid_and_a_function_of_seed_and_step(tiny, tokenize):
    split = pipeline.open_split(tiny.data, tokenize, "train")
    batches = pipeline.train_batches(split, 8, seed=1)
    first, second = next(batches), next(batches)
    modality.check_batch(tiny.data.modalities, first)
    assert first["image"].min() >= 0 and first["image"].max() <= 1
    assert set(first["text"][:, 0]) == {modality.BOS}
    again = next(pipeline.train_batches(split, 8, seed=1, start=1))
    assert all(np.array_equal(second[k], again[k]) for k in second)
    plain = split.entry(0, None)["image"]
    assert not np.array_equal(split.entry(0, np.random.default_rng(0))["image"], plain)


def test_evaluators_measure_held_out_families_and_each_name_differs():
    evals = emoji.get_config("small").evals
    assert {e.split for e in evals} == {"test", "flags_test"}
    assert {e.split for e in on_split(emoji.EVALS, "val")} == {"val"}
    labels = [getattr(e, "label", None) or repr(e) for e in evals]
    assert len(set(labels)) == len(labels)
    sides = {(e.query, e.target) for e in emoji.PAIRS}
    assert sides == {(a, b) for a in emoji.SIDES for b in emoji.SIDES if a != b}


def test_every_evaluator_runs_on_the_limited_set(model):
    for e in (*emoji.EVALS, *emoji.CATEGORY):
        found = e.run(model)
        assert found and all(np.isfinite(v) for v in found.values()), e


def test_only_the_named_pairs_are_contrasted():
    x, y, z = jax.random.normal(jax.random.key(0), (3, 6, 8))
    x, y, z = (v / jnp.linalg.norm(v, axis=-1, keepdims=True) for v in (x, y, z))
    all_pairs = symmetric_info_nce(x, y, 5.0) + symmetric_info_nce(x, z, 5.0) + symmetric_info_nce(y, z, 5.0)
    np.testing.assert_allclose(pairwise_info_nce([x, y, z], 5.0), all_pairs, rtol=1e-6)
    two = pairwise_info_nce([x, y, z], 5.0, [(0, 1), (1, 2)])
    np.testing.assert_allclose(two, all_pairs - symmetric_info_nce(x, z, 5.0), rtol=1e-5)
    logits = 5.0 * x @ y.T
    by_hand = 0.5 * (info_nce(logits, smoothing=0.2) + info_nce(logits.T, smoothing=0.2))
    np.testing.assert_allclose(pairwise_info_nce([x, y], 5.0, smoothing=0.2), by_hand, rtol=1e-6)


def test_a_tower_in_no_pair_gets_no_gradient(tiny):
    system = dataclasses.replace(tiny.system, pairs=(("image", "text"),)).build()
    batch = modality.example(tiny.data.modalities, 4)
    params, extras = jax.jit(system.init)(jax.random.key(0), batch)
    grads = jax.jit(jax.grad(lambda p: system.loss(p, extras, batch, jax.random.key(1))[0]))(params)
    size = {k: float(sum(jnp.abs(g).sum() for g in jax.tree.leaves(grads[k]))) for k in emoji.SIDES}
    assert size["speech"] == 0 and size["image"] > 0 and size["text"] > 0


def test_pairs_and_smoothing_are_checked(tiny):
    for wrong in ({"pairs": (("image", "smell"),)}, {"smoothing": 1.0}):
        with pytest.raises(ConfigError, match=rf"system\.{next(iter(wrong))}"):
            Config(tiny.system.encoders, 32, "pairwise", **wrong).build()
