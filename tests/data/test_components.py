"""Principal components of fields, fitted on the training split."""

from dataclasses import dataclass

import numpy as np
import pytest

from mmrep.data.columns import Columns
from mmrep.data.components import Components, principal
from mmrep.errors import ConfigError, DataError


@dataclass(frozen=True)
class Vectors:
    """40 training rows of 6 numbers with two large directions; the other splits lie far away."""

    def open(self, split):
        rng = np.random.default_rng(len(split))
        x = rng.standard_normal((40, 6)) * [9, 5, 1, 0.1, 0.1, 0.1] + (0 if split == "train" else 100)
        return Columns({"x": x.astype(np.float32), "name": ["a"] * 40})

    def texts(self, split):
        return iter(["a"])

    def view(self, record, rng):
        return record


def test_components_are_uncorrelated_and_of_mean_variance_one():
    rows = Components(Vectors(), ("x",), 3).open("train").columns["x"]
    assert rows.shape == (40, 3) and rows.dtype == np.float32
    covariance = np.cov(rows.T, bias=True)
    np.testing.assert_allclose(covariance - np.diag(np.diag(covariance)), 0, atol=1e-5)
    assert np.trace(covariance) / 3 == pytest.approx(1, rel=1e-5) and (np.diff(np.diag(covariance)) < 0).all()
    np.testing.assert_allclose(rows.mean(0), 0, atol=1e-6)


def test_other_splits_have_the_axes_and_means_of_training():
    source = Components(Vectors(), ("x",), 6)
    mean, axes = principal(Vectors().open("train").columns["x"], 6)
    test = source.open("test")
    np.testing.assert_allclose(test.columns["x"], (Vectors().open("test").columns["x"] - mean) @ axes, rtol=1e-4)
    assert np.abs(test.columns["x"].mean(0)).max() > 5  # not centred by its own mean
    # All components keep every distance, up to one factor.
    x, y = Vectors().open("test").columns["x"], test.columns["x"]
    ratio = np.linalg.norm(y[1:] - y[:-1], axis=1) / np.linalg.norm(x[1:] - x[:-1], axis=1)
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-4)
    assert test[0]["name"] == "a" and list(source.texts("train")) == ["a"]


def test_what_cannot_be_is_explained():
    with pytest.raises(ConfigError, match="k is 7"):
        Components(Vectors(), ("x",), 7).open("val")
    with pytest.raises(ConfigError, match="name one field"):
        Components(Vectors(), ())
    with pytest.raises(DataError, match="'y', which records lack"):
        Components(Vectors(), ("y",), 2).open("train")
