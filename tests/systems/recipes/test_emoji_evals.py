"""The ridge baseline on images whose names can be predicted from their pixels."""

from types import SimpleNamespace

import numpy as np
import pytest

from mmrep.data.features import gradients, pixels
from mmrep.errors import ConfigError, DataError
from mmrep.model import Model
from mmrep.systems.recipes.emoji import HeldVoice, RidgeBaseline, ridge_scores

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 50, 220), "grey": (128, 128, 128)}


def split(seed):
    """Squares in four colours and two places on white, with names like "red left"."""
    rng = np.random.default_rng(seed)
    made = []
    for colour, rgb in COLOURS.items():
        for place in ("left", "right"):
            image = np.full((32, 32, 3), 255, np.uint8)
            image[8:24, slice(2, 14) if place == "left" else slice(18, 30)] = rgb
            noisy = np.clip(image + rng.normal(0, 5, image.shape), 0, 255).astype(np.uint8)
            made.append({"picture": noisy, "text": f"{colour} {place}"})
    return made


class Made(Model):
    def __init__(self):
        modalities = (SimpleNamespace(name="image", source="picture"), SimpleNamespace(name="text", source="text"))
        self.data = SimpleNamespace(modalities=modalities)
        self.made = {"train": split(0) + split(1) + split(2), "val": split(3), "test": split(4)}

    def records(self, split="test", limit=0):
        return self.made[split]


def test_ridge_takes_the_fields_of_the_modalities_and_beats_chance():
    found = RidgeBaseline(ks=(1, 5)).run(Made())
    assert found["ridge pixels image->text R@1"] >= 0.75 and found["ridge pixels image->text median_rank"] == 1.0
    assert found["ridge pixels image->text candidates"] == 8.0
    assert found["ridge pixels image->text chance_R@1"] == 1 / 8


def halves(seed):
    """Left and right half in two colours, with both names."""
    rng = np.random.default_rng(seed)
    pairs = [(a, b) for a in COLOURS for b in COLOURS]
    images = np.zeros((len(pairs), 32, 32, 3), np.uint8)
    for i, (a, b) in enumerate(pairs):
        images[i, :, :16], images[i, :, 16:] = COLOURS[a], COLOURS[b]
    noisy = np.clip(images + rng.integers(0, 9, images.shape), 0, 255).astype(np.uint8)
    return noisy, [f"{a}left {b}right" for a, b in pairs]


@pytest.mark.parametrize("features", [pixels, gradients])
def test_ridge_ranks_the_right_name_first(features):
    scores = ridge_scores(halves(0), halves(1), halves(2), features)
    assert scores.shape == (16, 16) and (scores.argmax(1) == np.arange(16)).mean() > 0.9
    images, names = halves(0)
    with pytest.raises(DataError, match="15 texts"):
        ridge_scores((images, names[1:]), halves(1), halves(2), features)


def test_unknown_features_are_refused():
    with pytest.raises(ConfigError, match=r"RidgeBaseline\.features"):
        RidgeBaseline(features="edges").run(Made())


def test_a_voice_that_training_views_lack():
    class Few:
        def open(self, split):
            return tuple({"id": i, "clips": {"en": i, "en_low": 100 + i}} for i in range(20))

        def view(self, record, rng):
            return record

    rng = np.random.default_rng(0)
    held, shuffled = HeldVoice(Few(), "en_low"), HeldVoice(Few(), "en_low", shuffled=True)
    assert all(held.view(r, rng)["clips"] == {"en": r["id"]} for r in held.open("train"))
    drawn = [shuffled.view(r, rng)["clips"]["en"] for r in shuffled.open("train")]
    assert sorted(drawn) == list(range(20)) and sum(i == j for i, j in enumerate(drawn)) < 5
    for split in ("train", "test"):
        assert all(
            shuffled.view(r, None)["clips"] == {"en": r["id"], "en_low": 100 + r["id"]} for r in shuffled.open(split)
        )
    assert all(shuffled.view(r, rng)["clips"] == {"en": r["id"]} for r in shuffled.open("test"))
