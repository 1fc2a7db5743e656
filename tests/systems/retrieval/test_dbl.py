"""DBL: the authors' losses, closed forms, margins at the bounds, and its anchors."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.retrieval.dbl import get_config, sets
from mmrep import modality
from mmrep.data.pipeline import collate, open_split
from mmrep.data.sources import Table
from mmrep.errors import ConfigError
from mmrep.losses.ranking import hinge
from mmrep.model import Model
from mmrep.systems.retrieval.dbl import (
    Config,
    boost_absolute,
    boost_relative,
    gap,
    lower_margin,
    mean,
    momentum_at,
    mutual_loss,
    upper_margin,
)  # fmt: skip
from mmrep.systems.retrieval.dbl.evals import Margin

GOLDEN = dict(np.load(Path(__file__).parents[2] / "golden" / "dbl.npz"))
S, A = (jnp.asarray(GOLDEN[k]) for k in ("scores", "anchor"))


def total(both):
    return float(sum(v.sum() for v in both))


def test_the_authors_losses():
    assert total(hinge(S, 0.2)) == pytest.approx(GOLDEN["rank"], rel=1e-5)
    assert total(hinge(S, 0.2, False)) == pytest.approx(GOLDEN["rank_sum"], rel=1e-5)
    assert total(boost_absolute(S, A, 0.2, 0.3)) == pytest.approx(GOLDEN["absolute"], rel=1e-5)
    assert total(boost_relative(S, A, 0.14)) == pytest.approx(GOLDEN["relative"], rel=1e-5)
    assert 6 * float(mean(mutual_loss(S, A))) / 6 == pytest.approx(GOLDEN["mutual"], rel=1e-5)


def test_closed_forms():
    assert total(boost_absolute(S, S, 0.2)) == pytest.approx(6 * 4 * 0.1, rel=1e-5)
    assert total(boost_relative(S, S, 0.2)) == pytest.approx(2 * 6 * 0.2, rel=1e-5)
    best = 2 * jnp.eye(6) - 1
    assert total(boost_absolute(best, 0.5 * best, 0.2)) == total(boost_relative(best, 0.5 * best, 0.2)) == 0
    one = jnp.ones((1, 1))
    assert total(boost_relative(one, one, 0.2)) == 0 and total(boost_absolute(one, one, 0.2)) == pytest.approx(0.2)


def test_no_gradient_enters_the_anchor():
    for loss in (boost_absolute, boost_relative):
        slope = jax.grad(lambda a, loss=loss: mean(loss(S, a, 0.2, adapt="soft")))(A)
        assert not slope.any()
        assert jax.grad(lambda s, loss=loss: mean(loss(s, A, 0.2)))(S).any()


def test_equal_ids_are_no_negatives():
    ids = jnp.array([0, 0, 1, 2, 3, 4])
    moved = S.at[0, 1].add(0.3).at[1, 0].add(-0.3)
    for loss in (boost_absolute, boost_relative):
        np.testing.assert_allclose(total(loss(S, A, 0.2, ids=ids)), total(loss(moved, A, 0.2, ids=ids)), rtol=1e-6)


def test_margins_end_at_the_bounds():
    a = jnp.array([-1.0, 0.0, 0.85, 0.95, 1.0])
    np.testing.assert_allclose(upper_margin(a, 0.2, 1.0, "none"), 0.2)
    np.testing.assert_allclose(upper_margin(a, 0.2, 1.0, "hard"), [0.2, 0.2, 0.15, 0.05, 0], atol=1e-6)
    soft = 0.4 / (1 + np.exp(10 * (np.asarray(a) - 1))) - 0.2
    np.testing.assert_allclose(upper_margin(a, 0.2, 1.0, "soft"), soft, atol=1e-6)
    np.testing.assert_allclose(lower_margin(-a, 0.2, 1.0, "soft"), soft, atol=1e-6)


def test_the_momentum_rises_to_one():
    found = [float(momentum_at(0.9, 10, jnp.int32(k))) for k in (0, 5, 10, 20)]
    np.testing.assert_allclose(found, [0.9, 0.95, 1, 1], rtol=1e-6)
    assert float(momentum_at(0.9, 0, jnp.int32(7))) == pytest.approx(0.9)


@pytest.fixture(scope="module")
def batch():
    return modality.example(sets().data.modalities, 6)


def test_anchors(batch):
    runs = {}
    for anchor in ("synchronous", "momentum", "given", "shuffled"):
        system = sets(anchor=anchor).system.build()
        params, extras = jax.jit(system.init)(jax.random.key(0), batch)
        value, (_, metrics) = jax.jit(system.loss)(params, extras, batch, jax.random.key(1))
        assert value == pytest.approx(sum(float(metrics.get(k, 0)) for k in ("rank", "boost", "anchor")), rel=1e-5)
        runs[anchor] = metrics | {"params": params, "extras": extras, "system": system}
    assert set(runs["momentum"]["params"]) == {"target"} and float(runs["momentum"]["boost"]) == pytest.approx(
        0.4, rel=1e-4
    )
    assert "anchor" not in {k for k in runs["given"] if k != "params"} and "anchor" in runs["synchronous"]
    assert float(runs["synchronous"]["boost"]) != float(runs["shuffled"]["boost"])
    moved = jax.tree.map(lambda x: x + 1, runs["momentum"]["params"])
    after = runs["momentum"]["system"].update(moved, runs["momentum"]["extras"])
    before = jax.tree.leaves(runs["momentum"]["extras"]["anchor"])
    for old, new in zip(before, jax.tree.leaves(after["anchor"])):
        np.testing.assert_allclose(new - old, 0.0005, atol=2e-5)
    assert after["step"] == 1


def test_only_the_target_is_used_later(batch):
    system = sets().system.build()
    params, _ = jax.jit(system.init)(jax.random.key(0), batch)
    found = system.infer["image"]({"target": params["target"]}, {}, batch)
    np.testing.assert_allclose(jnp.linalg.norm(found, axis=1), 1, rtol=1e-5)
    assert not np.allclose(*(params[k]["image"]["projection"]["out"]["kernel"] for k in ("target", "anchor")))


class Fake(Model):
    """The part of Model that the evaluator uses."""

    def __init__(self, sets):
        self.sets = sets

    def embed_split(self, name, split="test", fields=()):
        return self.sets[name]


def test_margin_by_hand():
    x, y = np.eye(3, dtype=np.float32), np.array([[1, 0, 0], [0, 0.6, 0.8], [0, 0, 1]], np.float32)
    found = Margin().run(Fake({"image": x, "text": y}))
    # Rows: 1 - 0, 0.6 - 0, 1 - 0.8; columns: 1 - 0, 0.6 - 0.8, 1 - 0.
    assert found["pairs gap"] == pytest.approx((1 + 0.6 + 0.2 + 1 - 0.2 + 1) / 6) and found[
        "pairs R@1"
    ] == pytest.approx(5 / 6)
    assert found["pairs chance R@1"] == pytest.approx(1 / 3)
    s = jnp.asarray(x @ y.T)
    np.testing.assert_allclose(gap(s), [1, 0.6, 0.2], rtol=1e-5)


def test_a_table_of_eight_pictures(tmp_path):
    from PIL import Image

    rows = ["image,caption"]
    for i in range(8):
        Image.fromarray(np.full((40, 32, 3), 30 * i, np.uint8)).save(tmp_path / f"{i}.png")
        rows.append(f"{i}.png,grey number {i}")
    (tmp_path / "pairs.csv").write_text("\n".join(rows) + "\n")
    tiny = get_config("tiny")
    parts = tuple(replace(m, field=m.name) for m in tiny.data.modalities)
    data = replace(tiny.data, source=Table(tmp_path / "pairs.csv", fractions=(1.0, 0.0, 0.0)), modalities=parts)
    split = open_split(data, lambda words, length: np.arange(length, dtype=np.int32), "train")
    batch, system = collate([split.entry(i) for i in range(8)]), tiny.system.build()
    value, _ = system.loss(*system.init(jax.random.key(0), batch), batch, jax.random.key(0))
    assert np.isfinite(value)


@pytest.mark.parametrize(
    "change, words",
    [({"image": None}, "image"), ({"margin": 0.0}, "margin"), ({"gamma": 2.0}, "gamma"), ({"beta": 0.0, "adapt": "soft"}, "beta")],
)  # fmt: skip
def test_impossible_configs_are_explained(change, words):
    with pytest.raises(ConfigError, match=words):
        replace(sets().system, **change).build()
    assert Config().image is None
