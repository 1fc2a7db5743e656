import jax
import jax.numpy as jnp
import numpy as np
from jax.test_util import check_grads as numeric_check

from mmrep.systems.continual.modx import model as distillation
from mmrep.systems.continual.modx.model import cosine_distillation, mse_distillation, right_rows

kl = jax.jit(distillation.kl)
similarity_distillation = jax.jit(distillation.similarity_distillation, static_argnames="screen")
soft_cross_entropy = jax.jit(distillation.soft_cross_entropy)

NEW = jnp.array([[0.9, 0.2, 0.1], [0.3, 0.8, 0.0], [0.1, 0.4, 0.7]])
OLD = jnp.array([[0.8, 0.3, 0.2], [0.5, 0.4, 0.1], [0.0, 0.2, 0.9]])


def check_grads(f, args):
    numeric_check(jax.jit(f), tuple(args), 1, modes=["rev"], atol=2e-2, rtol=2e-2)


def rows(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def naive_kl(t, s, temperature=1.0):
    p, q = (np.exp(np.asarray(v, np.float64) / temperature) for v in (t, s))
    p, q = p / p.sum(), q / q.sum()
    return float((p * np.log(p / q)).sum())


def test_kl_equals_naive():
    t, s = rows(0, 2, 3, 5), rows(1, 2, 3, 5)
    expected = [[naive_kl(t[i, j], s[i, j], 2.0) for j in range(3)] for i in range(2)]
    np.testing.assert_allclose(kl(t, s, 2.0), expected, rtol=1e-4)
    np.testing.assert_allclose(kl(t, t), 0.0, atol=1e-7)
    where = jnp.ones(t.shape, bool).at[..., 1].set(False).at[0, 0].set(False)
    keep = np.array([0, 2, 3, 4])
    np.testing.assert_allclose(kl(t, s, where=where)[1, 2], naive_kl(t[1, 2][keep], s[1, 2][keep]), rtol=1e-4)
    assert kl(t, s, where=where)[0, 0] == 0
    gradient = jax.grad(lambda x: kl(t, x, where=where).sum())(s)
    assert np.isfinite(gradient).all() and not np.any(np.asarray(gradient)[~np.asarray(where)])
    assert not np.any(jax.grad(lambda x: kl(x, s).sum())(t))
    check_grads(lambda x: kl(t, x), (s,))
    extreme = kl(jnp.array([[1e4, -1e4]], jnp.bfloat16), jnp.array([[-1e4, 1e4]], jnp.bfloat16))
    assert extreme.dtype == jnp.float32 and np.isfinite(extreme).all()


def test_soft_cross_entropy_is_kl_plus_entropy():
    t, s = rows(0, 4, 5), rows(1, 4, 5)
    entropy = soft_cross_entropy(t, t, 2.0, 2.0)
    np.testing.assert_allclose(soft_cross_entropy(t, s, 2.0, 2.0), kl(t, s, 2.0) + entropy, rtol=1e-5)
    sharp = jax.nn.softmax(t / 0.1)
    np.testing.assert_allclose(
        soft_cross_entropy(t, s, 0.1, 0.5), -(sharp * jax.nn.log_softmax(s / 0.5)).sum(-1), rtol=1e-5
    )


def test_modx_golden_numbers():
    np.testing.assert_array_equal(right_rows(OLD), [True, False, True])
    np.testing.assert_array_equal(right_rows(OLD.T), [True, True, True])
    image = sum(naive_kl(OLD[i], NEW[i]) for i in (0, 2))
    text = sum(naive_kl(OLD.T[i], NEW.T[i]) for i in range(3))
    np.testing.assert_allclose([image, text], [0.0214071, 0.0323807], rtol=1e-5)
    np.testing.assert_allclose(similarity_distillation(OLD, NEW).sum(), 0.0268939, rtol=1e-5)
    unscreened = similarity_distillation(OLD, NEW, screen=False).sum()
    np.testing.assert_allclose(unscreened, (image + naive_kl(OLD[1], NEW[1]) + text) / 2, rtol=1e-5)


def test_similarity_distillation_duplicates_bad_teachers_and_gradients():
    twins = jnp.array([[0.9, 0.9 + 1e-7], [0.9, 0.9 + 1e-7]])  # duplicate columns: both rows are right
    assert right_rows(twins).all()
    wrong = jnp.array([[0.0, 1.0], [1.0, 0.0]])
    value, gradient = jax.value_and_grad(lambda x: similarity_distillation(wrong, x).sum())(twins)
    assert value == 0 and not np.any(gradient)
    assert not np.any(jax.grad(lambda x: similarity_distillation(x, NEW).sum())(OLD))
    check_grads(lambda x: similarity_distillation(OLD, x), (NEW,))
    np.testing.assert_allclose(similarity_distillation(jnp.ones((1, 1)), jnp.zeros((1, 1))), [0.0])


def test_feature_distillation():
    t, s = rows(0, 3, 4), rows(1, 3, 4)
    cosines = (t * s).sum(-1) / np.linalg.norm(t, axis=-1) / np.linalg.norm(s, axis=-1)
    np.testing.assert_allclose(cosine_distillation(t, s), 1 - cosines, rtol=1e-4)
    np.testing.assert_allclose(cosine_distillation(t, 5 * t), 0.0, atol=1e-6)
    np.testing.assert_allclose(mse_distillation(t, s), ((t - s) ** 2).mean(-1), rtol=1e-5)
    zero = jnp.zeros((1, 4))
    value, gradient = jax.value_and_grad(lambda x: cosine_distillation(t[:1], x).sum())(zero)
    assert value == 1 and np.isfinite(gradient).all()
    for loss in (cosine_distillation, mse_distillation):
        assert not np.any(jax.grad(lambda x, f=loss: f(x, s).sum())(t))
