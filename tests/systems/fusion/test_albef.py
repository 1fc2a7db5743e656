"""ALBEF: targets, queue, teacher, matching on negatives, all against values reckoned outside the system."""

from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrep import modality
from mmrep.errors import ConfigError
from mmrep.nn.config import TransformerConfig
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.nn.encoders.text import TextEncoder
from mmrep.nn.heads import Projection
from mmrep.systems.fusion.albef import Config, enqueue, soft_targets
from mmrep.systems.fusion.albef.model import FusionEncoder

TINY = Config(
    ImageEncoder(TransformerConfig(width=32, depth=1, heads=2), patch=8, pool="cls"),
    TextEncoder(TransformerConfig(width=32, depth=1, heads=2, norm="post"), vocab=20, length=8, pool="cls"),
    dim=16, queue=4, ramp=10,
)  # fmt: skip
PAIR = (modality.image("image", 16), modality.text("text", 8, 20))
WITH_ID = (*PAIR, modality.label("id", 100))


def make(config=TINY, modalities=WITH_ID, rows=2, **given):
    batch = {k: jnp.asarray(v) for k, v in modality.example(modalities, rows).items()} | given
    system = config.build()
    params, extras = jax.jit(system.init)(jax.random.key(1), batch)
    infer = {name: jax.jit(function) for name, function in system.infer.items()}
    return SimpleNamespace(
        system=system, params=params, extras=extras, batch=batch, loss=jax.jit(system.loss), infer=infer
    )  # fmt: skip


def at_step(extras, step):
    return extras | {"step": jnp.int32(step)}


def other_teacher(m, by=1.3):
    """A teacher that differs from the student: at the start they are one."""
    return m.extras | {"teacher": jax.tree.map(lambda x: x * by, m.extras["teacher"])}


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def test_soft_targets_by_hand():
    # B = 2, Q = 2; softmax(log(1, 2, 3, 4)) = .1 .2 .3 .4; row 1 has two positives, one of them in the queue.
    positives = jnp.array([[True, False, False, False], [False, True, True, False]])
    logits = jnp.log(jnp.array([[1.0, 2, 3, 4], [4.0, 3, 2, 1]]))
    found = soft_targets(positives, logits, 0.4)
    np.testing.assert_allclose(found, [[0.64, 0.08, 0.12, 0.16], [0.16, 0.42, 0.38, 0.04]], rtol=1e-5)
    np.testing.assert_allclose(soft_targets(positives, logits, 0.0)[1], [0, 0.5, 0.5, 0], rtol=1e-6)
    gradient = jax.grad(lambda x: (soft_targets(positives, x, 0.4) ** 2).sum())(logits)
    assert not gradient.any()


def test_the_queue_wraps_and_keeps_the_newest():
    queue = jnp.arange(4)
    queue = enqueue(queue, jnp.int32(3), jnp.array([10, 11, 12]))
    np.testing.assert_array_equal(queue, [11, 12, 2, 10])
    assert enqueue(jnp.zeros((0, 3)), jnp.int32(0), jnp.ones((2, 3))).shape == (0, 3)


def itc(m, extras, alpha):
    """Equation 6 in NumPy, from the unit features that the system infers."""
    f, g = (np.asarray(m.infer[n](m.params, m.extras, m.batch), np.float64) for n in ("image", "text"))
    taught = m.params | extras["teacher"]
    f_m, g_m = (np.asarray(m.infer[n](taught, m.extras, m.batch), np.float64) for n in ("image", "text"))
    queue = {k: np.asarray(v) for k, v in extras["queue"].items()}
    ids = np.asarray(m.batch["id"])
    positive = (ids[:, None] == np.concatenate([ids, queue["id"]])[None]).astype(float)
    hard, total = positive / positive.sum(1, keepdims=True), 0.0
    for own, momentum, keys in (
        (f, f_m, np.concatenate([g_m, queue["text"]])),
        (g, g_m, np.concatenate([f_m, queue["image"]])),
    ):
        target = alpha * softmax(momentum @ keys.T / 0.07) + (1 - alpha) * hard
        total += 0.5 * -(target * np.log(softmax(own @ keys.T / 0.07))).sum(1).mean()
    return total


def test_itc_equals_numpy_with_queue_ids_and_the_ramp_of_alpha():
    m = make(id=jnp.array([3, 7], jnp.int32))
    start = other_teacher(m)
    start["queue"] |= {"id": jnp.array([-1, 7, 3, 3], jnp.int32)}
    for step, alpha in ((0, 0.0), (5, 0.2), (10, 0.4), (1000, 0.4)):
        _, (_, metrics) = m.loss(m.params, at_step(start, step), m.batch, jax.random.key(0))
        np.testing.assert_allclose(metrics["alpha"], alpha, rtol=1e-6)
        np.testing.assert_allclose(metrics["itc"], itc(m, start, alpha), rtol=1e-4)
    assert abs(itc(m, start, 0.4) - itc(m, start, 0.0)) > 1e-2
    ignorant = start | {"queue": start["queue"] | {"id": jnp.full(4, -1, jnp.int32)}}
    assert abs(itc(m, start, 0.4) - itc(m, ignorant, 0.4)) > 1e-2  # blind to ids the number would be another


def test_no_gradient_reaches_the_teacher_or_the_temperature_of_its_targets():
    m = make(replace(TINY, match=0.0, mlm=0.0))
    start = at_step(other_teacher(m), 1000)

    def by_teacher(teacher):
        return m.system.loss(m.params, start | {"teacher": teacher}, m.batch, jax.random.key(0))[0]

    found = jax.jit(jax.grad(by_teacher))(start["teacher"])
    assert not any(leaf.any() for leaf in jax.tree.leaves(found))

    def by_scale(log_scale, frozen):
        f, g = (m.infer[n](m.params, m.extras, m.batch) for n in ("image", "text"))
        taught = m.params | start["teacher"]
        f_m, g_m = (m.infer[n](taught, m.extras, m.batch) for n in ("image", "text"))
        value = 0.0
        for own, momentum, new, name in ((f, f_m, g_m, "text"), (g, g_m, f_m, "image")):
            keys = jnp.concatenate([new, start["queue"][name]])
            soft = jax.nn.softmax(jnp.exp(log_scale) * momentum @ keys.T)
            target = 0.4 * (jax.lax.stop_gradient(soft) if frozen else soft) + 0.6 * jnp.eye(2, 6)
            value -= 0.5 * (target * jax.nn.log_softmax(jnp.exp(log_scale) * own @ keys.T)).sum(-1).mean()
        return value

    slope = jax.jit(jax.grad(by_scale), static_argnums=1)
    grads = jax.jit(jax.grad(lambda p: m.system.loss(p, start, m.batch, jax.random.key(0))[0]))(m.params)
    found, at = grads["scale"]["log_scale"], m.params["scale"]["log_scale"]
    np.testing.assert_allclose(found, slope(at, True), rtol=1e-3)
    assert abs(found - slope(at, False)) > 1e-2 * abs(found)


@jax.jit
def judge(params, text, image):
    pooled, _ = FusionEncoder(2, 2).apply({"params": params["fusion"]}, text, image)
    return Projection(2, normalise=False, use_bias=True).apply({"params": params["match"]}, pooled)


def pair_logits(m, image_row, text_row):
    """(no match, match) logits of one pair, its text cut to its own length: nothing is padded, nothing is batched."""
    ids = m.batch["text"][text_row]
    one = {"text": ids[: int((ids > 0).sum())][None], "image": m.batch["image"][image_row][None]}
    image = m.infer["image_tokens"](m.params, m.extras, one)["image_tokens"]
    text = m.infer["text_tokens"](m.params, m.extras, one)["text_tokens"]
    return np.asarray(judge(m.params, text, image))[0]


def test_itm_equals_pairs_judged_one_by_one():
    # Two rows: each one's only negative is the other, so chance decides nothing. The texts differ in length.
    text = jnp.array([[1, 6, 7, 8, 9, 10, 11, 2], [1, 12, 2, 0, 0, 0, 0, 0]], jnp.int32)
    m = make(id=jnp.array([3, 7], jnp.int32), text=text)
    _, (_, metrics) = m.loss(m.params, m.extras, m.batch, jax.random.key(0))
    pairs = [(0, 0), (1, 1), (1, 0), (0, 1), (0, 1), (1, 0)]  # right, each text's wrong image, each image's wrong text
    logits = np.stack([pair_logits(m, i, t) for i, t in pairs])
    label = np.array([1, 1, 0, 0, 0, 0])
    expected = -np.log(softmax(logits))[np.arange(6), label].mean()
    np.testing.assert_allclose(metrics["itm"], expected, rtol=1e-4)
    found = m.infer["match"](m.params, m.extras, m.batch)
    np.testing.assert_allclose(found, logits[:2, 1], rtol=1e-4, atol=1e-5)
    encoded = m.infer["text_tokens"](m.params, m.extras, m.batch)
    blind = encoded | {"text_valid": encoded["text_valid"][::-1], "image": m.batch["image"]}
    assert np.abs(m.infer["match"](m.params, m.extras, blind) - found).max() > 1e-4  # another's padding is seen


def test_rows_of_one_id_are_no_negatives_of_one_another():
    m = make(id=jnp.array([5, 5], jnp.int32))
    value, (_, metrics) = m.loss(m.params, m.extras, m.batch, jax.random.key(0))
    logits = np.stack([pair_logits(m, i, i) for i in range(2)])
    np.testing.assert_allclose(metrics["itm"], -np.log(softmax(logits))[:, 1].mean(), rtol=1e-4)
    assert np.isfinite(value)


def test_mlm_mixes_labels_and_teacher_in_proportion_and_survives_an_unmasked_batch():
    m = make()
    start, key = other_teacher(m), jax.random.key(4)
    values = [m.loss(m.params, at_step(start, s), m.batch, key)[1][1]["mlm"] for s in (0, 5, 10)]
    np.testing.assert_allclose(values[1], (values[0] + values[2]) / 2, rtol=1e-5)
    assert abs(values[2] - values[0]) > 1e-3
    rare = make(replace(TINY, mask_rate=1e-6))
    value, (_, metrics) = rare.loss(rare.params, rare.extras, rare.batch, key)
    assert metrics["mlm"] == 0 and np.isfinite(value)


def test_extras_after_two_steps_hold_the_teachers_features_and_ids():
    m = make(replace(TINY, queue=3))
    start = other_teacher(m)
    taught = m.params | start["teacher"]
    new = {n: m.infer[n](taught, m.extras, m.batch) for n in ("image", "text")} | {"id": m.batch["id"]}
    _, (once, _) = m.loss(m.params, start, m.batch, jax.random.key(0))
    _, (twice, _) = m.loss(m.params, once, m.batch, jax.random.key(0))
    assert int(once["pointer"]) == 2 and int(twice["pointer"]) == 1
    for name, rows in new.items():
        np.testing.assert_allclose(once["queue"][name][:2], rows, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(twice["queue"][name], jnp.stack([rows[1], rows[1], rows[0]]), rtol=1e-4, atol=1e-6)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, once["teacher"], start["teacher"]))  # only `update` moves it


def test_the_teacher_follows_as_in_the_reference():
    # The reference averages just before the teacher looks; here it is done just after the optimiser: the same teacher looks.
    m = make(replace(TINY, momentum=0.9))
    params, extras, reference = m.params, m.extras, m.extras["teacher"]
    for step in range(3):
        reference = jax.tree.map(lambda t, p: 0.9 * t + 0.1 * p, reference, {k: params[k] for k in reference})
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), extras["teacher"], reference)
        params = jax.tree.map(lambda p: p + 0.1, params)  # an optimiser step
        extras = m.system.update(params, extras)
        assert int(extras["step"]) == step + 1
    assert "match" not in reference and "scale" not in reference


def test_it_runs_without_ids_without_queue_and_without_distillation():
    m = make(replace(TINY, queue=0, alpha=0.0, negatives="random"), PAIR, rows=3)
    value, (extras, metrics) = m.loss(m.params, m.extras, m.batch, jax.random.key(0))
    f, g = (np.asarray(m.infer[n](m.params, m.extras, m.batch)) for n in ("image", "text"))
    logits = f @ g.T / 0.07
    expected = -0.5 * (np.log(np.diag(softmax(logits))).mean() + np.log(np.diag(softmax(logits.T))).mean())
    np.testing.assert_allclose(metrics["itc"], expected, rtol=1e-4)
    assert np.isfinite(value) and "id" not in extras["queue"]


@pytest.mark.parametrize(
    ("field", "value"),
    [("fusion_depth", 0), ("temperature", 0.6), ("queue", -1), ("momentum", 1.0), ("alpha", 1.1), ("ramp", -1),
     ("mask_rate", 0.0), ("contrast", -1.0), ("dim", 0)],
)  # fmt: skip
def test_impossible_fields_are_named(field, value):
    with pytest.raises(ConfigError, match=f"system.{field} is"):
        replace(TINY, **{field: value}).build()


def test_batches_that_cannot_work_are_named():
    for config, rows in ((TINY, 1), (TINY, 5)):
        with pytest.raises(ConfigError, match=f"data.batch_size is {rows}"):
            make(config, rows=rows).loss(
                *(lambda m: (m.params, m.extras, m.batch))(make(config, rows=rows)), jax.random.key(0)
            )
