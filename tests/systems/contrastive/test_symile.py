"""Symile: against hand-made and the authors' numbers (rajesh-lab/symile at d12e2c8, float64, seed below), and what would break it."""

from dataclasses import replace
from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrep import modality
from mmrep.errors import ConfigError
from mmrep.model import Model
from mmrep.nn.config import TransformerConfig
from mmrep.nn.encoders.audio import AudioEncoder
from mmrep.nn.encoders.image import ImageEncoder
from mmrep.nn.encoders.text import TextEncoder
from mmrep.nn.encoders.vector import VectorEncoder
from mmrep.systems.contrastive.symile import Config
from mmrep.systems.contrastive.symile.evals import Predict, scores
from mmrep.systems.contrastive.symile.model import agreement, sum_loss


def vectors(n=4, dim=3, seed=7, m=3):
    rng = np.random.default_rng(seed)
    drawn = [rng.standard_normal((n, dim)) for _ in range(m)]
    return [jnp.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), jnp.float32) for x in drawn]


def identity(dim, scale, names="xyz", **fields):
    """A system whose encoders hand unit vectors through, and its parameters."""
    system = Config(tuple((n, VectorEncoder()) for n in names), dim, temperature=1 / scale, **fields).build()
    params = {n: {"projection": {"out": {"kernel": jnp.eye(dim)}}} for n in names}
    return system, params | {"scale": {"log_scale": jnp.log(jnp.float32(scale))}}


def value(system, params, batch, seed=0):
    loss, (_, metrics) = jax.jit(system.loss)(params, {}, batch, jax.random.key(seed))
    return float(loss), metrics


def test_hand_check_of_the_whole_system():
    system, params = identity(2, 1.0, negatives="n_squared")
    batch = {"x": jnp.eye(2), "y": jnp.array([[0.6, 0.8], [0.8, 0.6]]), "z": jnp.array([[0.0, 1.0], [1.0, 0.0]])}
    loss, metrics = value(system, params, batch)
    assert loss == pytest.approx(1.7996714, abs=1e-6)
    assert float(metrics["bound"]) == pytest.approx(np.log(4) - 1.7996714, abs=1e-6)


@pytest.mark.parametrize("objective, golden", [("symile", 3.2645723334), ("pairwise", 8.5496350962)])
def test_losses_are_the_authors(objective, golden):
    system, params = identity(3, 5.0, objective=objective, negatives="n_squared")
    assert value(system, params, dict(zip("xyz", vectors())))[0] == pytest.approx(golden, rel=1e-6)


@pytest.mark.parametrize(
    "objective, golden",
    [
        ("symile", [0.033107042767, -0.049998997126, 0.058449518971, 0.049262901134]),
        ("pairwise", [0.019840057906, 1.068487884249, -0.528377159992, -1.038399613203]),
    ],
)
def test_scores_are_the_authors(objective, golden):
    x, y, z = vectors()
    np.testing.assert_allclose(scores(x, [y, z], objective)[0], golden, atol=1e-6)


def test_scores_of_one_observed_modality_are_dot_products():
    x, y, _ = vectors()
    for objective in ("symile", "pairwise", "sum"):
        np.testing.assert_allclose(scores(x, [y], objective), y @ x.T, atol=1e-6)
    with pytest.raises(ConfigError, match="observed is empty"):
        scores(x, [])
    with pytest.raises(ConfigError, match="objective is 'clip'"):
        scores(x, [y], "clip")


def test_sum_loss_against_a_loop():
    x, key, scale = vectors(5, 4), jax.random.key(3), 2.0
    keys, expected = jax.random.split(key, 3), np.zeros(5)
    score = lambda *t: sum(float(a @ b) for a, b in combinations(t, 2))  # noqa: E731
    for a in range(3):
        others = [x[m] for m in range(3) if m != a]
        y, z = (jax.random.permutation(k, o, axis=0) for k, o in zip(jax.random.split(keys[a], 2), others))
        for i in range(5):
            row = [score(x[a][i], y[j], z[j]) for j in range(5)]
            row[i] = score(x[a][i], others[0][i], others[1][i])
            expected[i] += (np.log(np.exp(scale * np.array(row)).sum()) - scale * row[i]) / 3
    np.testing.assert_allclose(sum_loss(key, x, scale), expected, rtol=1e-5)
    np.testing.assert_allclose(agreement(x)[0], score(*(v[0] for v in x)), atol=1e-6)


def test_negatives_are_drawn_anew_with_the_key():
    system, params = identity(3, 5.0)
    batch = dict(zip("xyz", vectors()))
    assert value(system, params, batch, 0)[0] != value(system, params, batch, 1)[0]


def test_the_temperature_has_no_floor_unless_set():
    batch = dict(zip("xyz", vectors()))
    for floor, expected in ((None, 700.0), (0.01, 100.0)):
        system, params = identity(3, 700.0, min_temperature=floor)
        assert float(value(system, params, batch)[1]["scale"]) == pytest.approx(expected, rel=1e-5)


def test_xor_is_captured_by_the_product_and_by_no_pair():
    signs = 1.0 - 2.0 * np.array([[a, b, a ^ b] for a in (0, 1) for b in (0, 1)])
    # One sign bit a modality, spread over two dimensions so that the rows are unit vectors.
    a, b, c = (np.stack([s, s], 1).astype(np.float32) / np.sqrt(2) for s in signs.T)
    candidates = np.array([[1.0, 1.0], [-1.0, -1.0]], np.float32) / np.float32(np.sqrt(2))
    # Even M: an odd number of factors stays, so the sign of the product is the third modality's.
    third = np.asarray(scores(candidates, [a, b, np.abs(a)], "symile"))
    assert ((third[:, 0] > third[:, 1]) == (c[:, 0] > 0)).all()
    pairs = np.asarray(scores(candidates, [a, b], "pairwise"))
    assert np.allclose(pairs[1:3], pairs[1:3, :1])  # where a and b disagree the pairs cannot decide


def missing_system():
    system = Config(tuple((n, VectorEncoder()) for n in "xyz"), 4, missing=True).build()
    batch = dict(zip("xyz", vectors(6, 4))) | {"present": jnp.ones((6, 3))}
    params, _ = jax.jit(system.init)(jax.random.key(0), batch)
    return system, params, batch


def test_a_missing_modality_is_a_learned_vector_whatever_the_placeholder():
    system, params, batch = missing_system()
    embed = jax.jit(system.infer["y"])
    gone = batch | {"present": batch["present"].at[2, 1].set(0.0)}
    other = gone | {"y": gone["y"].at[2].set(1e3)}
    found = [np.asarray(embed(params, {}, b)) for b in (batch, gone, other)]
    np.testing.assert_array_equal(found[1], found[2])
    assert np.abs(found[0] - found[1])[2].max() > 0.1
    np.testing.assert_allclose(np.linalg.norm(found[1], axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(np.delete(found[0], 2, 0), np.delete(found[1], 2, 0))
    np.testing.assert_array_equal(found[0], embed(params, {}, {"y": batch["y"]}))
    grads = jax.jit(jax.grad(lambda p: system.loss(p, {}, gone, jax.random.key(0))[0]))(params)
    assert all(float(jnp.abs(g).max()) > 0 for g in jax.tree.leaves({"y": grads["missing"]["y"], "x": grads["x"]}))


def test_a_zero_vector_would_zero_the_gradient_of_the_others():
    x, y, z = vectors()
    scored = lambda x, z: scores(x, [y, z])[0, 0]  # noqa: E731
    assert float(jnp.abs(jax.grad(scored)(x, z)).max()) > 0
    assert float(jnp.abs(jax.grad(scored)(x, 0 * z)).max()) == 0


def test_takes_image_text_and_audio():
    parts = (modality.image("image", 16), modality.text("text", 8, 32), modality.audio("speech", 800, 4000))
    encoders = (
        ("image", ImageEncoder(TransformerConfig(width=16, depth=1, heads=2), patch=8)), ("text", TextEncoder(TransformerConfig(width=16, depth=1, heads=2), vocab=32, length=8)),
        ("speech", AudioEncoder(TransformerConfig(width=16, depth=1, heads=2), sample_rate=4000, n_fft=128, hop=64, n_mels=8, strides=(2,))),
    )  # fmt: skip
    batch = jax.tree.map(jnp.asarray, modality.example(parts, 4))
    system = Config(encoders, 8).build()
    params, _ = jax.eval_shape(system.init, jax.random.key(0), batch)
    assert jax.eval_shape(system.loss, params, {}, batch, jax.random.key(0))[0].shape == ()
    for name in ("image", "text", "speech"):
        assert jax.eval_shape(system.infer[name], params, {}, batch).shape == (4, 8)


class Seen(Model):
    """A model of given embeddings, with the groups 0, 1, 0, 2."""

    def __init__(self, **embeddings):
        self.given = embeddings

    def embed_split(self, name, split="test", fields=()):
        return self.given[name]

    def column(self, field, split="test"):
        return [0, 1, 0, 2]


def test_predict_against_a_loop():
    x, y, z = (np.asarray(v) for v in vectors())
    table = np.einsum("ck,bk,bk->bc", x, y, z)
    best = [table[i].argmax() for i in range(4)]
    seen = Seen(x=x, y=y, z=z)
    found = Predict("x", ("y", "z")).run(seen)
    assert found["x|y,z R@1"] == np.mean([b == i for i, b in enumerate(best)])
    keys = [0, 1, 0, 2]
    grouped = Predict("x", ("y", "z"), group="intent").run(seen)
    assert grouped["x|y,z R@1"] == np.mean([keys[b] == keys[i] for i, b in enumerate(best)])
    averaged = Predict("x", ("y",), averaged=("z",)).run(seen)
    mean = (x @ (y * z.mean(0)).T).argmax(0)
    assert averaged["x|y R@1"] == np.mean(mean == np.arange(4))


def test_predict_draws_candidates_of_other_groups():
    same = np.array([[a == b for b in (0, 1, 0, 2)] for a in (0, 1, 0, 2)])
    kept = Predict("x", ("y",), candidates=3)._drawn(same)
    assert kept.diagonal().all() and not (kept & same & ~np.eye(4, dtype=bool)).any()
    assert kept.sum(1).tolist() == [3, 3, 3, 3]
    assert Predict("x", ("y",), candidates=9)._drawn(same).sum(1).tolist() == [3, 4, 3, 4]


ABC = Config(tuple((n, VectorEncoder()) for n in "abc"))


def unchecked(**fields):
    """A config as code without run-time types would make it."""
    config = replace(ABC)
    for name, given in fields.items():
        object.__setattr__(config, name, given)
    return config


@pytest.mark.parametrize(
    "config, words",
    [
        (Config(), "give two or more"),
        (replace(ABC, encoders=ABC.encoders[:1] * 2), "each once"),
        (replace(ABC, encoders=(("scale", VectorEncoder()), *ABC.encoders)), "none scale"),
        (unchecked(objective="clip"), "system.objective is 'clip'"),
        (unchecked(negatives="all"), "system.negatives is 'all'"),
        (replace(ABC, objective="sum", negatives="n_squared"), 'only the "n" sampler'),
        (replace(ABC, encoders=ABC.encoders[:2]), "of one modality"),
        (replace(ABC, temperature=0.0), "system.temperature is 0.0"),
        (replace(ABC, dim=0), "system.dim is 0"),
    ],
)
def test_impossible_configs_are_explained(config, words):
    with pytest.raises(ConfigError, match=words):
        config.build()
