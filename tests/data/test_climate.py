"""The geometry of the split and the two months in the package; the whole set is read where it is on this machine."""

import json
import pickle

import numpy as np
import pytest

from mmrep.config import from_json, to_json
from mmrep.data import climate
from mmrep.data.climate import COVER, VARIABLES, Climate, blocks, ferret, scale_of
from mmrep.data.climate.blocks import BLOCK, CELL, COLUMNS, GAP, ROWS, TILE
from mmrep.errors import ConfigError, DataError

SPLITS = ("train", "val", "test")
SOURCE = Climate(sample=True)


def cells(split: str) -> np.ndarray:
    """(row, column) of every cell that a tile of the split can show."""
    shown = np.zeros((ROWS, COLUMNS), bool)
    for row, column in blocks.corners(split):
        shown[row : row + TILE, np.arange(column, column + TILE) % COLUMNS] = True
    return np.argwhere(shown)


@pytest.mark.parametrize("pair", [("train", "val"), ("train", "test"), ("val", "test")])
def test_five_degrees_at_least_lie_between_any_two_splits(pair):
    a, b = (cells(s) for s in pair)
    rows = np.abs(a[:, None, 0] - b[None, :, 0])
    columns = np.abs(a[:, None, 1] - b[None, :, 1])
    apart = np.maximum(rows, np.minimum(columns, COLUMNS - columns)).min()
    assert apart - 1 >= GAP and GAP * CELL > 5.0  # cells between the nearest two, and their degrees
    assert pair[0] != "train" or apart - 1 == GAP  # no wider than need be


def test_each_band_of_latitude_is_held_out_in_two_blocks_of_either_kind():
    sides = [[blocks.side(b, c) for c in range(COLUMNS // BLOCK)] for b in range(ROWS // BLOCK)]
    assert all(row.count("test") == row.count("val") == 2 for row in sides)
    assert len(blocks.corners("test")) == len(blocks.corners("val")) == 8
    assert len(blocks.corners("train")) == 616
    for row, column in np.concatenate([blocks.corners("val"), blocks.corners("test")]):  # within its own block
        assert row // BLOCK == (row + TILE - 1) // BLOCK and column // BLOCK == (column + TILE - 1) // BLOCK


def test_train_cells_by_brute_force():
    held = np.argwhere(blocks.held_out())
    for row in range(0, ROWS, 7):
        for column in range(COLUMNS):
            step = np.abs(held[:, 1] - column)
            near = np.maximum(np.abs(held[:, 0] - row), np.minimum(step, COLUMNS - step)).min()
            assert blocks.train_cells()[row, column] == (near > GAP)


def test_held_out_cells_do_not_move_scale_or_fill():
    values = ferret.sample().values["wind"].copy()
    before = scale_of(values)
    values[:, ~blocks.train_cells()] += 1000.0
    assert all(np.array_equal(a, b) for a, b in zip(before, scale_of(values)))
    values[:, blocks.train_cells()] += 1.0
    np.testing.assert_allclose(scale_of(values).low, before.low + 1.0, rtol=1e-5)


@pytest.mark.parametrize("split", SPLITS)
def test_records(split):
    records = SOURCE.open(split)
    assert len(records) == {"train": 791, "val": 11, "test": 13}[split]
    ids = {int(r["id"]) for r in records}
    assert len(ids) == len(records)
    for r in (records[i] for i in range(0, len(records), 1 + len(records) // 40)):
        for name, bands in VARIABLES.items():
            assert r[name].shape == (TILE, TILE, len(bands)) and r[name].dtype == np.float32
            assert r[name].min() >= 0 and r[name].max() <= 1
        assert r["relief"].shape == (TILE, TILE, 1) and r["cover"].shape == (TILE, TILE)
        complete = np.logical_and.reduce([r[f"{name}_observed"] for name in VARIABLES])
        assert complete.mean() >= SOURCE.least
        assert np.array_equal(complete, r["cover"] == COVER.index("observed"))
        assert int(r["month"]) in ferret.SAMPLE_MONTHS and -60 < r["latitude"] < 60 and -180 <= r["longitude"] < 180


def test_what_was_not_observed_holds_the_mean_of_the_training_cells():
    grid, world = ferret.sample(), SOURCE._world
    for name in VARIABLES:
        hole = np.isnan(grid.values[name]).any(-1)
        assert 0.2 < hole.mean() < 0.4
        filled = world.maps[name][:, :, :COLUMNS][hole]
        np.testing.assert_allclose(filled, np.broadcast_to(world.scales[name].mean, filled.shape), atol=1e-6)
        assert not world.observed[name][:, :, :COLUMNS][hole].any()
        train = world.maps[name][:, :, :COLUMNS][:, blocks.train_cells()]
        seen = world.observed[name][:, :, :COLUMNS][:, blocks.train_cells()]
        np.testing.assert_allclose(train[seen].mean(0), world.scales[name].mean, atol=1e-5)


def test_a_tile_over_the_seam_of_the_grid_is_whole():
    world = SOURCE._world
    assert (blocks.corners("train")[:, 1] > COLUMNS - TILE).any()
    for name, values in world.maps.items():
        assert values.shape[2] == COLUMNS + TILE - 1
        assert np.array_equal(values[:, :, COLUMNS:], values[:, :, : TILE - 1]), name


def test_sky_is_the_sun_of_the_season():
    june, december = (550 * climate.sky(m)[:, 1] for m in (6, 12))
    np.testing.assert_allclose(
        june, december[::-1], rtol=0.04
    )  # the seasons of the hemispheres are alike, six months apart
    # June at 45 N by adding up the day: 1361 W/m2 times the sine of the sun's height, of a tilt of 23.3 degrees.
    hours, phi, tilt = np.deg2rad(np.arange(0, 360, 0.1)), np.deg2rad(45), np.deg2rad(23.3)
    height = np.sin(phi) * np.sin(tilt) + np.cos(phi) * np.cos(tilt) * np.cos(hours)
    assert june[52] == pytest.approx(1361 * np.maximum(height, 0).mean(), rel=0.005)
    np.testing.assert_allclose(climate.sky(3)[[0, 59], 0], [1 / 120, 119 / 120], rtol=1e-5)
    record = SOURCE.open("test")[0]
    np.testing.assert_array_equal(record["sky"][:, 3], climate.sky(int(record["month"]))[int(record["row"]) :][:TILE])


def test_units_come_back():
    grid, record = ferret.sample(), SOURCE.open("test")[0]
    (low,), (high,) = SOURCE.scales["slp"]
    row, column = int(record["row"]), int(record["column"])
    month = grid.months.index(int(record["month"]))
    true = grid.values["slp"][month, row : row + TILE, column : column + TILE]
    seen = record["slp_observed"] & (true[..., 0] > low) & (true[..., 0] < high)
    np.testing.assert_allclose((record["slp"] * (high - low) + low)[seen], true[seen], atol=1e-3)
    assert 950 < low < high < 1050


def test_the_sea_is_warm_in_the_tropics_and_land_lies_above_it():
    records = SOURCE.open("train")
    rows = [records[i] for i in range(0, len(records), 10)]
    (low,), (high,) = SOURCE.scales["sst"]
    warm = {
        zone: np.mean([(r["sst"] * (high - low) + low)[r["sst_observed"]].mean() for r in rows if zone(r["latitude"])])
        for zone in (lambda x: abs(x) < 15, lambda x: abs(x) > 40)
    }
    tropics, poles = warm.values()
    assert 24 < tropics < 30 and 0 < poles < 15
    level = [r["relief"][r["cover"] == c].mean() for r in rows for c in (0, 1) if len({*r["cover"].flat}) == 3]
    assert np.mean(np.array(level).reshape(-1, 2)[:, 0] > np.array(level).reshape(-1, 2)[:, 1]) > 0.95


def test_the_same_every_time_and_no_change_by_the_view():
    a, b = SOURCE.open("test"), Climate(sample=True).open("test")
    assert all(np.array_equal(a[3][k], b[3][k]) for k in a[3])
    shown = SOURCE.view(a[3], np.random.default_rng(0))
    assert all(np.array_equal(shown[k], a[3][k]) for k in a[3])
    again = pickle.loads(pickle.dumps(a))
    assert np.array_equal(again[3]["sst"], a[3]["sst"])
    assert list(SOURCE.texts("train")) == [] and from_json(json.loads(json.dumps(to_json(SOURCE)))) == SOURCE


def test_mistakes_are_named():
    with pytest.raises(DataError, match="no split 'tests'"):
        SOURCE.open("tests")
    with pytest.raises(ConfigError, match="least"):
        Climate(least=0.0)


def test_absent_files_are_one_sentence(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"has no coads_climatology\.cdf or no etopo120\.cdf"):
        Climate(folder=str(tmp_path)).open("test")
    monkeypatch.setenv("MMREP_FERRET", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="nowhere has no"):
        ferret.find()
    monkeypatch.delenv("MMREP_FERRET")
    monkeypatch.setattr(ferret, "USUAL", tmp_path / "usual")
    monkeypatch.setenv("MMREP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))  # no apt-get
    with pytest.raises(DataError, match="apt install ferret-datasets"):
        ferret.find()
    assert not (tmp_path / "cache").exists()


def test_files_are_looked_for_in_their_order_and_checked(tmp_path, monkeypatch):
    places = [tmp_path / name for name in ("cache/climate", "usual", "env", "given")]
    monkeypatch.setattr(ferret, "USUAL", places[1])
    monkeypatch.setenv("MMREP_CACHE", str(tmp_path / "cache"))
    for place in places:
        place.mkdir(parents=True)
        for name in ferret.FILES:
            (place / name).write_bytes(b"CDF\x01")
        if place.name == "env":
            monkeypatch.setenv("MMREP_FERRET", str(place))
        assert ferret.find(str(place) if place.name == "given" else "") == place
    with pytest.raises(DataError, match="SHA-256 differs"):
        ferret.read(places[3])


def test_a_package_that_apt_brings_is_unpacked_into_the_cache(tmp_path, monkeypatch):
    def run(command, cwd, **_):
        if command[0] == "sh":
            inside = tmp_path / cwd / "unpacked" / "usr/share/ferret-vis/data"
            inside.mkdir(parents=True)
            for name in ferret.FILES:
                (inside / name).write_text(name)

    monkeypatch.setattr(ferret.subprocess, "run", run)
    folder = ferret._fetch(tmp_path / "cache")
    assert {p.name: p.read_text() for p in folder.iterdir()} == {name: name for name in ferret.FILES}


def test_the_sample_comes_back_as_it_was_written(tmp_path, monkeypatch):
    grid = ferret.sample()
    ferret.write_sample(grid, tmp_path / "again.npz")
    monkeypatch.setattr(ferret, "SAMPLE", tmp_path / "again.npz")
    again = ferret.sample()
    for name, values in grid.values.items():
        np.testing.assert_allclose(again.values[name], values, atol=1e-3)
    assert ferret.Path(ferret.__file__).with_name("sample.npz").stat().st_size < 100_000


def test_the_whole_set_where_it_is(monkeypatch):
    place = next((p for p in (ferret.USUAL, ferret.paths.cache() / "climate") if ferret._complete(p)), None)
    if place is None:
        pytest.skip("ferret-datasets is not on this machine")
    source = Climate(folder=str(place))
    assert {s: len(source.open(s)) for s in SPLITS} == {"train": 4703, "val": 68, "test": 79}
    whole, part = ferret.read(place), ferret.sample()
    for name, values in part.values.items():
        same = whole.values[name][[m - 1 for m in part.months]]
        step = (np.nanmax(same) - np.nanmin(same)) / 250
        assert np.array_equal(np.isnan(same), np.isnan(values)) and np.nanmax(np.abs(same - values)) <= 0.51 * step
