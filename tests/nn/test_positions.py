import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrep.errors import ConfigError
from mmrep.nn.positions import LearnedPositions, alibi_2d, alibi_slopes, sincos_1d, sincos_2d


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


def test_positions_of_a_larger_grid_are_interpolated():
    np.testing.assert_allclose(sincos_2d(3, 5, 8, trained=(3, 5)), sincos_2d(3, 5, 8), atol=1e-6)
    column = np.asarray(sincos_2d(2, 4, 8, trained=(1, 2)))[:4, :2]  # sine and cosine of frequencies 1 and 0.01 follow
    np.testing.assert_allclose(column[:, 0], np.sin([-0.25, 0.25, 0.75, 1.25]), atol=1e-6)


def test_alibi_slopes_by_hand():
    np.testing.assert_allclose(alibi_slopes(16), 2.0 ** -(np.arange(1, 17) / 2), rtol=1e-6)
    np.testing.assert_allclose(alibi_slopes(16)[[0, -1]], [0.70710678, 0.00390625], rtol=1e-6)
    expected = [*(2.0 ** -np.arange(1, 9)), *(2.0 ** -np.array([0.5, 1.5, 2.5, 3.5]))]
    np.testing.assert_allclose(alibi_slopes(12), expected, rtol=1e-6)
    np.testing.assert_allclose(alibi_slopes(1), [2.0**-8])


def test_alibi_of_two_sensors_is_distance_times_slope_on_any_grid():
    rows, columns, heads = 5, 7, 6
    queries, keys = np.array([[0, 12, 34], [3, 4, 5]]), np.array([[3 * 7 + 4, 0], [34, 3]])
    found = np.asarray(alibi_2d(queries, keys, columns, heads))
    for b in range(2):
        for i, q in enumerate(queries[b]):
            for j, k in enumerate(keys[b]):
                away = np.hypot(q // columns - k // columns, q % columns - k % columns)
                np.testing.assert_allclose(found[b, :, i, j], -alibi_slopes(heads) * away, rtol=1e-6)
    np.testing.assert_allclose(found[0, 0, 0, 0], -5 * alibi_slopes(heads)[0])  # (0, 0) to (3, 4)
    place = np.arange(rows * columns)[None]
    whole = np.asarray(alibi_2d(place, place, columns, heads))
    np.testing.assert_array_equal(whole, whole.swapaxes(2, 3))
    # The corner of a larger grid equals the smaller one.
    larger = np.asarray(alibi_2d(*(np.arange(10 * 14)[None],) * 2, 14, heads)).reshape(1, heads, 10, 14, 10, 14)
    np.testing.assert_array_equal(larger[:, :, :5, :7, :5, :7].reshape(whole.shape), whole)


def test_errors_name_the_field():
    with pytest.raises(ConfigError, match="raise the length"):
        LearnedPositions(3).init(jax.random.key(0), jnp.zeros((1, 4, 8)))
    with pytest.raises(ConfigError, match="even"):
        sincos_1d(3, 5)
    with pytest.raises(ConfigError, match="heads"):
        alibi_slopes(0)
    with pytest.raises(ConfigError, match="4 divides"):
        sincos_2d(2, 2, 6)


def test_a_small_base_separates_the_positions_of_a_small_grid():
    def similarity(**options):
        p = np.asarray(sincos_2d(4, 4, 48, **options))
        p = (p - p.mean(1, keepdims=True)) / p.std(1, keepdims=True)
        return (p @ p.T / 48)[~np.eye(16, dtype=bool)].mean()

    assert similarity() > 0.8 and similarity(base=10.0) < 0.45
    x = np.arange(3)[:, None] / 10.0 ** (np.arange(2) / 2)
    expected = np.concatenate([np.sin(x), np.cos(x)], 1)
    np.testing.assert_allclose(sincos_2d(1, 3, 8, base=10.0)[:, :4], expected, atol=1e-6)
