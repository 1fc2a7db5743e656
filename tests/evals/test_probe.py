import jax.numpy as jnp
import numpy as np
import pytest

from mmrep.errors import DataError
from mmrep.evals.probe import layer_features, probe_layers, r_squared, ridge_fit, ridge_probe, sgd_probe


def problem(n=240, d=6, classes=3, noise=0.3, seed=0):
    r = np.random.default_rng(seed)
    y = r.integers(0, classes, n)
    x = np.eye(classes, d)[y] * 2 + noise * r.normal(size=(n, d))
    x = (x * r.uniform(0.01, 100, d) + 50).astype(np.float32)  # badly scaled on purpose
    a, b = n // 2, 3 * n // 4
    return x[:a], y[:a], x[a:b], y[a:b], x[b:], y[b:]


@pytest.mark.parametrize("n, d", [(50, 4), (10, 30)])
def test_ridge_equals_gradient_condition_in_primal_and_dual(n, d):
    r = np.random.default_rng(0)
    x, y = r.normal(size=(n, d)) * 3 + 1, r.normal(size=(n, 2))
    fit = ridge_fit(x, y, x, y, lambdas=(0.1,))
    z = (x - x.mean(0)) / x.std(0)
    w = np.linalg.solve(z.T @ z / n + 0.1 * np.eye(d), z.T @ (y - y.mean(0)) / n)
    np.testing.assert_allclose(fit(x), z @ w + y.mean(0), atol=1e-8)
    assert fit.setting == 0.1


def test_lambda_is_chosen_on_validation():
    r = np.random.default_rng(0)
    x, w = r.normal(size=(60, 40)), r.normal(size=(40, 1))
    y = x @ w + 5 * r.normal(size=(60, 1))
    lambdas = (1e-5, 1e-2, 1.0, 1e4)
    scores = {p: ridge_fit(x[:30], y[:30], x[30:], y[30:], (p,)).validation for p in lambdas}
    fit = ridge_fit(x[:30], y[:30], x[30:], y[30:], lambdas)
    assert fit.setting == max(scores, key=scores.get) and fit.validation == scores[fit.setting]
    noise = ridge_fit(x[:30], r.normal(size=(30, 1)), x[30:], np.zeros((30, 1)), lambdas)
    assert noise.setting == 1e4
    tie = ridge_fit(x, y, x, y, lambdas, score=lambda p, t: 0.0)
    assert tie.setting == 1e4


def test_ridge_probe_solves_a_badly_scaled_problem():
    found = ridge_probe(*problem())
    assert found.accuracy > 0.95 and found.validation > 0.95
    *_, test_y = problem()
    assert found.accuracy == np.mean(found.predictions == test_y)


def test_labels_may_be_strings_and_unseen_classes_are_wrong():
    train_x, train_y, val_x, val_y, test_x, test_y = problem()
    names = np.array(["cube", "ball", "cone"])
    named = ridge_probe(train_x, names[train_y], val_x, names[val_y], test_x, names[test_y])
    assert named.accuracy == ridge_probe(*problem()).accuracy
    assert set(named.predictions) <= set(names)
    odd = np.where(np.arange(len(test_y)) < 10, 99, test_y)
    assert ridge_probe(train_x, train_y, val_x, val_y, test_x, odd).accuracy <= 1 - 10 / len(odd)
    assert ridge_probe(train_x, train_y, val_x, np.full(len(val_y), 99), test_x, test_y).validation == 0.0


def test_no_signal_is_chance_and_constant_features_are_harmless():
    r = np.random.default_rng(0)
    x, y = r.normal(size=(400, 5)), r.integers(0, 4, 400)
    assert ridge_probe(x[:200], y[:200], x[200:300], y[200:300], x[300:], y[300:]).accuracy < 0.4
    train_x, train_y, val_x, val_y, test_x, test_y = problem()
    constant = [np.concatenate([v, np.full((len(v), 2), c, np.float32)], 1) for v, c in
                ((train_x, 3), (val_x, 3), (test_x, 9))]  # fmt: skip
    found = ridge_probe(constant[0], train_y, constant[1], val_y, constant[2], test_y)
    assert found.accuracy == ridge_probe(*problem()).accuracy
    with pytest.raises(DataError, match="NaN"):
        ridge_probe(train_x * np.nan, train_y, val_x, val_y, test_x, test_y)


def test_sgd_probe_agrees_with_ridge_and_is_deterministic():
    found, again = (sgd_probe(*problem(), steps=200, batch_size=32) for _ in range(2))
    assert found.accuracy > 0.95 and found.setting in (0.001, 0.01, 0.1)
    np.testing.assert_array_equal(found.predictions, again.predictions)


def test_r_squared():
    r = np.random.default_rng(0)
    y = r.normal(size=(20, 2))
    assert r_squared(y, y) == 1.0
    assert r_squared(np.broadcast_to(y.mean(0), y.shape), y) == pytest.approx(0.0)
    assert r_squared(y, np.ones((20, 2))) == 0.0


def test_layers_of_an_out_dict():
    r = np.random.default_rng(0)
    blocks = jnp.asarray(r.normal(size=(2, 3, 4, 5)), jnp.float32)
    valid = jnp.array([[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]], bool)
    looped = {
        "block00": blocks[0],
        "block01": blocks[1],
        "tokens": blocks[1],
        "valid": valid,
        "pooled": blocks[1][:, 0],
    }
    stacked = {"blocks": blocks, "tokens": blocks[1], "valid": valid, "pooled": blocks[1][:, 0]}
    a, b = layer_features(looped), layer_features(stacked)
    assert sorted(a) == sorted(b) == ["block00", "block01", "pooled", "tokens"]
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])
    np.testing.assert_allclose(a["block00"][0], blocks[0, 0, :2].mean(0), rtol=1e-6)
    np.testing.assert_allclose(layer_features({"tokens": blocks[0]})["tokens"], blocks[0].mean(1), rtol=1e-6)
    image = {"stage0": jnp.ones((2, 4, 4, 3)), "tokens": jnp.ones((2, 16, 3))}
    assert layer_features(image)["stage0"].shape == (2, 3)


def test_probe_layers():
    train_x, train_y, val_x, val_y, test_x, test_y = problem()
    noise = np.random.default_rng(0).normal
    features = {s: {"block00": noise(size=v.shape), "block01": v} for s, v in
                (("train", train_x), ("val", val_x), ("test", test_x))}  # fmt: skip
    found = probe_layers(features, {"train": train_y, "val": val_y, "test": test_y})
    assert list(found) == ["block00", "block01"]
    assert found["block01"].accuracy > 0.95 and found["block00"].accuracy < 0.6
