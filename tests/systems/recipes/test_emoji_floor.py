from types import SimpleNamespace

import numpy as np
import pytest

from mmrep.errors import ConfigError
from mmrep.evals.view import View
from mmrep.systems.recipes import emoji_baselines as baselines
from mmrep.systems.recipes.emoji import Ridge

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 50, 220), "grey": (128, 128, 128)}


class Split(list):
    def record(self, i, rng=None):
        return self[i]


def split(seed):
    """Coloured squares on white in four colours and two places, told as "red left"."""
    rng = np.random.default_rng(seed)
    made = Split()
    for colour, rgb in COLOURS.items():
        for place in ("left", "right"):
            image = np.full((32, 32, 3), 255, np.uint8)
            image[8:24, slice(2, 14) if place == "left" else slice(18, 30)] = rgb
            noisy = np.clip(image + rng.normal(0, 5, image.shape), 0, 255).astype(np.uint8)
            made.append({"picture": noisy, "text": f"{colour} {place}"})
    return made


class Made(View):
    def __init__(self):
        modalities = (SimpleNamespace(name="image", source="picture"), SimpleNamespace(name="text", source="text"))
        self.data = SimpleNamespace(modalities=modalities)
        self.made = {"train": Split(split(0) + split(1) + split(2)), "val": split(3), "test": split(4)}

    def split(self, name="test"):
        return self.made[name]


def test_ridge_reads_the_modalities_fields_and_beats_chance():
    found = Ridge(ks=(1, 5)).run(Made())
    assert found["ridge pixels image->text R@1"] >= 0.75 and found["ridge pixels image->text median_rank"] == 1.0
    assert found["ridge pixels image->text candidates"] == 8.0
    assert found["ridge pixels image->text chance_R@1"] == 1 / 8
    v = Made()
    images, texts = ([r[k] for r in v.split("test")] for k in ("picture", "text"))
    train = ([r["picture"] for r in v.split("train")], [r["text"] for r in v.split("train")])
    val = ([r["picture"] for r in v.split("val")], [r["text"] for r in v.split("val")])
    direct = baselines.ridge_pixels_to_text(train, val, (images, texts))
    assert direct.metrics["r@1"] == found["ridge pixels image->text R@1"]


def test_unknown_features_are_named():
    with pytest.raises(ConfigError, match=r"Ridge\.features"):
        Ridge(features="edges").run(Made())
