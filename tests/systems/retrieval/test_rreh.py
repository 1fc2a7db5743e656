"""RREH: the closed forms against gradients of the objective, its hand checks, and codes (no code of the authors is available)."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from configs.retrieval.rreh import get_config
from mmrep import modality
from mmrep.config import Data
from mmrep.data.columns import Columns
from mmrep.data.features import Features
from mmrep.data.pipeline import collate, open_split
from mmrep.data.sources import Table
from mmrep.errors import ConfigError, DataError
from mmrep.systems.retrieval.rreh import Config, Solve
from mmrep.systems.retrieval.rreh.data import SemiPaired, present
from mmrep.systems.retrieval.rreh.hashing import hash_functions, scaler
from mmrep.systems.retrieval.rreh.model import (
    UPDATES,
    Weights,
    objective,
    reconstruction,
    signs,
    solve,
    start,
    update_r,
    update_u,
    update_v_p,
    update_v_u,
    update_w,
)
from mmrep.training.loop import Context

WEIGHTS = Weights(relations=3.0, ridge=0.1)


def columns(pairs=30, alone=(12, 7), seed=0, noise=0.3):
    rng = np.random.default_rng(seed)
    maps = [rng.standard_normal((d, 5)) for d in (9, 7)]
    paired = rng.standard_normal((5, pairs))
    sides = []
    for m, n in zip(maps, alone):
        z = np.concatenate([paired, rng.standard_normal((5, n))], 1)
        sides.append(m @ z + noise * rng.standard_normal((len(m), pairs + n)))
    return [s[:, :pairs] for s in sides], [s[:, pairs:] for s in sides]


def begun(bits=4):
    paired, unpaired = columns()
    s, sides = start(paired, unpaired, bits, np.arange(8), WEIGHTS)
    for update in UPDATES:
        s = update(s, sides, WEIGHTS)
    return s, sides


def test_every_update_lowers_the_objective():
    s, sides = begun()
    for _ in range(4):
        for update in UPDATES:
            before = objective(s, sides, WEIGHTS)
            s = update(s, sides, WEIGHTS)
            assert objective(s, sides, WEIGHTS) <= before * (1 + 1e-12), update.__name__


@pytest.mark.parametrize("update, field", [(update_u, "u"), (update_v_u, "v_u"), (update_v_p, "v_p"), (update_w, "w")])
def test_an_update_is_where_its_gradient_vanishes(update, field):
    s, sides = begun()
    s = update(s, sides, WEIGHTS)
    rng, step = np.random.default_rng(1), 1e-4
    value = getattr(s, field)
    for part in range(len(value)) if isinstance(value, tuple) else (None,):
        x = value if part is None else value[part]
        way = rng.standard_normal(x.shape)
        moved = []
        for sign in (1, -1):
            new = x + sign * step * way
            new = new if part is None else tuple(new if i == part else v for i, v in enumerate(value))
            moved.append(objective(s._replace(**{field: new}), sides, WEIGHTS))
        assert abs(moved[0] - moved[1]) / (2 * step) < 1e-5 * objective(s, sides, WEIGHTS)


def test_a_column_that_is_an_anchor_is_its_own_reconstruction():
    a = np.random.default_rng(0).standard_normal((9, 5))
    np.testing.assert_allclose(reconstruction(a, a[:, 2:3], 1e-12)[:, 0], np.eye(5)[2], atol=1e-6)


def test_the_rotation_is_recovered():
    s, sides = begun()
    r = np.linalg.qr(np.random.default_rng(2).standard_normal((4, 4)))[0]
    s = s._replace(b_p=r @ s.v_p, b_u=tuple(r @ v for v in s.v_u))
    np.testing.assert_allclose(update_r(s, sides, WEIGHTS).r, r, atol=1e-6)


def test_the_sign_of_zero_is_plus():
    assert signs(np.array([[0.0, -1e-9, 2.0]])).tolist() == [[1, -1, 1]]


def test_with_all_items_paired_relations_change_nothing():
    paired, _ = columns()
    none = [np.zeros((len(x), 0)) for x in paired]
    a, b = (solve(paired, none, 4, np.arange(8), replace(WEIGHTS, relations=t))[0].w for t in (0.0, 100.0))
    np.testing.assert_allclose(a[0], b[0], atol=1e-9)


def test_solutions_that_cannot_be():
    paired, unpaired = columns(pairs=6)
    for bits, anchors in ((7, 3), (4, 7), (4, 0)):
        with pytest.raises(DataError, match="6 pairs"):
            solve(paired, unpaired, bits, np.arange(anchors), WEIGHTS)
    with pytest.raises(DataError, match="NaN"):
        solve([x * np.nan for x in paired], unpaired, 4, np.arange(3), WEIGHTS)
    with pytest.raises(DataError, match="no modality"):
        hash_functions(paired[0].T, paired[1].T, np.zeros((6, 2)), bits=2, anchors=2, weights=WEIGHTS)
    doubled = [np.concatenate([x[:, :3]] * 2, 1) for x in paired]  # equal anchors
    assert np.isfinite(solve(doubled, unpaired, 3, np.arange(6), WEIGHTS)[0].w[0]).all()


def test_codes_keep_the_rows_and_queries_are_centred_by_training():
    here = present(49, 0.6, 0)
    x, y = (np.random.default_rng(i).standard_normal((49, d)) + 4 for i, d in enumerate((9, 7)))
    h = hash_functions(x, y, here, bits=4, anchors=8, weights=WEIGHTS)
    assert h.codes.shape == (49, 4) and set(np.unique(h.codes)) == {-1.0, 1.0}
    f = scaler(x)
    np.testing.assert_allclose(f(x).mean(1), 0, atol=1e-9)
    assert np.abs(f(x[:1])).max() > 0.01 and (f(x) ** 2).mean() == pytest.approx(1)
    alone = hash_functions(x, y, here, bits=4, anchors=8, weights=WEIGHTS, pairs_only=True)
    only = np.flatnonzero(here[:, 1] == 0)
    g, w = alone.functions[0]
    np.testing.assert_array_equal(alone.codes[only], signs(w @ g(x[only])).T)


def test_semi_paired_records():
    here = present(20, 0.3, 0)
    assert here.all(1).sum() == 6 and here.any(1).all() and here.sum(0).tolist() == [13, 13]

    class Ones:
        def open(self, split):
            return Columns({"image": np.ones((20, 3), np.float32), "text": np.ones((20, 2), np.float32)})

        def view(self, record, rng):
            return record

    source = SemiPaired(Ones(), paired=0.3)
    records = source.open("train")
    for i in range(20):
        shown = source.view(records[i], None)
        assert [shown["image"].max(), shown["text"].max()] == here[i].tolist() == shown["present"].tolist()
    assert all(source.open("test")[i]["present"].all() for i in range(20))
    with pytest.raises(ConfigError, match="paired 2"):
        SemiPaired(Ones(), paired=2.0)


def test_eight_pictures_and_captions_of_a_table(tmp_path):
    rows = ["image,caption"]
    for i in range(8):
        pixels = np.random.default_rng(i).integers(0, 255, (16, 16, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        rows.append(f"{i}.png,picture number {i} of eight")
    (tmp_path / "t.csv").write_text("\n".join(rows) + "\n")
    table = Features(Table(tmp_path / "t.csv", fractions=(1.0, 0.0, 0.0)), cells=2, words=6)
    parts = (
        modality.vector("image", 36 + 192 + 64, field="gradients"), modality.vector("text", 6, field="words"),
        modality.vector("present", 2),
    )  # fmt: skip
    data = Data(SemiPaired(table, ("gradients", "words"), paired=0.75), parts)
    split, system = open_split(data, None, "train"), Config(bits=4).build()
    batch = jax.tree.map(jnp.asarray, collate([split.entry(i) for i in range(8)]))
    params, extras = system.init(jax.random.key(0), batch)
    assert system.loss is None
    params, extras = Solve(anchors=4)(params, extras, Context(split, system, jax.random.key(0), lambda name: split))
    codes = system.infer["image"](params, extras, batch)
    assert codes.shape == (8, 4) and set(np.unique(codes)) <= {-1.0, 1.0} and float(extras["objective"]) > 0


@pytest.mark.parametrize("change, words", [({"bits": 0}, "bits is 0"), ({"names": ("a", "a")}, "two names")])
def test_impossible_configs_are_explained(change, words):
    with pytest.raises(ConfigError, match=words):
        Config(**change).build()


def test_features_of_a_picture_are_vectors():
    with pytest.raises(ConfigError, match="one vector a record"):
        Config().build().init(jax.random.key(0), {"image": jnp.ones((2, 4, 4)), "text": jnp.ones((2, 3))})
    assert get_config("paper").system.bits == 128
