"""CWCL: by hand, against plain loops, and what each safeguard is for (there is no official code)."""

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
from mmrep.systems.contrastive.cwcl import Config, cwcl_loss, intra_modal_weights

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


def unit(n=6, dim=4, seed=0):
    x = np.random.default_rng(seed).standard_normal((n, dim))
    return jnp.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), jnp.float32)


def plain(logits):
    return info_nce(logits.T)


def test_hand_check():
    w = intra_modal_weights(HAND_P)
    np.testing.assert_allclose(w, [[1.0, 0.8], [0.8, 1.0]], atol=1e-6)
    both = float(cwcl_loss(HAND_P, HAND_Q, 10.0, w).mean())
    one = float(plain(10.0 * similarity(HAND_P, HAND_Q)).mean())
    assert one == pytest.approx(0.8921181, abs=1e-6)
    assert both - one == pytest.approx(2.3143403, abs=1e-6)
    assert both == pytest.approx(3.2064584, abs=2e-6)


def test_against_a_loop():
    p, q, scale = unit(), unit(seed=1), 7.0
    w, logits = np.asarray(intra_modal_weights(p), np.float64), scale * np.asarray(p, np.float64) @ np.asarray(q).T
    expected = np.zeros(6)
    for i in range(6):
        # Each row over its own sum: dividing by N would make the size of the loss depend on the data.
        for j in range(6):
            expected[i] -= w[i, j] / w[i].sum() * (logits[i, j] - np.log(np.exp(logits[i]).sum()))
        expected[i] -= logits[i, i] - np.log(np.exp(logits[:, i]).sum())
    np.testing.assert_allclose(cwcl_loss(p, q, scale, jnp.asarray(w, jnp.float32)), expected, rtol=1e-5)


def test_identity_weights_are_the_plain_loss():
    p, q = unit(32, 16), unit(32, 16, 1)
    found = cwcl_loss(p, q, 14.3, jnp.eye(32))
    np.testing.assert_allclose(found.mean(), 2 * symmetric_info_nce(p, q, 14.3).mean(), atol=1e-5)


@pytest.fixture(scope="module")
def made():
    batch = jax.tree.map(jnp.asarray, modality.example(PARTS, 8))
    params, _ = jax.jit(TINY.build().init)(jax.random.key(0), batch)
    return params, batch


def value(config, params, batch):
    return float(jax.jit(config.build().loss)(params, {}, batch, jax.random.key(0))[0])


def test_system_with_identity_weights_is_the_plain_loss(made):
    params, batch = made
    system = TINY.build()
    p, q = (system.infer[n](params, {}, batch) for n in ("text", "speech"))
    expected = 2 * symmetric_info_nce(p, q, TINY.scale).mean()
    assert value(replace(TINY, weights="identity"), params, batch) == pytest.approx(float(expected), abs=1e-5)
    expected = cwcl_loss(p, q, TINY.scale, intra_modal_weights(p)).mean()
    assert value(TINY, params, batch) == pytest.approx(float(expected), abs=1e-5)


def test_permuted_weights_keep_the_pair_and_lose_the_geometry(made):
    params, batch = made
    system = TINY.build()
    p, q = (system.infer[n](params, {}, batch) for n in ("text", "speech"))
    w = np.asarray(intra_modal_weights(p))
    wrong = np.roll(w, 1, 0)
    np.fill_diagonal(wrong, 1.0)
    expected = float(cwcl_loss(p, q, TINY.scale, jnp.asarray(wrong)).mean())
    found = value(replace(TINY, weights="permuted"), params, batch)
    assert found == pytest.approx(expected, abs=1e-5)
    assert abs(found - value(TINY, params, batch)) > 1e-4


def test_untrained_weights_come_from_another_encoder():
    config = replace(TINY, weights="untrained")
    system, batch = config.build(), jax.tree.map(jnp.asarray, modality.example(PARTS, 8))
    params, extras = jax.jit(system.init)(jax.random.key(0), batch)
    p, q = (system.infer[n](params, extras, batch) for n in ("text", "speech"))
    other = intra_modal_weights(system.infer["text"](params | extras, {}, batch))
    assert float(jnp.abs(other - intra_modal_weights(p)).max()) > 0.05
    found, (kept, _) = system.loss(params, extras, batch, jax.random.key(0))
    assert float(found) == pytest.approx(float(cwcl_loss(p, q, TINY.scale, other).mean()), abs=1e-5)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), kept, extras))


def test_first_phase_classifies_and_moves_no_speech(made):
    params, batch = made
    system = replace(TINY, objective="intent").build()
    grads = jax.grad(lambda p: system.loss(p, {}, batch, jax.random.key(0))[0])(params)
    assert max(float(jnp.abs(g).max()) for g in jax.tree.leaves(grads["speech"])) == 0
    logits = np.asarray(system.infer["classify"](params, {}, batch))
    expected = np.log(np.exp(logits).sum(1)) - logits[np.arange(8), batch["intent"]]
    assert value(replace(TINY, objective="intent"), params, batch) == pytest.approx(expected.mean(), rel=1e-5)


def test_no_gradient_reaches_the_weights():
    p, q = unit(), unit(seed=1)
    constant = intra_modal_weights(p)
    found = jax.grad(lambda p: cwcl_loss(p, q, 7.0, intra_modal_weights(p)).sum())(p)
    expected = jax.grad(lambda p: cwcl_loss(p, q, 7.0, constant).sum())(p)
    np.testing.assert_array_equal(found, expected)
    through = jax.grad(lambda p: (similarity(p, p) / 2 + 0.5).sum())(p)
    assert float(jnp.abs(through).max()) > 0  # what would leak without the stop
    assert float(jnp.abs(jax.grad(lambda p: intra_modal_weights(p).sum())(p)).max()) == 0


def test_gradient_vanishes_where_the_softmax_is_the_target():
    w = intra_modal_weights(unit(5, 3))
    logits = jnp.log(w)

    def weighted(logits):
        eye = jnp.eye(5)
        return (cwcl_loss(eye, logits.T, 1.0, w) - plain(logits)).sum()

    assert float(jnp.abs(jax.grad(weighted)(logits)).max()) < 1e-6
    assert float(jnp.abs(jax.grad(weighted)(2 * logits)).max()) > 1e-3


def test_equal_texts_give_a_uniform_target_and_no_nan():
    p, q = jnp.tile(unit(1), (6, 1)), unit(seed=1)
    w = intra_modal_weights(p)
    np.testing.assert_allclose(w, 1.0, atol=1e-6)
    values, grad = jax.value_and_grad(lambda q: (cwcl_loss(p, q, 7.0, w) - plain(7.0 * similarity(p, q))).mean())(q)
    assert float(values) >= np.log(6) and np.isfinite(grad).all()


def test_weights_stay_in_range_with_rounded_vectors():
    p = (unit() * 1.01).astype(jnp.bfloat16)
    for kernel in (None, 0.1):
        w = np.asarray(intra_modal_weights(jnp.concatenate([p, -p]), kernel))
        assert w.min() >= 0 and w.max() <= 1 and (w.diagonal() == 1).all()
    np.testing.assert_allclose(intra_modal_weights(HAND_P, 0.1)[0, 1], np.exp(-4), rtol=1e-5)


def test_a_missing_row_leaves_rows_and_columns():
    p, q = unit(), unit(seed=1)
    valid = jnp.arange(6) != 2
    rest = np.flatnonzero(valid)
    found = cwcl_loss(p.at[2].set(0.0), q, 7.0, intra_modal_weights(p), valid)
    expected = cwcl_loss(p[rest], q[rest], 7.0, intra_modal_weights(p[rest]))
    np.testing.assert_allclose(found[rest], expected, rtol=1e-5)
    assert float(found[2]) == 0
    assert float(jnp.abs(found[rest] - cwcl_loss(p, q, 7.0, intra_modal_weights(p))[rest]).max()) > 1e-2


def test_a_missing_text_changes_nothing_else(made):
    params, batch = made
    broken = jax.tree.map(jnp.asarray, params)
    table = next(k for k in broken["text"]["encoder"] if "embed" in k.lower())
    leaf = next(iter(broken["text"]["encoder"][table]))
    word = int(batch["text"][3, 1])
    broken["text"]["encoder"][table][leaf] = broken["text"]["encoder"][table][leaf].at[word].set(jnp.nan)
    keep = np.asarray(~(batch["text"] == word).any(1))
    assert 2 <= keep.sum() < 8
    expected = value(TINY, params, {k: v[keep] for k, v in batch.items()})
    assert value(TINY, broken, batch) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "fields, says",
    [
        ({"intents": 1}, "system.intents is 1"),
        ({"kernel": 0.0}, "system.kernel is 0.0"),
        ({"scale": -1.0}, "system.scale is -1.0"),
        ({"dim": 0}, "system.dim is 0"),
    ],
)
def test_impossible_configs_say_why(fields, says):
    with pytest.raises(ConfigError, match=says):
        replace(TINY, **fields).build()


def test_one_pair_has_no_negatives():
    with pytest.raises(ConfigError, match="no negatives"):
        cwcl_loss(unit(1), unit(1), 1.0, jnp.ones((1, 1)))
