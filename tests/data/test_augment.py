import numpy as np
import pytest

from mmrep.data.augment import Colour, Cutout, DropPieces, Loudness, Warp
from mmrep.errors import ConfigError

PICTURES = [
    Warp(30.0, (0.6, 1.3), 1.3, 0.2, 0.2, 0.5),
    Colour(0.3, 0.5, 0.8, 60.0, 0.2),
    Cutout(0.4, 1.0),
]  # fmt: skip


def draw(seed=0):
    return np.random.default_rng(seed)


def picture(size=24):
    return draw(9).random((size, size + 4, 3)).astype(np.float32)


@pytest.mark.parametrize("change", PICTURES)
def test_pictures_keep_shape_type_and_range_and_are_functions_of_the_generator(change):
    image = picture()
    before = image.copy()
    for seed in range(20):
        changed = change(draw(seed), image)
        assert changed.shape == image.shape and changed.dtype == np.float32
        assert changed.min() >= 0 and changed.max() <= 1
        np.testing.assert_array_equal(changed, change(draw(seed), image))
    assert not np.array_equal(change(draw(0), image), change(draw(1), image))
    np.testing.assert_array_equal(image, before)


def test_nothing_drawn_changes_nothing():
    image = np.round(picture() * 255).astype(np.float32) / 255
    np.testing.assert_allclose(Warp()(draw(), image), image, atol=1e-6)
    np.testing.assert_allclose(Colour()(draw(), image), image, atol=1e-6)
    np.testing.assert_array_equal(Cutout(p=0.0)(draw(), image), image)


def test_warp_mirrors_shifts_and_fills():
    image = np.round(picture() * 255).astype(np.float32) / 255
    np.testing.assert_allclose(Warp(mirror=1.0)(draw(), image), image[:, ::-1], atol=1e-6)
    shrunk = Warp(scale=(0.5, 0.5), fill=1.0)(draw(), np.zeros((16, 16, 3), np.float32))
    assert (shrunk[:3] == 1).all() and (shrunk[6:10, 6:10] == 0).all()
    # Half the side: a quarter of the area, up to the soft edge.
    assert abs((1 - shrunk).mean() - 0.25) < 0.08
    moved = Warp(shift=0.5)(draw(3), image)
    assert (moved == 1).all(-1).any()
    one = Warp(20.0)(draw(), picture()[..., :1])
    assert one.shape == (24, 28, 1)


def test_warp_turns_about_the_centre():
    image = np.ones((21, 21, 3), np.float32)
    image[10, 10] = 0
    turned = Warp(45.0)(draw(2), image)
    assert np.unravel_index(turned[..., 0].argmin(), (21, 21)) == (10, 10)


def test_colour_leaves_grey_grey_and_turns_hue():
    grey = np.full((4, 4, 3), 0.5, np.float32)
    np.testing.assert_allclose(Colour(0.0, 0.5, 0.9, 90.0)(draw(), grey), grey, atol=1e-6)
    red = np.zeros((2, 2, 3), np.float32)
    red[..., 0] = 0.9
    plain = Colour(grey=1.0)(draw(), red)
    np.testing.assert_allclose(plain, 0.3, atol=1e-6)
    turned = Colour(hue=60.0)(draw(1), red)
    np.testing.assert_allclose(turned.sum(-1).max(), 0.9, atol=0.35)
    assert not np.allclose(turned, red)


def test_cutout_paints_one_square():
    image = np.zeros((20, 20, 3), np.float32)
    changed = Cutout(0.3, 1.0)(draw(), image)
    assert (changed.any(-1)).sum() == 36
    assert len(np.unique(changed[changed.any(-1)], axis=0)) == 1


def test_loudness_keeps_silence_and_range():
    wave = np.zeros(100, np.float32)
    wave[:40] = np.sin(np.arange(40, dtype=np.float32)) + 0.001
    for seed in range(5):
        heard = Loudness(6.0, 0.3)(draw(seed), wave)
        assert heard.dtype == np.float32 and heard.shape == wave.shape
        assert (heard[40:] == 0).all() and np.abs(heard).max() <= 1
    quiet = Loudness(6.0)(draw(), wave)
    ratio = quiet[:40] / wave[:40]
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-5)
    assert 10 ** (-6 / 20) <= ratio[0] <= 1


def test_drop_pieces_keeps_the_frame_and_the_order():
    ids = np.array([1, 11, 12, 13, 14, 15, 2, 0, 0], np.int32)
    for seed in range(30):
        left = DropPieces(0.6)(draw(seed), ids)
        assert left.shape == ids.shape and left.dtype == ids.dtype
        real = left[left > 0]
        assert real[0] == 1 and real[-1] == 2 and len(real) >= 3
        assert (np.diff(real[1:-1]) > 0).all() and set(real) <= set(ids)
        assert (left[len(real) :] == 0).all()
    short = np.array([1, 11, 2, 0], np.int32)
    np.testing.assert_array_equal(DropPieces(1.0)(draw(), short), short)


def test_a_scale_that_cannot_be_drawn_is_refused():
    with pytest.raises(ConfigError, match="scale"):
        Warp(scale=(1.2, 0.8))
