"""One latent vector seen by several sensors."""

from dataclasses import replace

import numpy as np
import pytest

from mmrep.data.views import View, Views
from mmrep.errors import ConfigError, DataError

PAIR = (View("image", 12, noise=0.1), View("text", 10, tokens=3, bend=2.0, private=4))


def columns(source, split="train"):
    return source.open(split).columns


def test_records_and_shapes():
    found = Views(PAIR, 20, shared=6, classes=5).open("train")[3]
    shapes = {k: v.shape for k, v in found.items()}
    assert shapes == {"image": (12,), "text": (3, 10), "text_private": (4,), "z": (6,), "row": (), "label": ()}
    assert found["row"] == 3 and found["image"].dtype == np.float32 and found["label"].dtype == np.int32
    assert list(Views(PAIR).texts("train")) == []


def test_a_view_without_noise_is_a_linear_map_of_unit_variance():
    data = columns(Views((View("x", 32, noise=0.0),), 4000))
    found = np.linalg.lstsq(data["z"], data["x"], rcond=None)[0]
    np.testing.assert_allclose(data["z"] @ found, data["x"], atol=1e-4)
    assert data["x"].std() == pytest.approx(1, abs=0.1)


def test_rows_depend_neither_on_their_number_nor_on_other_views():
    long, short = columns(Views(PAIR, 50)), columns(Views(PAIR[:1], 20))
    np.testing.assert_array_equal(long["image"][:20], short["image"])
    other = columns(Views(PAIR, 50), "val")
    assert not np.array_equal(long["z"][:20], other["z"][:20])


def test_draws_share_the_world():
    source = Views((View("x", 32, noise=0.0),), 500, classes=4, spread=0.0)
    first, second = columns(source), columns(replace(source, draw=1))
    assert not np.array_equal(first["label"], second["label"])
    for k in range(4):
        np.testing.assert_array_equal(first["x"][first["label"] == k][0], second["x"][second["label"] == k][0])
    other = columns(replace(source, seed=1))
    assert np.abs(first["x"][first["label"] == 0][0] - other["x"][other["label"] == 0][0]).max() > 0.1


def test_hears_names_what_is_audible():
    data = columns(Views((View("x", 32, noise=0.0, hears=(0.1, 5.0)),), 3000, groups=2, shared=8))
    fit = np.linalg.lstsq(data["x"], data["z"], rcond=None)[0]
    left = ((data["x"] @ fit - data["z"]) ** 2).mean(0)
    assert left[:4].max() < 0.05 and left[4:].min() > 0.8


def test_private_latents_and_shift():
    source = Views((View("x", 32, noise=0.0, private=3, private_scale=2.0),), 300, shared=4)
    data = columns(source)
    both = np.concatenate([data["z"], data["x_private"]], 1)
    np.testing.assert_allclose(both @ np.linalg.lstsq(both, data["x"], rcond=None)[0], data["x"], atol=1e-4)
    moved = columns(replace(source, views=(replace(source.views[0], shift=0.5),)))["x"]
    affine = np.c_[data["x"], np.ones(300)]
    np.testing.assert_allclose(affine @ np.linalg.lstsq(affine, moved, rcond=None)[0], moved, atol=1e-3)
    assert np.abs(moved - data["x"]).mean() > 0.2


def test_categories_and_tags():
    source = Views(
        (View("x", 8), View("tags", 20, tags=True, noise=0.0)), 400, categories=10, only=tuple(range(8)), at_once=3
    )
    labels = columns(source)["labels"]
    assert set(np.unique(labels.sum(1))) == {1, 2, 3} and labels[:, 8:].max() == 0 and labels[:, :8].any(0).all()
    np.testing.assert_array_equal(columns(source)["tags"], np.tile(labels, 2))
    new = columns(replace(source, only=(), any_of=(8, 9)))["labels"]
    assert new[:, 8:].any(1).all() and new[:, :8].any() and set(np.unique(new.sum(1))) == {1, 2, 3}
    noisy = replace(source, views=(View("tags", 20, tags=True, noise=0.2),))
    flips = np.abs(columns(noisy)["tags"] - np.tile(labels, 2)).mean()
    assert flips == pytest.approx(0.2, abs=0.03)


def test_classes_that_occur():
    labels = columns(Views(PAIR, 200, classes=6, only=(1, 4)))["label"]
    assert set(labels.tolist()) == {1, 4}


def test_near_duplicates_share_the_latent_and_not_the_noise():
    data = columns(Views(PAIR[:1], 300, repeats=0.6, classes=4))
    _, first, count = np.unique(data["z"], axis=0, return_index=True, return_counts=True)
    assert len(first) / 300 == pytest.approx(0.4, abs=0.08)
    assert len(np.unique(data["image"], axis=0)) == 300
    assert count.max() > 2


@pytest.mark.parametrize(
    "change, words",
    [
        ({"views": ()}, "give one or more"),
        ({"views": PAIR[:1] * 2}, "each once"),
        ({"groups": 3}, "multiple of groups"),
        ({"classes": 2, "categories": 2}, "both set"),
        ({"classes": 3, "only": (3,)}, "ids in"),
        ({"classes": 3, "any_of": (1,)}, "any_of is set"),
        ({"categories": 2, "at_once": 3}, "at_once is 3"),
        ({"repeats": 1.5}, "repeats is 1.5"),
        ({"views": (View("x", hears=(1.0, 2.0)),)}, "hears has 2"),
        ({"views": (View("x", tags=True),)}, "tags need categories"),
        ({"views": (View("x", 0),)}, "dim must be"),
    ],
)
def test_impossible_views_are_explained(change, words):
    with pytest.raises(ConfigError, match=words):
        replace(Views(PAIR), **change)


def test_an_empty_split_is_explained():
    with pytest.raises(DataError, match="is empty"):
        Views(PAIR, n_val=0).open("val")
