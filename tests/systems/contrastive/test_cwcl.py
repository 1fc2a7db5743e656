"""CWCL by hand and against plain loops, and what each safeguard is for (there is no official code)."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrep import modality
from mmrep.errors import ConfigError
from mmrep.losses.contrastive import info_nce, similarity, symmetric_info_nce
from mmrep.nn.config import TransformerConfig
from mmrep.nn.encoders.audio import AudioEncoder
from mmrep.nn.encoders.text import TextEncoder
from mmrep.systems.contrastive.cwcl import Config, model
from mmrep.systems.contrastive.cwcl.model import weighted_info_nce

TINY = Config(
    TextEncoder(TransformerConfig(width=16, depth=1, heads=2), vocab=32, length=8),
    AudioEncoder(
        TransformerConfig(width=16, depth=1, heads=2), sample_rate=4000, n_fft=128, hop=64, n_mels=8, strides=(2,)
    ),
    8,
    intents=4,
)
PARTS = (modality.text("text", 8, 32), modality.audio("speech", 800, 4000), modality.label("intent", 4))
HAND_P = jnp.array([[1.0, 0.0], [0.6, 0.8]])
HAND_Q = jnp.array([[0.8, 0.6], [0.0, 1.0]])
cwcl_loss = jax.jit(model.cwcl_loss, static_argnames="kernel")
intra_modal_weights = jax.jit(model.intra_modal_weights, static_argnames="kernel")


def unit(n=6, dim=4, seed=0):
    x = np.random.default_rng(seed).standard_normal((n, dim))
    return jnp.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), jnp.float32)


def test_hand_check():
    np.testing.assert_allclose(intra_modal_weights(HAND_P), [[1.0, 0.8], [0.8, 1.0]], atol=1e-6)
    logits = 10.0 * similarity(HAND_P, HAND_Q)
    one = info_nce(logits.T).mean()
    assert float(one) == pytest.approx(0.8921181, abs=1e-6)
    assert float(weighted_info_nce(logits, intra_modal_weights(HAND_P)).mean()) == pytest.approx(2.3143403, abs=1e-6)
    assert float(cwcl_loss(HAND_P, HAND_Q, 10.0, (HAND_P, HAND_P)).mean()) == pytest.approx(3.2064584, abs=2e-6)


@pytest.mark.parametrize("kernel", [None, 0.3])
def test_against_a_loop(kernel):
    p, q, rows, scale = unit(), unit(seed=1), unit(seed=2), 7.0
    cosine = np.asarray(rows, np.float64) @ np.asarray(p).T
    w = cosine / 2 + 0.5 if kernel is None else np.exp((cosine - 1) / kernel)
    np.fill_diagonal(w, 1.0)
    logits, expected = scale * np.asarray(p, np.float64) @ np.asarray(q).T, np.zeros(6)
    for i in range(6):
        # Each row over its own sum: dividing by N would make the size of the loss depend on the data.
        for j in range(6):
            expected[i] -= w[i, j] / w[i].sum() * (logits[i, j] - np.log(np.exp(logits[i]).sum()))
        expected[i] -= logits[i, i] - np.log(np.exp(logits[:, i]).sum())
    np.testing.assert_allclose(cwcl_loss(p, q, scale, (rows, p), kernel), expected, rtol=1e-5)


def test_without_geometry_it_is_the_plain_loss():
    p, q = unit(32, 16), unit(32, 16, 1)
    np.testing.assert_allclose(cwcl_loss(p, q, 14.3).mean(), 2 * symmetric_info_nce(p, q, 14.3).mean(), atol=1e-5)


def test_no_gradient_reaches_the_weights():
    p, q = unit(), unit(seed=1)
    through, constant = (
        jax.jit(jax.grad(lambda p, geometry=g: model.cwcl_loss(p, q, 7.0, geometry(p)).sum()))(p)
        for g in (lambda x: (x, x), lambda x: (jax.lax.stop_gradient(x),) * 2)
    )
    np.testing.assert_array_equal(through, constant)
    leak = jax.grad(lambda p: (similarity(p, p) / 2 + 0.5).sum())(p)
    assert float(jnp.abs(leak).max()) > 0  # what the stop prevents


def test_gradient_vanishes_where_the_softmax_is_the_target():
    w = intra_modal_weights(unit(5, 3))
    slope = jax.jit(jax.grad(lambda logits: weighted_info_nce(logits, w).sum()))
    assert float(jnp.abs(slope(jnp.log(w))).max()) < 1e-6
    assert float(jnp.abs(slope(2 * jnp.log(w))).max()) > 1e-3


def test_equal_texts_give_a_uniform_target_and_no_nan():
    p, q = jnp.tile(unit(1), (6, 1)), unit(seed=1)
    np.testing.assert_allclose(intra_modal_weights(p), 1.0, atol=1e-6)
    total = jax.value_and_grad(lambda q: weighted_info_nce(7.0 * similarity(p, q), intra_modal_weights(p)).mean())
    value, gradient = total(q)
    assert float(value) >= np.log(6) and np.isfinite(gradient).all()


def test_weights_stay_in_range_with_rounded_vectors():
    p = (unit() * 1.01).astype(jnp.bfloat16)
    for kernel in (None, 0.1):
        w = np.asarray(intra_modal_weights(jnp.concatenate([p, -p]), kernel=kernel))
        assert w.min() >= 0 and w.max() <= 1 and (w.diagonal() == 1).all()
    np.testing.assert_allclose(intra_modal_weights(HAND_P, kernel=0.1)[0, 1], np.exp(-4), rtol=1e-5)


def test_a_missing_row_leaves_rows_and_columns():
    p, q = unit(), unit(seed=1)
    valid = jnp.arange(6) != 2
    rest, gone = np.flatnonzero(valid), p.at[2].set(0.0)
    found = cwcl_loss(gone, q, 7.0, (gone, gone), None, valid)
    np.testing.assert_allclose(found[rest], cwcl_loss(p[rest], q[rest], 7.0, (p[rest], p[rest])), rtol=1e-5)
    assert float(found[2]) == 0
    assert float(jnp.abs(found[rest] - cwcl_loss(p, q, 7.0, (p, p))[rest]).max()) > 1e-2


def test_one_pair_has_no_negatives():
    with pytest.raises(ConfigError, match="no negatives"):
        cwcl_loss(unit(1), unit(1), 1.0)


@pytest.fixture(scope="module")
def made():
    batch = jax.tree.map(jnp.asarray, modality.example(PARTS, 8))
    config = replace(TINY, weights="untrained")
    system = config.build()
    params, extras = jax.jit(system.init)(jax.random.key(0), batch)
    p, q, other = jax.jit(
        lambda params, extras: [
            *(system.infer[n](params, {}, batch) for n in ("text", "speech")),
            system.infer["text"](params | extras, {}, batch),
        ]
    )(params, extras)
    return params, extras, batch, p, q, other


def value(config, params, extras, batch):
    return float(jax.jit(config.build().loss)(params, extras, batch, jax.random.key(0))[0])


@pytest.mark.parametrize("weights", ["frozen", "permuted", "untrained"])
def test_the_geometry_of_each_kind_of_weights(made, weights):
    params, extras, batch, p, q, other = made
    geometry = {"frozen": (p, p), "permuted": (jnp.roll(p, 1, 0), p), "untrained": (other, other)}
    expected = {k: float(cwcl_loss(p, q, 1 / 0.07, g).mean()) for k, g in geometry.items()}
    assert min(abs(expected["frozen"] - expected[k]) for k in ("permuted", "untrained")) > 1e-4
    found = value(replace(TINY, weights=weights), params, extras, batch)
    assert found == pytest.approx(expected[weights], abs=1e-5)


def test_the_first_phase_classifies_texts(made):
    params, _, batch, *_ = made
    system = replace(TINY, objective="intent").build()
    logits = np.asarray(jax.jit(system.infer["classify"])(params, {}, batch))
    expected = np.log(np.exp(logits).sum(1)) - logits[np.arange(8), batch["intent"]]
    assert value(replace(TINY, objective="intent"), params, {}, batch) == pytest.approx(expected.mean(), rel=1e-5)


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"intents": 1}, "system.intents is 1"),
        ({"kernel": 0.0}, "system.kernel is 0.0"),
        ({"temperature": -1.0}, "system.temperature is -1.0"),
        ({"dim": 0}, "system.dim is 0"),
    ],
)
def test_impossible_configs_are_explained(fields, words):
    with pytest.raises(ConfigError, match=words):
        replace(TINY, **fields).build()
