import jax
import jax.numpy as jnp
import numpy as np
from jax.test_util import check_grads as numeric_check

from mmrep.losses.masked import masked_lm_loss
from mmrep.losses.reduce import masked_mean


def check_grads(f, args):
    numeric_check(jax.jit(f), tuple(args), 1, modes=["rev"], atol=2e-2, rtol=2e-2)


def case():
    r = np.random.default_rng(0)
    logits = jnp.asarray(r.normal(size=(2, 4, 5)) * 3, jnp.float32)
    soft = jax.nn.softmax(jnp.asarray(r.normal(size=(2, 4, 5)), jnp.float32))
    target = jnp.array([[True, False, True, False], [False, False, True, False]])
    return logits, jnp.asarray(r.integers(0, 5, (2, 4)), jnp.int32), target, soft


def test_values_equal_naive_with_momentum_mixing():
    logits, labels, target, soft = case()
    x = np.asarray(logits, np.float64)
    log_p = x - np.log(np.exp(x).sum(-1, keepdims=True))
    for alpha in (0.0, 0.4, 1.0):
        expected = np.zeros((2, 4))
        for b, i in zip(*np.nonzero(target)):
            hard, mixed = -log_p[b, i, labels[b, i]], -(np.asarray(soft[b, i]) * log_p[b, i]).sum()
            expected[b, i] = (1 - alpha) * hard + alpha * mixed
        found = masked_lm_loss(logits, labels, target, soft, alpha)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(masked_mean(found, target), expected.sum() / 3, rtol=1e-5)
    np.testing.assert_allclose(
        masked_lm_loss(logits, labels, target), masked_lm_loss(logits, labels, target, soft, 0.0), rtol=1e-6
    )


def test_gradients_stay_on_targets_and_out_of_the_teacher():
    logits, labels, target, soft = case()
    gradient, teacher = jax.grad(lambda x, s: masked_lm_loss(x, labels, target, s, jnp.float32(0.4)).sum(), (0, 1))(
        logits, soft
    )
    np.testing.assert_array_equal(np.asarray(gradient)[~np.asarray(target)], 0.0)
    assert not np.any(teacher)
    check_grads(lambda x: masked_lm_loss(x, labels, target, soft, 0.4), (logits,))


def test_no_target_labels_out_of_range_and_extremes():
    logits, labels, target, _ = case()
    nothing = jnp.zeros_like(target)
    value, gradient = jax.value_and_grad(lambda x: masked_mean(masked_lm_loss(x, labels, nothing), nothing))(logits)
    assert value == 0 and not np.any(gradient)
    odd = jnp.where(target, labels, -100)
    np.testing.assert_array_equal(masked_lm_loss(logits, odd, target), masked_lm_loss(logits, labels, target))
    huge = masked_lm_loss((logits * 1e4).astype(jnp.bfloat16), labels, target)
    assert huge.dtype == jnp.float32 and np.isfinite(huge).all()
