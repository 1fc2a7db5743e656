import numpy as np
import pytest

from mmrep.systems.recipes import emoji_baselines as baselines

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255)}


def _split(seed: int) -> tuple[np.ndarray, list[str]]:
    """Left and right half in two colours, named."""
    rng = np.random.default_rng(seed)
    pairs = [(a, b) for a in COLOURS for b in COLOURS]
    images = np.zeros((len(pairs), 32, 32, 3), np.uint8)
    for i, (a, b) in enumerate(pairs):
        images[i, :, :16], images[i, :, 16:] = COLOURS[a], COLOURS[b]
    return np.clip(images + rng.integers(0, 9, images.shape), 0, 255).astype(np.uint8), [
        f"{a}left {b}right" for a, b in pairs
    ]


@pytest.mark.parametrize("features", [baselines.pixels, baselines.gradients])
def test_ridge_finds_names_it_can_read_off_the_pixels(features):
    found = baselines.ridge_pixels_to_text(_split(0), _split(1), _split(2), features)
    assert found.scores.shape == (16, 16) and found.metrics["r@1"] > 0.9 and found.metrics["median_rank"] == 1


def test_ties_take_the_worst_rank():
    assert baselines.ranks(np.array([[1.0, 1.0, 0.0], [0.0, 2.0, 1.0], [3.0, 2.0, 1.0]])).tolist() == [2.0, 1.0, 3.0]
