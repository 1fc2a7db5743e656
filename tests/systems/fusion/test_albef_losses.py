"""ALBEF's losses against hand-made numbers and NumPy: contrast with a queue, matching on negatives, masked language modelling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrep.losses.reduce import masked_mean
from mmrep.systems.fusion.albef import losses
from mmrep.systems.fusion.albef.losses import (
    enqueue,
    itm_pairs,
    mlm_loss,
    soft_targets,
)
from mmrep.systems.fusion.albef.model import Encoded

itc_loss = jax.jit(losses.itc_loss)


def unit(seed, *shape):
    x = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return jnp.asarray(x / np.linalg.norm(x, axis=-1, keepdims=True))


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


STUDENT, TEACHER = (unit(0, 3, 4), unit(1, 3, 4)), (unit(2, 3, 4), unit(3, 3, 4))
QUEUE = {"image": unit(4, 5, 4), "text": unit(5, 5, 4), "id": jnp.array([-1, 7, 3, 3, -1], jnp.int32)}
IDS = jnp.array([3, 7, 9], jnp.int32)


def itc(alpha, scale=1 / 0.07, ids=IDS, queue=QUEUE, of_targets=None):
    """Equation 6 in NumPy; `of_targets`: another scale in the targets."""
    (f, g), (f_m, g_m) = ([np.asarray(x, np.float64) for x in pair] for pair in (STUDENT, TEACHER))
    positive = (np.asarray(ids)[:, None] == np.concatenate([ids, queue["id"]])[None]).astype(float)
    hard, total = positive / positive.sum(1, keepdims=True), 0.0
    for own, momentum, keys in (
        (f, f_m, np.concatenate([g_m, queue["text"]])),
        (g, g_m, np.concatenate([f_m, queue["image"]])),
    ):
        target = alpha * softmax((of_targets or scale) * momentum @ keys.T) + (1 - alpha) * hard
        total -= 0.5 * (target * np.log(softmax(scale * own @ keys.T))).sum(1)
    return total


@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
def test_itc_equals_numpy_with_queue_and_ids(alpha):
    np.testing.assert_allclose(itc_loss(STUDENT, TEACHER, 1 / 0.07, alpha, IDS, QUEUE), itc(alpha), rtol=1e-4)
    unknown = QUEUE | {"id": jnp.full(5, -1, jnp.int32)}
    if alpha < 1:
        assert np.abs(itc(alpha) - itc(alpha, queue=unknown)).max() > 1e-2, "equal ids matter"


def test_itc_without_ids_or_queue_is_the_pair_alone():
    nothing = {k: v[:0] for k, v in QUEUE.items()}
    expected = itc(0.4, ids=jnp.arange(3), queue=nothing)
    for queue in (None, {k: nothing[k] for k in ("image", "text")}):
        np.testing.assert_allclose(itc_loss(STUDENT, TEACHER, 1 / 0.07, 0.4, None, queue), expected, rtol=1e-4)


def test_itc_has_no_gradient_to_the_teacher_nor_through_its_temperature():
    total = lambda s, t, scale: losses.itc_loss(s, t, scale, 0.4, IDS, QUEUE).sum()  # noqa: E731
    d_teacher, d_scale = jax.jit(jax.grad(total, (1, 2)))(STUDENT, TEACHER, 1 / 0.07)
    assert not any(g.any() for g in jax.tree.leaves(d_teacher))
    scale, step = 1 / 0.07, 1e-4
    fixed, through = (
        (itc(0.4, scale + step, of_targets=at).sum() - itc(0.4, scale - step, of_targets=at).sum()) / (2 * step)
        for at in (scale, None)
    )
    np.testing.assert_allclose(d_scale, fixed, rtol=1e-3)
    assert abs(through - fixed) > 1e-2 * abs(fixed)


def test_itm_pairs_bring_their_own_padding():
    tokens, valid = jnp.arange(6.0).reshape(2, 3, 1), jnp.array([[True, True, False], [True, True, True]])
    pixels = 10 + jnp.arange(4.0).reshape(2, 2, 1)
    encoded = Encoded(unit(0, 2, 4), unit(1, 2, 4), pixels, tokens, valid)
    (texts, masks, images), is_match = itm_pairs(encoded, jnp.array([1, 0]), jnp.array([1, 0]))
    np.testing.assert_array_equal(texts[:, 0, 0], [0, 3, 0, 3, 3, 0])
    np.testing.assert_array_equal(images[:, 0, 0], [10, 12, 12, 10, 10, 12])
    np.testing.assert_array_equal(masks[:, 2], [False, True, False, True, True, False])
    np.testing.assert_array_equal(is_match, [1, 1, 0, 0, 0, 0])


def mlm_case():
    r = np.random.default_rng(0)
    logits = jnp.asarray(r.normal(size=(2, 4, 5)) * 3, jnp.float32)
    soft = jax.nn.softmax(jnp.asarray(r.normal(size=(2, 4, 5)), jnp.float32))
    target = jnp.array([[True, False, True, False], [False, False, True, False]])
    return logits, jnp.asarray(r.integers(0, 5, (2, 4)), jnp.int32), target, soft


def test_mlm_equals_naive_with_momentum_mixing():
    logits, labels, target, soft = mlm_case()
    x = np.asarray(logits, np.float64)
    log_p = x - np.log(np.exp(x).sum(-1, keepdims=True))
    for alpha in (0.0, 0.4, 1.0):
        expected = np.zeros((2, 4))
        for b, i in zip(*np.nonzero(target)):
            hard, mixed = -log_p[b, i, labels[b, i]], -(np.asarray(soft[b, i]) * log_p[b, i]).sum()
            expected[b, i] = (1 - alpha) * hard + alpha * mixed
        found = mlm_loss(logits, labels, target, soft, alpha)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(masked_mean(found, target), expected.sum() / 3, rtol=1e-5)
    np.testing.assert_allclose(mlm_loss(logits, labels, target), mlm_loss(logits, labels, target, soft, 0.0), rtol=1e-6)


def test_mlm_gradients_stay_on_targets_and_out_of_the_teacher():
    logits, labels, target, soft = mlm_case()
    gradient, teacher = jax.grad(lambda x, s: mlm_loss(x, labels, target, s, jnp.float32(0.4)).sum(), (0, 1))(
        logits, soft
    )
    np.testing.assert_array_equal(np.asarray(gradient)[~np.asarray(target)], 0.0)
    assert not np.any(teacher)


def test_mlm_without_target_labels_out_of_range_and_extremes():
    logits, labels, target, _ = mlm_case()
    nothing = jnp.zeros_like(target)
    value, gradient = jax.value_and_grad(lambda x: masked_mean(mlm_loss(x, labels, nothing), nothing))(logits)
    assert value == 0 and not np.any(gradient)
    odd = jnp.where(target, labels, -100)
    np.testing.assert_array_equal(mlm_loss(logits, odd, target), mlm_loss(logits, labels, target))
    huge = mlm_loss((logits * 1e4).astype(jnp.bfloat16), labels, target)
    assert huge.dtype == jnp.float32 and np.isfinite(huge).all()
