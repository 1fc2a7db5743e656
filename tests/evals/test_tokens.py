"""Use of codes and errors by hand, and the evaluator over a tiny tokeniser."""

import jax
import numpy as np
import pytest

from configs.tokenizers import vqvae
from mmrep.evals.suite import on_split
from mmrep.evals.tokens import Reconstruction, code_use, detail, errors, held_out
from mmrep.model import Model


def test_code_use_by_hand():
    found = code_use(np.array([[0, 0], [1, 1]]), 4)
    assert (
        found["codes used"] == 0.5
        and found["perplexity"] == pytest.approx(2)
        and found["perplexity share"] == pytest.approx(0.5)
    )
    # Three of one, one of another: exp(entropy of 3/4, 1/4).
    assert code_use(np.array([2, 2, 2, 3]), 4)["perplexity"] == pytest.approx(
        np.exp(-0.75 * np.log(0.75) - 0.25 * np.log(0.25))
    )
    # Two vocabularies: the first uses one code, the second both.
    heads = code_use(np.array([[0, 0], [0, 1]]), 2, heads=2)
    assert heads["codes used"] == 0.75 and heads["perplexity"] == pytest.approx(1.5)


def test_errors_by_hand():
    x = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
    found = errors(x + 0.1, x)
    assert (
        found["MSE"] == pytest.approx(0.01)
        and found["PSNR"] == pytest.approx(20)
        and found["unexplained"] == pytest.approx(0.04)
    )
    assert found["cosine error"] == pytest.approx(1 - 1.1 / np.hypot(1.1, 0.1))
    assert errors(x, x)["MSE"] == 0 and np.isfinite(errors(np.zeros_like(x), x)["cosine error"])


def test_reconstruction_reads_the_split_it_is_given():
    config = vqvae.get_config("tiny")
    system = config.system.build()
    params, extras = system.init(jax.random.key(0), {})
    model = Model(config, params, extras, system=system)
    (evaluator,) = on_split(config.evals, "val")
    found = evaluator.run(model)
    truth = held_out(model, "rgb", "val")
    assert truth.shape == (24, 16, 16, 3)
    back = np.asarray(model.embed_split("reconstruct", "val"))
    assert found["rgb MSE"] == pytest.approx(((back - truth) ** 2).mean(), rel=1e-4)
    assert found["rgb codes used"] == len(np.unique(model.embed_split("tokenize", "val"))) / 16
    classes = Reconstruction("rgb", 4, classes=2)._scores(np.array([[0, 1]]), np.array([[0, 0]]))
    assert classes == {"mIoU": 0.25, "pixel accuracy": 0.5}


def test_detail_is_the_energy_between_neighbours():
    x = np.random.default_rng(0).random((3, 8, 8, 2))
    blurred = (x + np.roll(x, 1, 1)) / 2
    assert detail(x, x) == 1 and detail(0.5 * x + 3, x) == pytest.approx(0.25) and detail(blurred, x) < 0.8
