"""Spans against hand-made numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrep.errors import ConfigError
from mmrep.nn import spans


def test_overlaps():
    a, b = jnp.array([[0.0, 4.0], [1.0, 2.0], [3.0, 3.0]]), jnp.array([[2.0, 6.0], [5.0, 7.0], [3.0, 3.0]])
    np.testing.assert_allclose(spans.iou(a, b), [2 / 6, 0.0, 0.0], atol=1e-6)
    np.testing.assert_allclose(spans.generalised_iou(a, b), [1 / 3, -3 / 6, 0.0], atol=1e-6)
    assert spans.iou(a[:, None], b).shape == (3, 3)
    gradient = jax.grad(lambda a: spans.generalised_iou(a, b).sum())(a)
    assert np.isfinite(gradient).all()
    np.testing.assert_allclose(spans.to_ends(spans.to_centre_width(a)), a)


def test_proposals():
    assert len(spans.proposals(4)) == 10
    found = {tuple(p) for p in spans.proposals(8, (2, 2))}
    assert found == {(i, i) for i in range(8)} | {(i, i + 1) for i in range(7)} | {
        (i, i + n - 1) for n in (4, 6) for i in range(0, 8 - n + 1, 2)
    }  # fmt: skip
    with pytest.raises(ConfigError, match="at least 1"):
        spans.proposals(8, (0,))


def test_nms():
    x = jnp.array([[0.0, 4.0], [0.0, 5.0], [6.0, 8.0], [5.0, 8.0]])
    index, kept = jax.jit(spans.nms)(x, jnp.array([0.5, 0.9, 0.2, 0.3]))
    np.testing.assert_array_equal(index, [1, 3, 0, 0, 0])
    np.testing.assert_array_equal(kept, [True, True, False, False, False])
