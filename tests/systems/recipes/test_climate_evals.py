"""Skill over climatology, on synthetic tiles with known results."""

import numpy as np
import pytest

from mmrep.model import Model
from mmrep.nn.maps import DenseModality
from mmrep.systems.recipes import climate as rasters
from mmrep.systems.recipes.climate import Climatology, MissingVariable, ProbedVariable

SIDE, PATCH = 6, 3
A, B, C = (DenseModality(n, (SIDE, SIDE), PATCH, mean=(0.2,), std=(0.5,)) for n in "abc")
LAND = DenseModality("land", (SIDE, SIDE), PATCH, classes=2)


def made(n, seed):
    """a is noise; b is the climatology of its row and month plus 0.3 a; c is a shifted by a patch, so no patch alone predicts it."""
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
    """b is reconstructed by `tell`; tokens are the patches of the first input."""

    def __init__(self, tell=None):
        self.sets = {s: made(n, i) for i, (s, n) in enumerate((("train", 200), ("val", 40), ("test", 50)))}
        self.tell = tell

    def records(self, split="test", limit=0):
        return self.sets[split][: limit or None]

    def call(self, name, /, **values):
        first = np.stack(next(iter(values.values())))
        if name == "fused_tokens":
            return (t := rasters.to_rows(first, PATCH).reshape(len(first), -1, PATCH**2)), np.ones(t.shape[:2], bool)
        records = [next(r for r in self.sets["test"] if r["a"] is a) for a in values["a"]]
        truth = np.stack([r["b"] for r in records])
        told = self.tell(truth, Climatology(self.sets["train"], "b")(self.sets["test"], SIDE))
        return {"b": (told - 0.2) / 0.5}


def test_climatology_is_the_mean_of_observed_cells_by_month_and_row():
    records = made(60, 0)
    usual = Climatology(records, "b")
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


def test_skill_is_1_for_the_truth_and_0_for_climatology_over_observed_cells():
    truth, usual = np.zeros((1, 2, 2, 1)), np.full((1, 2, 2, 1), 2.0)
    seen = np.array([[[True, True], [True, False]]])
    told = np.array([1.0, 0.0, 0.0, 99.0]).reshape(1, 2, 2, 1)
    assert rasters.error(told, truth, seen) == pytest.approx(1 / 3)
    assert rasters.skill(told, truth, usual, seen) == pytest.approx(1 - (1 / 3) / 4)
    assert rasters.skill(truth, truth, usual, seen) == 1.0 and rasters.skill(usual, truth, usual, seen) == 0.0


def test_rows_are_the_model_s_patches_and_invertible():
    from mmrep.nn.patches import patchify

    x = np.random.default_rng(0).random((2, 6, 9, 2)).astype(np.float32)
    cut = rasters.to_rows(x, 3)
    np.testing.assert_array_equal(cut, np.asarray(patchify(x, 3)).reshape(cut.shape))
    np.testing.assert_array_equal(rasters.from_rows(cut, 3, x.shape), x)


def test_missing_variable():
    task = MissingVariable(B, (A, LAND))
    truth = task.run(FakeModel(lambda truth, usual: truth))
    assert truth["b|a+land skill"] == pytest.approx(1.0, abs=1e-6) and truth["b|a+land RMSE"] < 1e-6
    usual = task.run(FakeModel(lambda truth, usual: usual))
    assert usual["b|a+land skill"] == pytest.approx(0.0, abs=1e-5)
    assert usual["b|a+land RMSE"] == pytest.approx(usual["b|a+land RMSE of climatology"], rel=1e-5)
    # The inputs of ridge contain 0.3 a and the position in the tile, but neither month nor row of the world.
    assert truth["b|a+land skill of the mean"] < truth["b|a+land skill of ridge"] < 0
    assert truth["b|a+land skill over ridge"] == pytest.approx(1 - truth["b|a+land skill of ridge"], abs=1e-6)


def test_ridge_uses_the_whole_tile_where_patches_do_not_suffice():
    model = FakeModel()
    train, val = model.sets["train"], model.sets["val"]
    fit, patch = MissingVariable(C, (A,))._ridge(train, val)
    assert patch == SIDE and fit.validation > -1e-6
    fit, patch = MissingVariable(A, (C, A))._ridge(train[:30], val)
    assert patch == PATCH  # where the own patch suffices it needs fewer tiles


def test_ridge_on_patches_is_not_fitted_on_filled_values():
    """Fitted on 20 % of holes filled with 0.5, it would be biased towards 0.5."""
    records = made(300, 5)
    for r in records:
        r["b"] = np.where(r["b_observed"][..., None], 0.3 * r["a"], 0.5).astype(np.float32)
    fit, patch = MissingVariable(B, (A,))._ridge(records[:240], records[240:])
    assert patch == PATCH and fit.validation > -1e-4


def test_probed_variable():
    found = ProbedVariable("b", (A,)).run(FakeModel())
    assert found["b|a probe skill"] == pytest.approx(found["b|a probe skill of raw patches"], abs=1e-4)
    assert found["b|a probe skill"] < 0  # a is independent of the climatology
    assert ProbedVariable("a", (A,)).run(FakeModel())["a|a probe skill"] > 0.99


def test_evenly_spaced_keeps_all_where_there_are_few():
    ten = [{"i": i} for i in range(10)]
    assert [r["i"] for r in rasters.evenly_spaced(ten, 4)] == [0, 3, 6, 9]
    assert rasters.evenly_spaced(ten[:2], 5) == ten[:2] == rasters.evenly_spaced(ten[:2], 0)
