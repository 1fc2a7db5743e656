import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrep.errors import ConfigError
from mmrep.nn.positions import LearnedPositions, sincos_1d, sincos_2d


def test_sincos_1d_numbers():
    expected = [[np.sin(p), np.sin(p / 100), np.cos(p), np.cos(p / 100)] for p in range(5)]
    np.testing.assert_allclose(sincos_1d(5, 4), expected, atol=1e-6)


def test_sincos_2d_is_column_then_row():
    grid = sincos_2d(2, 3, 8)
    line = sincos_1d(3, 4)
    for row in range(2):
        for column in range(3):
            expected = np.concatenate([line[column], line[row]])
            np.testing.assert_allclose(grid[row * 3 + column], expected, atol=1e-6)


def test_learned_positions_add_the_first_rows():
    params = LearnedPositions(6).init(jax.random.key(0), jnp.zeros((1, 4, 8)))
    table = params["params"]["embedding"]
    assert table.shape == (6, 8) and 0.01 < table.std() < 0.03
    y = LearnedPositions(6).apply(params, jnp.ones((2, 4, 8)))
    np.testing.assert_allclose(y, np.broadcast_to(1 + table[:4], (2, 4, 8)), rtol=1e-6)


def test_errors_name_the_field():
    with pytest.raises(ConfigError, match="max_len"):
        LearnedPositions(3).init(jax.random.key(0), jnp.zeros((1, 4, 8)))
    with pytest.raises(ConfigError, match="even"):
        sincos_1d(3, 5)
    with pytest.raises(ConfigError, match="4 divides"):
        sincos_2d(2, 2, 6)
