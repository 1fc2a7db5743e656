import dataclasses

import numpy as np
import pytest

from mmrep.config import from_json, to_json
from mmrep.data.scenes.world import (
    COLOURS,
    DOMAINS,
    SHAPES,
    WorldSpec,
    combinations,
    domain,
    keys,
    latin_pairs,
    recolour,
    sample,
    swapped,
    take,
    uniform,
)  # fmt: skip
from mmrep.errors import ConfigError

GOLDEN_KEYS = [5197578548964807871, 12035550249420947055, 12935080325729570654]
GOLDEN_X = [0.4926160852, 0.4345707737, 0.4183249508]
SPECS = {d: domain(d) for d in DOMAINS} | {
    "grid": WorldSpec(n_objects=(3, 4), grid=4, distinct="each"),
    "rich": WorldSpec(shapes=SHAPES, colours=COLOURS, textures=("plain", "striped"), n_objects=(2, 5), overlap=True),
}


@pytest.mark.parametrize("name", SPECS)
def test_a_scene_depends_on_its_own_index_only(name):
    spec = SPECS[name]
    whole = sample(3, np.arange(200), spec)
    rows = np.array([150, 3, 77, 3])
    for field, a, b in zip(whole._fields, take(whole, rows), sample(3, rows, spec)):
        np.testing.assert_array_equal(a, b, err_msg=field)
    assert (sample(4, rows, spec).x != take(whole, rows).x).mean() > 0.9


def test_golden_scene_does_not_change_between_versions():
    s = sample(0, np.arange(3), WorldSpec())
    assert keys(0, np.arange(3)).tolist() == GOLDEN_KEYS
    assert [SHAPES[i] for i in s.shape[:, 0]] == ["heart", "heart", "square"]
    assert [COLOURS[i] for i in s.colour[:, 0]] == ["blue", "green", "yellow"]
    assert s.valid.sum(1).tolist() == [1, 2, 2]
    np.testing.assert_allclose(s.x[:, 0], GOLDEN_X, atol=1e-6)


def test_streams_are_uniform_and_independent():
    key = keys(0, np.arange(20_000))
    a, b = uniform(key, "a", 2), uniform(key, "b")
    assert a.min() >= 0 and a.max() < 1
    assert abs(a.mean() - 0.5) < 0.01 and abs(a.var() - 1 / 12) < 0.002
    correlation = np.corrcoef(np.stack([a[:, 0], a[:, 1], b, np.roll(b, 1)]))
    assert np.abs(correlation - np.eye(4)).max() < 0.03


def test_values_follow_the_spec():
    spec = WorldSpec(
        n_objects=(2, 4), shapes=("star", "drop"), colours=("red", "grey"), sizes=("medium",), distinct="pair"
    )
    s = sample(1, np.arange(3000), spec)
    assert {SHAPES[i] for i in np.unique(s.shape)} == {"star", "drop"}
    assert {COLOURS[i] for i in np.unique(s.colour)} == {"red", "grey"}
    counts = np.bincount(s.valid.sum(1), minlength=5)
    assert counts[:2].sum() == 0 and np.abs(counts[2:] / 3000 - 1 / 3).max() < 0.04
    assert (s.valid == (np.arange(4) < s.valid.sum(1)[:, None])).all()
    first = s.shape[:, 0] * 100 + s.colour[:, 0]
    assert np.abs(np.unique(first, return_counts=True)[1] / 3000 - 0.25).max() < 0.04


@pytest.mark.parametrize("distinct", ["pair", "each"])
def test_distinct(distinct):
    s = sample(0, np.arange(500), WorldSpec(n_objects=(4, 4), distinct=distinct))
    for shape, colour in zip(s.shape, s.colour):
        assert len(set(zip(shape, colour))) == 4
        if distinct == "each":
            assert len(set(shape)) == len(set(colour)) == 4


def test_objects_lie_inside_and_apart():
    for spec in (WorldSpec(n_objects=(2, 5)), WorldSpec(n_objects=(4, 4), sizes=("big",)), SPECS["grid"]):
        s = sample(0, np.arange(1000), spec)
        r = np.where(s.valid, s.radius, 0)
        for v in (s.x, s.y):
            assert ((v - r >= -1e-9) & (v + r <= 1 + 1e-9))[s.valid].all()
        away = np.hypot(s.x[:, :, None] - s.x[:, None], s.y[:, :, None] - s.y[:, None])
        both = s.valid[:, :, None] & s.valid[:, None] & ~np.eye(s.x.shape[1], dtype=bool)
        assert (away >= r[:, :, None] + r[:, None])[both].all()
        assert s.radius[s.valid].min() > 0.03


def test_grid_keeps_objects_in_their_own_cells():
    s = sample(0, np.arange(200), SPECS["grid"])
    np.testing.assert_allclose((s.x * 4) % 1, 0.5)
    assert (s.radius <= 1 / 8).all()
    cell = (s.y * 4).astype(int) * 4 + (s.x * 4).astype(int)
    assert all(len(set(c[v])) == v.sum() for c, v in zip(cell, s.valid))


def test_unseen_combinations_are_never_seen():
    seen, unseen = domain("seen"), domain("unseen")
    a, b = (
        {tuple(p) for p in np.stack([s.shape[s.valid], s.colour[s.valid]], -1).tolist()}
        for s in (sample(0, np.arange(2000), spec) for spec in (seen, unseen))
    )
    assert not a & b and len(a) == 48 and len(b) == 16
    for pairs in (a, b):
        assert len({p[0] for p in pairs}) == len({p[1] for p in pairs}) == 8
    assert len(combinations(seen)) + len(combinations(unseen)) == len(combinations(WorldSpec()))


def test_domains_differ_where_they_say():
    clean, texture, night, line = (sample(0, np.arange(300), domain(d)) for d in ("clean", "texture", "night", "line"))
    assert not set(np.unique(clean.shape)) & set(np.unique(texture.shape))
    assert (texture.ground > 0).all() and (clean.ground == 0).all()
    assert (night.light == 1).all() and (line.style == 1).all() and (clean.light == 0).all()
    assert domain("night", colours=("red",)).colours == ("red",)
    assert domain("unseen", shapes=SHAPES[:4]).held_out == latin_pairs(SHAPES[:4], COLOURS[:8])


def test_recolour_changes_one_colour_only():
    s = sample(0, np.arange(50), WorldSpec(n_objects=(2, 3)))
    slot, colour = np.arange(50) % 2, (s.colour[np.arange(50), np.arange(50) % 2] + 1) % 8
    t = recolour(s, slot, colour)
    for field, a, b in zip(s._fields, s, t):
        if field != "colour":
            np.testing.assert_array_equal(a, b)
    assert ((s.colour != t.colour).sum(1) == 1).all()
    assert (t.colour[np.arange(50), slot] == colour).all()


def test_swapped_makes_pairs_that_the_scene_does_not_have():
    s = sample(0, np.arange(2000), WorldSpec(n_objects=(1, 4), shapes=SHAPES[:3], colours=COLOURS[:3]))
    t, done = swapped(s)
    assert 0.3 < done.mean() < 1 and not done[s.valid.sum(1) == 1].any()
    for i in range(2000):
        before, after = (set(zip(v.shape[i][v.valid[i]], v.colour[i][v.valid[i]])) for v in (s, t))
        assert len(after - before) == (2 if done[i] else 0)
        assert sorted(s.colour[i]) == sorted(t.colour[i])
    each = swapped(sample(0, np.arange(500), WorldSpec(n_objects=(2, 3), distinct="each")))[1]
    assert each.all()


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"shapes": ("circel",)}, "did you mean 'circle'"),
        ({"colours": ()}, "world.colours is empty"),
        ({"sizes": ("big", "big")}, "twice"),
        ({"n_objects": (3, 2)}, "n_objects"),
        ({"grid": 1, "n_objects": (2, 2)}, "grid"),
        ({"combinations": "unseen"}, "held_out"),
        ({"shapes": ("star",), "distinct": "each"}, "distinct"),
        ({"held_out": (("star", "mauve"),)}, "held_out"),
    ],
)
def test_a_wrong_spec_is_refused_with_its_field(change, sentence):
    with pytest.raises(ConfigError, match=sentence):
        WorldSpec(**change)


def test_unknown_domain_and_json():
    with pytest.raises(ConfigError, match="did you mean 'night'"):
        domain("nigth")
    spec = domain("unseen", n_objects=(2, 2))
    assert from_json(to_json(spec)) == spec
    assert dataclasses.replace(spec, grid=4) != spec
