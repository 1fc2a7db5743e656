"""Cross-entropy per modality against the slow version and NumPy, for every distribution of tokens over modalities."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrep.systems.masked.fourm.heads import per_modality_cross_entropy, token_weights

SIZES = (7, 11, 5)


def case(kinds, seed=0):
    rng = np.random.default_rng(seed)
    modality = jnp.asarray(kinds, jnp.int32)
    labels = np.array([rng.integers(0, SIZES[k]) if k < 3 else 0 for k in kinds])
    y = jnp.asarray(rng.standard_normal((len(kinds), 4)), jnp.float32)
    tables = tuple(jnp.asarray(rng.standard_normal((n, 4)), jnp.float32) for n in SIZES)
    return y, tables, jnp.asarray(labels, jnp.int32), modality


@cache
def run(block):
    """((3 * sum, losses), gradients), and the losses without a gradient."""

    def total(y, tables, *rest):
        value, losses = per_modality_cross_entropy(y, tables, *rest, block)
        return 3.0 * value, losses

    gradient = jax.value_and_grad(total, (0, 1), has_aux=True)
    return jax.jit(lambda *args: (gradient(*args), total(*args)))


@pytest.mark.parametrize(
    "kinds",
    [
        [0, 1, 2, 3, 2, 1, 0, 0, 3, 1], [1] * 10, [3] * 10, [2, 2, 2, 0, 0, 3, 3, 3, 0, 2], [2] * 4 + [3] * 6, [0] + [3] * 9,
    ],
)  # fmt: skip
@pytest.mark.parametrize("block", [1, 3, 64])
def test_values_and_gradients_equal_the_slow_version(kinds, block):
    y, tables, labels, modality = case(kinds)
    weights, count = token_weights(modality, SIZES, "mod")
    np.testing.assert_array_equal(count, [kinds.count(t) for t in range(3)])
    both = [run(b)(y, tables, labels, modality, weights) for b in (block, None)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6, rtol=1e-5), both[0][0], both[1][0])
    total, each = both[0][1]
    by_hand = np.zeros(len(kinds))
    for i, k in enumerate(kinds):
        if k < 3:
            logits = np.asarray(tables[k], np.float64) @ np.asarray(y[i], np.float64)
            by_hand[i] = np.log(np.exp(logits).sum()) - logits[labels[i]]
    np.testing.assert_allclose(each, by_hand, atol=1e-5)
    np.testing.assert_allclose(total / 3, (by_hand * np.asarray(weights)).sum(), atol=1e-5)


def test_weightings_by_hand():
    modality = jnp.asarray([0, 0, 2, 3])
    np.testing.assert_allclose(token_weights(modality, SIZES, "mod")[0], [1 / 6, 1 / 6, 1 / 3, 0], rtol=1e-6)
    np.testing.assert_allclose(token_weights(modality, SIZES, "token")[0], [1 / 3, 1 / 3, 1 / 3, 0], rtol=1e-6)
    np.testing.assert_allclose(token_weights(modality, SIZES, "token_vocab")[0], np.array([7, 7, 5, 0]) / 19, rtol=1e-6)
    for how in ("mod", "token", "token_vocab"):
        np.testing.assert_array_equal(token_weights(jnp.full(4, 3), SIZES, how)[0], 0)
