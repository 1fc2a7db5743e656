"""Skill over the usual weather, on made tiles whose answers are known."""

import numpy as np
import pytest

from mmrep.model import Model
from mmrep.nn.maps import Map
from mmrep.systems.recipes import climate as rasters
from mmrep.systems.recipes.climate import MissingVariable, ProbedVariable, Usual

SIDE, PATCH = 6, 3
A, B, C = (Map(n, (SIDE, SIDE), PATCH, mean=(0.2,), std=(0.5,)) for n in "abc")
LAND = Map("land", (SIDE, SIDE), PATCH, classes=2)


def made(n, seed):
    """a is noise; b is the weather of its row and month, and 0.3 a; c is a shifted by a patch of columns, which no patch alone can tell."""
    rng = np.random.default_rng(seed)
    records = []
    for _ in range(n):
        month, row = int(rng.integers(1, 3)), int(rng.integers(0, 4))
        a = rng.random((SIDE, SIDE, 1), np.float32)
        usual = (0.1 * month + 0.05 * (row + np.arange(SIDE)))[:, None, None]
        seen = rng.random((SIDE, SIDE)) < 0.8
        record = {"month": np.int32(month), "row": np.int32(row), "a": a, "c": np.roll(a, PATCH, 1)}
        record |= {"b": np.where(seen[..., None], usual + 0.3 * a, 0.5).astype(np.float32), "b_observed": seen}
        record["land"] = rng.integers(0, 2, (SIDE, SIDE)).astype(np.uint8)
        records.append(record)
    return records


class FakeModel(Model):
    """Reconstructs b as `tell` says of (a, b), tokens are the patches of what is given first."""

    def __init__(self, tell=None):
        self.sets = {s: made(n, i) for i, (s, n) in enumerate((("train", 200), ("val", 40), ("test", 50)))}
        self.tell = tell

    def records(self, split="test", limit=0):
        return self.sets[split][: limit or None]

    def call(self, name, /, **values):
        first = np.stack(next(iter(values.values())))
        if name == "tokens":
            return rasters.patches(first, PATCH).reshape(len(first), -1, PATCH**2)
        records = [next(r for r in self.sets["test"] if r["a"] is a) for a in values["a"]]
        truth = np.stack([r["b"] for r in records])
        told = self.tell(truth, Usual(self.sets["train"], "b")(self.sets["test"], SIDE))
        return {"b": (told - 0.2) / 0.5}


def test_the_usual_is_the_mean_of_observed_cells_of_a_month_and_row():
    records = made(60, 0)
    usual = Usual(records, "b")
    for month, row in ((1, 0), (2, 4), (1, 8)):
        cells = [
            v
            for r in records
            if int(r["month"]) == month and 0 <= row - int(r["row"]) < SIDE
            for v, seen in zip(r["b"][row - int(r["row"]), :, 0], r["b_observed"][row - int(r["row"])])
            if seen
        ]
        assert usual.table[month, row, 0] == pytest.approx(np.mean(cells), rel=1e-5)
    everything = np.concatenate([r["b"][r["b_observed"]][:, 0] for r in records if int(r["month"]) == 2])
    assert usual.whole[2, 0] == pytest.approx(everything.mean(), rel=1e-5)
    far = [{"month": 2, "row": 40}]
    np.testing.assert_allclose(usual(far, SIDE), np.full((1, SIDE, SIDE, 1), everything.mean()), rtol=1e-5)


def test_skill_is_one_for_the_truth_none_for_the_usual_and_counts_observed_cells_alone():
    truth, usual = np.zeros((1, 2, 2, 1)), np.full((1, 2, 2, 1), 2.0)
    seen = np.array([[[True, True], [True, False]]])
    told = np.array([1.0, 0.0, 0.0, 99.0]).reshape(1, 2, 2, 1)
    assert rasters.error(told, truth, seen) == pytest.approx(1 / 3)
    assert rasters.skill(told, truth, usual, seen) == pytest.approx(1 - (1 / 3) / 4)
    assert rasters.skill(truth, truth, usual, seen) == 1.0 and rasters.skill(usual, truth, usual, seen) == 0.0


def test_patches_are_those_of_the_model_and_come_back():
    from mmrep.nn.patches import patchify

    x = np.random.default_rng(0).random((2, 6, 9, 2)).astype(np.float32)
    cut = rasters.patches(x, 3)
    np.testing.assert_array_equal(cut, np.asarray(patchify(x, 3)).reshape(cut.shape))
    np.testing.assert_array_equal(rasters.unpatches(cut, 3, x.shape), x)


def test_missing_variable():
    task = MissingVariable(B, (A, LAND))
    truth = task.run(FakeModel(lambda truth, usual: truth))
    assert truth["b|a+land skill"] == pytest.approx(1.0, abs=1e-6) and truth["b|a+land RMSE"] < 1e-6
    usual = task.run(FakeModel(lambda truth, usual: usual))
    assert usual["b|a+land skill"] == pytest.approx(0.0, abs=1e-5)
    assert usual["b|a+land RMSE"] == pytest.approx(usual["b|a+land RMSE of the usual"], rel=1e-5)
    # Ridge sees 0.3 a and the place within the tile, but neither month nor row of the world.
    assert truth["b|a+land skill of the mean"] < truth["b|a+land skill of ridge"] < 0
    assert truth["b|a+land skill over ridge"] == pytest.approx(1 - truth["b|a+land skill of ridge"], abs=1e-6)


def test_ridge_takes_the_whole_tile_where_patches_cannot_know():
    model = FakeModel()
    train, val = model.sets["train"], model.sets["val"]
    fit, patch = MissingVariable(C, (A,))._ridge(train, val)
    assert patch == SIDE and fit.validation > -1e-6
    fit, patch = MissingVariable(A, (C, A))._ridge(train[:30], val)
    assert patch == PATCH  # where one's own patch suffices it asks for fewer tiles


def test_ridge_on_patches_does_not_learn_what_was_filled_in():
    """Of 20 % holes filled with 0.5 it would learn to say 0.5 for one in five."""
    records = made(300, 5)
    for r in records:
        r["b"] = np.where(r["b_observed"][..., None], 0.3 * r["a"], 0.5).astype(np.float32)
    fit, patch = MissingVariable(B, (A,))._ridge(records[:240], records[240:])
    assert patch == PATCH and fit.validation > -1e-4


def test_probed_variable():
    found = ProbedVariable("b", (A,)).run(FakeModel())
    assert found["b|a probe skill"] == pytest.approx(found["b|a probe skill of raw patches"], abs=1e-4)
    assert found["b|a probe skill"] < 0  # of the weather of its row, a says nothing
    assert ProbedVariable("a", (A,)).run(FakeModel())["a|a probe skill"] > 0.99


def test_spread_is_even_and_keeps_all_when_there_are_few():
    ten = [{"i": i} for i in range(10)]
    assert [r["i"] for r in rasters.spread(ten, 4)] == [0, 3, 6, 9]
    assert rasters.spread(ten[:2], 5) == ten[:2] == rasters.spread(ten[:2], 0)
