"""Interactions against enumeration and closed forms."""

from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrep.errors import ConfigError
from mmrep.losses.games import interactions

PAIRS = np.array(list(combinations(range(5), 2)))
W = np.triu(np.random.default_rng(0).normal(size=(5, 5)), 1)


def quadratic(mask):
    return jnp.einsum("ca,ab,cb->c", mask.astype(jnp.float32), jnp.asarray(W, jnp.float32), mask.astype(jnp.float32))


def maximum(mask):
    return jnp.where(mask, jnp.array([0.3, -1.0, 2.0, 0.7, 1.1]), 0.0).max(-1) ** 2


def naive(value, i, j, players=5):
    others = [p for p in range(players) if p not in (i, j)]
    v = lambda c: float(value(jnp.asarray([[p in c for p in range(players)]]))[0])  # noqa: E731
    sets = [{*c} for n in range(len(others) + 1) for c in combinations(others, n)]
    return np.mean([v(c | {i, j}) + v(c) - v(c | {i}) - v(c | {j}) for c in sets])


def test_closed_forms():
    weights = jnp.arange(5.0)
    for coalition in ("all", "rest"):
        np.testing.assert_allclose(interactions(lambda m: m @ weights, 5, PAIRS, coalition), 0.0, atol=1e-6)
        found = interactions(quadratic, 5, PAIRS, coalition)
        np.testing.assert_allclose(found, W[PAIRS[:, 0], PAIRS[:, 1]], atol=1e-5)
    np.testing.assert_allclose(interactions(lambda m: m.all(-1) * 0.7, 2, np.array([[0, 1]])), [0.7])


def test_enumeration_equals_a_loop_and_samples_approach_it():
    exact = interactions(maximum, 5, PAIRS)
    np.testing.assert_allclose(exact[np.array([0, 5])], [naive(maximum, *PAIRS[i]) for i in (0, 5)], atol=1e-5)
    errors = []
    for n in (64, 4096):
        drawn = jax.jit(lambda key, n=n: interactions(maximum, 5, PAIRS, samples=n, rng=key))
        errors.append(np.abs(np.stack([drawn(jax.random.key(i)) for i in range(8)]) - exact).mean())
    assert errors[1] < errors[0] / 4, "the error falls as 1 / sqrt(samples)"


@pytest.mark.parametrize(
    "change, message",
    [
        ({"players": 15}, "set samples"), ({"samples": 5}, "give a key"), ({"pairs": np.array([[1, 1]])}, "two different"),
    ],
)  # fmt: skip
def test_errors(change, message):
    with pytest.raises(ConfigError, match=message):
        interactions(**{"value": maximum, "players": 5, "pairs": PAIRS} | change)
