"""Linear probes of frozen features: closed-form ridge and minibatch SGD. Settings are chosen on validation, scores are those of test."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Shaped

from mmrep.errors import DataError
from mmrep.nn.pooling import layer_features

__all__ = [
    "LAMBDAS",
    "Linear",
    "Probed",
    "layer_features",
    "negative_mse",
    "probe_layers",
    "r_squared",
    "ridge_fit",
    "ridge_probe",
    "sgd_probe",
]

Features = Float[Array | np.ndarray, "N ..."]
Labels = Shaped[Array | np.ndarray, " N"]

LAMBDAS = tuple(10.0**e for e in range(-5, 5))


class Probed(NamedTuple):
    """accuracy: on test, in [0, 1].   validation: the chosen setting's accuracy on validation.   setting: its lambda or learning rate.
    predictions: labels of the test rows."""

    accuracy: float
    validation: float
    setting: float
    predictions: np.ndarray


class Linear(NamedTuple):
    """y = x weight + bias, fitted with penalty `setting`, of score `validation`."""

    weight: Float[np.ndarray, "D K"]
    bias: Float[np.ndarray, " K"]
    setting: float
    validation: float

    def __call__(self, x: Float[Array | np.ndarray, "..."]) -> Float[np.ndarray, "M K"]:
        return _flat(x) @ self.weight + self.bias


def _flat(x: Any) -> np.ndarray:
    x = np.asarray(x, np.float64)
    return x.reshape(len(x), -1)


def _scaler(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mean, std = x.mean(0), x.std(0)
    # A constant feature gets no weight: division by its rounding error would amplify noise.
    return mean, np.where(std > 1e-7 * np.maximum(1.0, np.abs(mean)), std, np.inf)


def negative_mse(predicted: np.ndarray, truth: np.ndarray) -> float:
    return -float(np.mean((predicted - truth) ** 2))


def r_squared(predicted: np.ndarray, truth: np.ndarray) -> float:
    """1 - residual / total sum of squares, the mean over target columns that vary."""
    total = ((truth - truth.mean(0)) ** 2).sum(0)
    vary = total > 0
    if not vary.any():
        return 0.0
    return float(np.mean(1.0 - ((predicted - truth) ** 2).sum(0)[vary] / total[vary]))


def ridge_fit(
    train_x: Features,
    train_y: Float[Array | np.ndarray, "N K"],
    val_x: Float[Array | np.ndarray, "M ..."],
    val_y: Float[Array | np.ndarray, "M K"],
    lambdas: Sequence[float] = LAMBDAS,
    score: Callable[[np.ndarray, np.ndarray], float] = negative_mse,
) -> Linear:
    """Ridge regression: min |y - x w - b|^2 / N + lambda |w|^2 on features standardised by the training rows, b without penalty.

    Takes the lambda with the best score(predicted, truth) on validation, the largest among equals.
    Raises DataError for fewer than 2 rows, another number of targets, and features that are not finite.
    """
    from sklearn.linear_model import Ridge

    x, y = _flat(train_x), np.asarray(train_y, np.float64)
    if len(x) < 2 or len(x) != len(y):
        raise DataError(f"a ridge probe needs at least 2 rows and a target for each, found {len(x)} and {len(y)}")
    if not np.isfinite(x).all():
        raise DataError("the probe's training features hold NaN or infinite values")
    mean, std = _scaler(x)
    x, centre = (x - mean) / std, y.mean(0)
    fits = []
    for penalty in sorted(lambdas, reverse=True):
        model = Ridge(penalty * len(x), fit_intercept=False).fit(x, y - centre)
        weight = model.coef_.reshape(y.shape[1], -1).T / std[:, None]
        fit = Linear(weight, centre - mean @ weight, penalty, 0.0)
        fits.append(fit._replace(validation=score(fit(val_x), np.asarray(val_y, np.float64))))
    return max(fits, key=lambda fit: fit.validation)


def _encode(train_y: Any, *others: Any) -> tuple[np.ndarray, list[np.ndarray]]:
    classes, index = np.unique(np.asarray(train_y), return_inverse=True)
    known = {c: i for i, c in enumerate(classes.tolist())}
    # A class absent from training counts as wrong: -1 equals no prediction.
    return classes, [index, *(np.array([known.get(c, -1) for c in np.asarray(y).tolist()]) for y in others)]


def ridge_probe(
    train_x: Features,
    train_y: Labels,
    val_x: Shaped[Array | np.ndarray, "M ..."],
    val_y: Shaped[Array | np.ndarray, " M"],
    test_x: Shaped[Array | np.ndarray, "T ..."],
    test_y: Shaped[Array | np.ndarray, " T"],
    lambdas: Sequence[float] = LAMBDAS,
) -> Probed:
    """Classification by ridge regression onto one-hot targets; lambda by validation accuracy. Labels may be numbers or strings."""
    classes, (train, val, test) = _encode(train_y, val_y, test_y)
    eye = np.eye(len(classes) + 1)[:, :-1]  # the last row, all zero, is the unknown class -1

    def accuracy(predicted: np.ndarray, truth: np.ndarray) -> float:
        return float(np.mean((predicted.argmax(-1) == truth.argmax(-1)) & truth.any(-1)))

    fit = ridge_fit(train_x, eye[train], val_x, eye[val], lambdas, accuracy)
    predicted = fit(test_x).argmax(-1)
    return Probed(float(np.mean(predicted == test)), fit.validation, fit.setting, classes[predicted])


def sgd_probe(
    train_x: Features,
    train_y: Labels,
    val_x: Shaped[Array | np.ndarray, "M ..."],
    val_y: Shaped[Array | np.ndarray, " M"],
    test_x: Shaped[Array | np.ndarray, "T ..."],
    test_y: Shaped[Array | np.ndarray, " T"],
    learning_rates: Sequence[float] = (0.001, 0.01, 0.1),
    steps: int = 1000,
    batch_size: int = 256,
    weight_decay: float = 0.0,
    seed: int = 0,
) -> Probed:
    """Softmax regression by SGD with momentum and a cosine schedule; all learning rates train together, the best on validation is taken."""
    classes, (train, val, test) = _encode(train_y, val_y, test_y)
    x = _flat(train_x)
    mean, std = _scaler(x)
    sets = [jnp.asarray((_flat(v) - mean) / std, jnp.float32) for v in (train_x, val_x, test_x)]
    optimiser = optax.chain(
        optax.add_decayed_weights(weight_decay), optax.sgd(optax.cosine_decay_schedule(1.0, steps), momentum=0.9)
    )

    def fit(rate: Array, x: Array, y: Array) -> dict[str, Array]:
        start = {"w": jnp.zeros((x.shape[1], len(classes)), jnp.float32), "b": jnp.zeros(len(classes), jnp.float32)}

        def step(state: Any, key: Array) -> tuple[Any, None]:
            params, opt = state
            rows = jax.random.randint(key, (min(batch_size, len(x)),), 0, len(x))

            def loss(p: dict[str, Array]) -> Array:
                logits = x[rows] @ p["w"] + p["b"]
                return optax.softmax_cross_entropy_with_integer_labels(logits, y[rows]).mean()

            updates, opt = optimiser.update(jax.grad(loss)(params), opt, params)
            return (jax.tree.map(lambda p, u: p + rate * u, params, updates), opt), None

        keys = jax.random.split(jax.random.key(seed), steps)
        return jax.lax.scan(step, (start, optimiser.init(start)), keys)[0][0]

    rates = jnp.asarray(learning_rates, jnp.float32)
    params = jax.jit(jax.vmap(fit, in_axes=(0, None, None)))(rates, sets[0], jnp.asarray(train, jnp.int32))
    predicted = [
        np.asarray(jnp.argmax(jnp.einsum("nd,rdk->rnk", s, params["w"]) + params["b"][:, None], -1)) for s in sets[1:]
    ]
    validation = (predicted[0] == val).mean(-1)
    best = int(np.argmax(validation))
    return Probed(
        float(np.mean(predicted[1][best] == test)),
        float(validation[best]),
        float(learning_rates[best]),
        classes[predicted[1][best]],
    )


def probe_layers(
    features: Mapping[str, Mapping[str, Any]], labels: Mapping[str, Any], probe: Callable[..., Probed] = ridge_probe
) -> dict[str, Probed]:
    """{layer: probe} over features {"train" | "val" | "test": {layer: [N, D]}} and labels {split: [N]}."""
    splits = ("train", "val", "test")
    return {
        layer: probe(*(part for s in splits for part in (np.asarray(features[s][layer]), np.asarray(labels[s]))))
        for layer in features["train"]
    }
