"""CLSR by hand: no code is published."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.contrastive.clsr import events, get_config
from mmrep import modality
from mmrep.config import Data
from mmrep.data.pipeline import collate, open_split
from mmrep.data.sources import Table
from mmrep.errors import ConfigError
from mmrep.losses.contrastive import symmetric_info_nce
from mmrep.systems.contrastive.clsr import (
    adaptive_temperature,
    cross_modal_loss,
    equal_rows,
    moved,
    reconstruction_loss,
    repulsion,
    text_similarity,
)

EYE = jnp.eye(4)
NONE = jnp.eye(4, dtype=bool)


def unit(seed, n=4, d=5):
    x = np.random.default_rng(seed).standard_normal((n, d))
    return jnp.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), jnp.float32)


def test_hand_values():
    two = jnp.eye(2)
    found = cross_modal_loss(two, two, jnp.ones(2), jnp.eye(2, dtype=bool))
    np.testing.assert_allclose(found, 0.3132617, rtol=1e-6)
    p, q = unit(0), unit(1)
    equal = cross_modal_loss(p, q, jnp.full(4, 0.1), NONE)
    np.testing.assert_allclose(equal, symmetric_info_nce(p, q, 10.0), rtol=1e-5)
    np.testing.assert_allclose(repulsion(EYE, EYE, jnp.full(4, 0.1)), 0.0, atol=1e-6)
    np.testing.assert_allclose(repulsion(jnp.tile(EYE[:1], (4, 1)), EYE, jnp.full(4, 0.1)), 10.0, rtol=1e-5)
    assert float(reconstruction_loss(p, p).max()) == 0


def test_rows_have_their_own_temperature_and_columns_theirs():
    p, q, tau = unit(0), unit(1), np.array([0.1, 0.2, 0.3, 0.4], np.float32)
    s = np.asarray(p, np.float64) @ np.asarray(q).T
    expected = np.zeros(4)
    for i in range(4):
        for row in (s[i], s[:, i]):
            expected[i] += 0.5 * (np.log(np.exp(row / tau[i]).sum()) - row[i] / tau[i])
    np.testing.assert_allclose(cross_modal_loss(p, q, jnp.asarray(tau), NONE), expected, rtol=1e-5)


def test_temperatures_follow_the_nearest_texts():
    near = jnp.array([[1.0, 0.8, 0.4, 0.0], [0.8, 1, 0, 0], [0.4, 0, 1, 0], [0, 0, 0, 1.0]])
    found = adaptive_temperature(near, 2, 0.03, 0.15)
    np.testing.assert_allclose(found, 0.03 + 0.12 * np.array([0.6, 0.4, 0.2, 0.0]), rtol=1e-5)
    np.testing.assert_allclose(adaptive_temperature(near, 50, 0.03, 0.15)[0], 0.03 + 0.12 * 0.4, rtol=1e-5)
    assert adaptive_temperature(near[:1, :1], 5, 0.03, 0.15).tolist() == [pytest.approx(0.03)]
    np.testing.assert_allclose(adaptive_temperature(near, 2, 0.1, 0.1), 0.1, rtol=1e-6)
    assert float(jnp.abs(jax.grad(lambda x: adaptive_temperature(x, 2, 0.03, 0.15).sum())(near)).max()) == 0


def test_identical_texts_are_neither_negatives_nor_repelled():
    batch = {"text": jnp.array([[1, 5, 2], [1, 6, 2], [1, 5, 2], [1, 7, 2]])}
    same = equal_rows(batch, "text")
    assert np.argwhere(np.asarray(same & ~NONE)).tolist() == [[0, 2], [2, 0]]
    near = text_similarity(unit(2), same)
    assert float(near[0, 2]) == 1 and float(near.min()) >= 0 and float(near.max()) <= 1
    p, q = unit(0), unit(1)
    moved_q = q.at[2].set(p[0])
    row = [float(cross_modal_loss(p, x, jnp.full(4, 0.1), same)[0]) for x in (q, moved_q)]
    assert abs(row[0] - row[1]) < 1e-5  # a perfect false negative costs nothing
    all_same = jnp.ones((4, 4), bool)
    assert float(jnp.abs(repulsion(p, text_similarity(p, all_same), jnp.full(4, 0.1))).max()) == 0
    slope = jax.grad(lambda x: repulsion(x, text_similarity(p, same), jnp.full(4, 0.1)).sum())(p)
    assert np.isfinite(slope).all()
    assert float(repulsion(p[:1], jnp.ones((1, 1)), jnp.ones(1))[0]) == 0


@pytest.fixture(scope="module")
def tiny():
    experiment = get_config("tiny")
    split = open_split(experiment.data, None, "train")
    batch = jax.tree.map(jnp.asarray, collate([split.entry(i) for i in range(8)]))
    return experiment, batch


def test_statistics_and_targets(tiny):
    experiment, batch = tiny
    system = experiment.system.build()
    params, extras = jax.jit(system.init)(jax.random.key(0), batch)
    step = jax.jit(jax.value_and_grad(system.loss, has_aux=True))
    (value, (after, metrics)), grads = step(params, extras, batch, jax.random.key(0))
    assert np.isfinite(value) and float(metrics["reconstruction"]) > 0
    latent = np.asarray(batch["audio"] @ params["audio"]["encoder"]["dense0"]["kernel"])
    x = np.asarray(jax.nn.gelu(latent + params["audio"]["encoder"]["dense0"]["bias"], approximate=False))
    np.testing.assert_allclose(after["latents"]["audio"]["mean"], 0.01 * x.mean(0), atol=1e-5)
    np.testing.assert_allclose(after["latents"]["audio"]["var"], 0.99 + 0.01 * x.var(0), atol=1e-5)
    assert all(float(jnp.abs(g).max()) > 0 for g in jax.tree.leaves(grads["decoders"]))
    # No gradient through the targets: decoders that give 0 cannot shrink the latents.
    target = lambda y: reconstruction_loss(jnp.zeros_like(y), y).sum()  # noqa: E731
    assert float(jnp.abs(jax.grad(target)(unit(0))).max()) == 0
    stats = {"mean": jnp.zeros(5), "var": jnp.ones(5)}
    np.testing.assert_allclose(moved(stats, unit(0), 0.0)["mean"], unit(0).mean(0), rtol=1e-6)


@pytest.mark.parametrize("temperature", ["learned", "fixed", "shuffled"])
def test_other_temperatures(tiny, temperature):
    experiment, batch = tiny
    system = replace(experiment.system, temperature=temperature, intra=0.0, reconstruct=0.0).build()
    params, extras = system.init(jax.random.key(0), batch)
    assert ("scale" in params) == (temperature == "learned") and "decoders" not in params
    value, (_, metrics) = system.loss(params, extras, batch, jax.random.key(0))
    assert np.isfinite(value) and 0.03 <= float(metrics["tau"]) <= 0.15


def test_eight_rows_of_a_table(tmp_path):
    rng = np.random.default_rng(0)
    rows = [
        json.dumps({"sound": rng.random(64).tolist(), "told": rng.random(48).tolist(), "name": str(i)})
        for i in range(8)
    ]
    (tmp_path / "t.jsonl").write_text("\n".join(rows) + "\n")
    source = Table(tmp_path / "t.jsonl", image=None, text="name", extra=("sound", "told"), fractions=(1.0, 0.0, 0.0))
    parts = modality.vector("audio", 64, field="sound"), modality.vector("text", 48, field="told")
    split = open_split(Data(source, parts), None, "train")
    batch = jax.tree.map(jnp.asarray, collate([split.entry(i) for i in range(8)]))
    system = events().system.build()
    params, extras = system.init(jax.random.key(0), batch)
    assert np.isfinite(system.loss(params, extras, batch, jax.random.key(0))[0])


@pytest.mark.parametrize(
    "change, words",
    [
        ({"temperature": "warm"}, "choose one of"),
        ({"tau_min": 0.001}, "tau_min is"),
        ({"neighbours": 0}, "neighbours is"),
        ({"intra": -1.0}, "at least 0"),
    ],
)
def test_impossible_configs_are_explained(change, words):
    config = events().system
    with pytest.raises(ConfigError, match=words):
        for name, value in change.items():
            config = replace(config)
            object.__setattr__(config, name, value)
        config.build()
