from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrep.errors import ConfigError
from mmrep.losses.contrastive import symmetric_info_nce
from mmrep.systems.contrastive.symile import model as multilinear
from mmrep.systems.contrastive.symile.model import multilinear_product

mip_scores = jax.jit(multilinear.mip_scores)
permuted_logits = jax.jit(multilinear.permuted_logits)
rolled_logits = jax.jit(multilinear.rolled_logits)
symile_loss = jax.jit(multilinear.symile_loss, static_argnames=("negatives", "limit_bytes"))

X = jnp.eye(2)
Y = jnp.array([[0.6, 0.8], [0.8, 0.6]])
Z = jnp.array([[0.0, 1.0], [1.0, 0.0]])


def unit(seed, *shape):
    x = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return jnp.asarray(x / np.linalg.norm(x, axis=-1, keepdims=True))


def test_symile_golden_numbers():
    np.testing.assert_allclose(rolled_logits(X, [Y, Z]), [[0, 0.8, 0.6, 0], [0.8, 0, 0, 0.6]], rtol=1e-6)
    np.testing.assert_allclose(symile_loss([X, Y, Z], 1.0, negatives="n_squared"), [1.7996714] * 2, rtol=1e-6)


@pytest.mark.parametrize("modalities", [2, 3, 4])
def test_rolled_logits_hold_every_combination_once(modalities):
    batch = 3
    anchor, *others = [unit(m, batch, 5) for m in range(modalities)]
    logits = rolled_logits(anchor, others)
    assert logits.shape == (batch, batch ** (modalities - 1))
    np.testing.assert_allclose(jnp.diagonal(logits), multilinear_product([anchor, *others]), rtol=1e-5, atol=1e-7)
    for i in range(batch):
        every = [
            float(np.sum(np.asarray(anchor[i]) * np.prod([np.asarray(o[j]) for o, j in zip(others, index)], axis=0)))
            for index in product(range(batch), repeat=modalities - 1)
        ]
        np.testing.assert_allclose(np.sort(logits[i]), np.sort(every), atol=1e-6)


def test_permuted_logits_equal_naive_and_permute_each_modality_apart():
    anchor, y, z = (unit(m, 6, 5) for m in range(3))
    rng = jax.random.key(3)
    logits = permuted_logits(rng, anchor, [y, z])
    by, bz = (np.asarray(jax.random.permutation(k, 6)) for k in jax.random.split(rng, 2))
    assert (by != bz).any()
    expected = np.einsum("id,jd,jd->ij", anchor, np.asarray(y)[by], np.asarray(z)[bz])
    np.fill_diagonal(expected, np.einsum("id,id,id->i", anchor, y, z))
    np.testing.assert_allclose(logits, expected, atol=1e-6)
    assert not np.allclose(logits, permuted_logits(jax.random.key(4), anchor, [y, z]))


def test_symile_loss_equals_naive_in_both_modes():
    x = [unit(m, 5, 4) for m in range(3)]
    rng, scale = jax.random.key(0), 20.0
    keys = jax.random.split(rng, 3)
    for negatives in ("n", "n_squared"):
        expected = np.zeros(5)
        for a in range(3):
            others = [x[m] for m in range(3) if m != a]
            s = permuted_logits(keys[a], x[a], others) if negatives == "n" else rolled_logits(x[a], others)
            s = scale * np.asarray(s, np.float64)
            expected += (np.log(np.exp(s).sum(1)) - np.diagonal(s)) / 3
        found = symile_loss(x, scale, rng, negatives)
        assert found.shape == (5,) and found.dtype == jnp.float32
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_two_modalities_reduce_to_symmetric_info_nce():
    x, y = unit(0, 6, 4), unit(1, 6, 4)
    np.testing.assert_allclose(
        symile_loss([x, y], 10.0, negatives="n_squared"), symmetric_info_nce(x, y, 10.0), rtol=1e-5
    )


def test_pure_finite_and_differentiable():
    x = [unit(m, 4, 3) for m in range(3)]
    np.testing.assert_array_equal(symile_loss(x, 5.0, jax.random.key(0)), symile_loss(x, 5.0, jax.random.key(0)))
    slope = jax.jit(jax.grad(lambda a: multilinear.symile_loss([a, *x[1:]], 5.0, jax.random.key(0)).sum()))
    assert np.isfinite(slope(x[0])).all() and np.any(slope(x[0]))
    zero = [x[0], jnp.zeros_like(x[1]), x[2]]
    np.testing.assert_allclose(symile_loss(zero, 1e4, jax.random.key(0)), np.log(4), rtol=1e-6)
    np.testing.assert_allclose(symile_loss([v[:1] for v in x], 5.0, jax.random.key(0)), 0.0)
    assert np.isfinite(symile_loss([v.astype(jnp.bfloat16) for v in x], 1e5, jax.random.key(0))).all()


def test_mip_scores():
    c, y, z = unit(0, 7, 4), unit(1, 3, 4), unit(2, 3, 4)
    np.testing.assert_allclose(mip_scores(c, [y, z]), np.einsum("cd,bd,bd->bc", c, y, z), atol=1e-6)
    np.testing.assert_allclose(mip_scores(c, [y]), np.asarray(y) @ np.asarray(c).T, atol=1e-6)


def test_sentences():
    x = unit(0, 4, 3)
    with pytest.raises(ConfigError, match="at least 2"):
        symile_loss([x], 1.0)
    with pytest.raises(ConfigError, match="key"):
        symile_loss([x, x], 1.0)
    with pytest.raises(ConfigError, match="raise limit_bytes"):
        symile_loss([x] * 5, 1.0, negatives="n_squared", limit_bytes=1000)
