"""A world of attributes: regions, pictures, captions, identities and objects."""

from dataclasses import replace

import numpy as np
import pytest

from mmrep.data.things import Things, colours, word
from mmrep.errors import ConfigError, DataError

ONE = Things(60, 20, 20, factors=(4, 3, 5), dim=6, noise=0.0)
SETS = Things(60, 20, 20, factors=(6, 3), objects=3, absent=2, places=4, dim=6, noise=0.0, picture=(16, 8))


def columns(source, split="train"):
    return source.open(split).columns


def test_records_and_shapes():
    found = replace(ONE, told=(1.0, 0.5), listings=2, fillers=1, picture=(6, 4)).open("train")[3]
    shapes = {k: np.shape(v) for k, v in found.items()}
    assert shapes == {
        "attributes": (3,), "labels": (4,), "label": (), "identity": (), "row": (), "regions": (3, 6), "picture": (6, 4, 3), "text": (),
        "owner": (4,), "text_1": (), "regions_b": (3, 6), "picture_b": (6, 4, 3), "text_b": (), "owner_b": (4,), "text_1_b": (),
    }  # fmt: skip
    assert found["row"] == found["identity"] == 3 and found["regions"].dtype == np.float32
    assert columns(SETS)["attributes"].shape == (60, 3, 2) and "label" not in columns(SETS)


def test_a_caption_names_the_attributes_and_their_regions():
    data = columns(replace(ONE, fillers=2, shown=(2, 0)))
    for text, owner, values in zip(data["text"], data["owner"], data["attributes"]):
        regions = {w: r for w, r in zip(text.split(), owner) if r >= 0}
        assert regions == {word(0, values[0]): 1, word(2, values[2]): 0} and len(text.split()) == 5
        assert word(1, values[1]) in text.split()


def test_equal_values_have_equal_codes():
    data = columns(ONE)
    for a in range(3):
        x, v = data["regions"][:, a], data["attributes"][:, a]
        assert all(np.ptp(x[v == k], 0).max() == 0 for k in set(v)) and len(np.unique(x, axis=0)) == len(set(v))


def test_objects_have_places_of_their_own():
    data = columns(SETS)
    codes = {}
    for i, values in enumerate(data["attributes"]):
        there = values[values[:, 0] >= 0]
        assert 1 <= len(there) == len({*there[:, 0]}) and (data["labels"][i].nonzero()[0] == np.sort(there[:, 0])).all()
        words, owner = data["text"][i].split(), data["owner"][i]
        assert len(words) == 2 * len(there)
        for k in range(0, len(words), 2):
            assert owner[k] == owner[k + 1]
            codes.setdefault((words[k], words[k + 1]), []).append(data["regions"][i, owner[k]])
        assert (np.abs(data["regions"][i]).sum(1) > 0).sum() == len(there)
    assert all(np.ptp(v, 0).max() < 1e-6 for v in codes.values())


def test_a_caption_tells_its_share():
    data = columns(replace(ONE, factors=(4,) * 6, told=(0.5, 0.8)))
    assert {len(t.split()) for t in data["text"]} == {3} and {len(t.split()) for t in data["text_1"]} == {5}
    assert all(w.startswith("1") for t in data["text_1"] for w in t.split())
    assert len({frozenset(w[0] for w in t.split()) for t in data["text"]}) > 5


def test_identities_are_distinct_and_of_one_split():
    source = replace(ONE, views=5, held_views=2, noise=0.3)
    found = {}
    for split, views in (("train", 5), ("val", 2), ("test", 2)):
        data = columns(source, split)
        np.testing.assert_array_equal(np.bincount(data["identity"]), views)
        combos = data["attributes"].reshape(-1, views, 3)
        assert np.ptp(combos, 1).max() == 0
        found[split] = {tuple(c) for c in combos[:, 0]}
        assert len(found[split]) == len(combos)
    assert not found["train"] & found["test"] and not found["val"] & (found["train"] | found["test"])
    with pytest.raises(DataError, match="no 10 combinations"):
        replace(source, factors=(2, 2)).open("test")


def test_rows_do_not_depend_on_their_number():
    for source in (replace(ONE, views=3, noise=0.2, fillers=1, synonyms=2, nuisance=0.5), replace(SETS, noise=0.2)):
        long, short = columns(source), columns(replace(source, n_train=7))
        for name, few in short.items():
            np.testing.assert_array_equal(long[name][:7], few, name)


def test_a_nuisance_is_shared_by_the_regions_of_one_listing():
    plain, moved = (columns(replace(ONE, nuisance=s, listings=2)) for s in (0.0, 2.0))
    d = moved["regions"] - plain["regions"]
    assert np.ptp(d, 1).max() < 1e-5 and d.std() == pytest.approx(2, abs=0.3)
    assert np.abs(d - (moved["regions_b"] - plain["regions_b"])).max() > 1


def test_colours_differ_in_hue_alone():
    found = colours(7)
    np.testing.assert_allclose(found @ [0.299, 0.587, 0.114], 0.5, atol=1e-12)
    assert found.min() >= 0 and found.max() <= 1
    pixels = columns(replace(ONE, picture=(6, 4), grain=0.0))
    for a, k in enumerate(ONE.factors):
        band = pixels["picture"][:, 2 * a : 2 * a + 2].reshape(60, -1, 3)
        assert np.ptp(band, 1).max() == 0
        np.testing.assert_array_equal(band[:, 0], np.rint(255 * colours(k)[pixels["attributes"][:, a]]))
    pictures = columns(replace(SETS, grain=0.0))["picture"]
    empty = (pictures == 128).all(-1).reshape(60, 2, 8, 2, 4).all((2, 4)).reshape(60, 4)
    np.testing.assert_array_equal(empty.sum(1), 4 - columns(SETS)["labels"].sum(1))


def test_the_tokenizer_sees_every_word():
    source = replace(ONE, told=(0.4, 0.4), fillers=1, synonyms=2)
    words = {w for s in ("val", "test") for k in ("text", "text_1") for t in columns(source, s)[k] for w in t.split()}
    assert words <= {*source.vocabulary} <= {w for t in source.texts("train") for w in t.split()}


@pytest.mark.parametrize(
    "change, words",
    [
        ({"factors": ()}, "give 1 to"),
        ({"named": (3,)}, "name attributes"),
        ({"told": (0.0,)}, "share in"),
        ({"objects": 5}, "at most 4 objects"),
        ({"places": 2}, "places is 2"),
        ({"objects": 2, "views": 2}, "one thing"),
        ({"listings": 3}, "listings is 3"),
        ({"dim": 0}, "at least 1"),
        ({"noise": -1.0}, "noise"),
        ({"picture": (4, 4)}, "multiples of"),
    ],
)
def test_impossible_worlds_are_explained(change, words):
    with pytest.raises(ConfigError, match=words):
        replace(ONE, **change)
