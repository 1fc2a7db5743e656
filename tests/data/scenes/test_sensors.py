import numpy as np
import pytest

from mmrep.data.scenes import boxes, masks, raster, rgb
from mmrep.data.scenes.world import COLOURS, DOMAINS, SHAPES, WorldSpec, domain, sample, take

OVERLAP = WorldSpec(n_objects=(1, 4), shapes=SHAPES, overlap=True, colours=COLOURS[:8])
SIZE = 32


def test_masks_agree_with_a_pixel_by_pixel_painter():
    s = sample(0, np.arange(20), WorldSpec(n_objects=(2, 4), shapes=("circle", "square"), overlap=True, rotation=0.4))
    shown, classes = masks.instances(s, SIZE), masks.semseg(s, SIZE)
    for i in range(20):
        for py in range(SIZE):
            for px in range(SIZE):
                nearest, depth = 0, np.inf
                for k in np.nonzero(s.valid[i])[0]:
                    dx, dy = (px + 0.5) / SIZE - s.x[i, k], s.y[i, k] - (py + 0.5) / SIZE
                    c, d = np.cos(s.rotation[i, k]), np.sin(s.rotation[i, k])
                    u, v = (c * dx + d * dy) / s.radius[i, k], (c * dy - d * dx) / s.radius[i, k]
                    inside = (
                        np.hypot(u, v) <= 0.88 if SHAPES[s.shape[i, k]] == "circle" else max(abs(u), abs(v)) <= 0.76
                    )
                    if inside and s.depth[i, k] < depth:
                        nearest, depth = k + 1, s.depth[i, k]
                assert shown[i, py, px] == nearest
                assert classes[i, py, px] == (s.shape[i, nearest - 1] + 1 if nearest else 0)


def test_hard_edged_picture_shows_the_colours_of_the_instance_map():
    s = sample(0, np.arange(100), OVERLAP)
    image, shown = rgb.rgb(s, SIZE, antialias=False) / 255.0, masks.instances(s, SIZE)
    palette = np.array([rgb.COLOUR_VALUES[c] for c in COLOURS[:8]])
    for i in range(100):
        for k in np.unique(shown[i]):
            pixels = image[i][shown[i] == k]
            assert np.ptp(pixels, axis=0).max() < 0.01
            if k:
                assert np.abs(palette - pixels[0]).sum(1).argmin() == s.colour[i, k - 1]
            else:
                assert pixels[0].min() > 0.7


def test_boxes_are_tight_around_the_instances():
    s = sample(1, np.arange(60), OVERLAP)
    shown = masks.instances(s, SIZE)
    box, valid = boxes.boxes(s, SIZE)
    assert box.dtype == np.float32 and (valid <= s.valid).all() and valid[:, 0].mean() > 0.8
    for i in range(60):
        for k in range(4):
            rows, columns = np.nonzero(shown[i] == k + 1)
            assert valid[i, k] == (len(rows) > 0)
            expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] if len(rows) else [0] * 4
            np.testing.assert_allclose(box[i, k] * SIZE, expected)


@pytest.mark.parametrize("size", [32, 64])
def test_every_object_of_the_plain_world_is_visible(size):
    s = sample(2, np.arange(500), WorldSpec(shapes=SHAPES))
    shown = masks.instances(s, size)
    area = np.stack([(shown == k + 1).sum((1, 2)) for k in range(3)], 1)
    assert area[s.valid].min() >= 3 * (size / 32) ** 2
    assert (area[~s.valid] == 0).all()


def test_shapes_have_the_area_that_geometry_says_and_stay_in_their_radius():
    expected = {
        "circle": np.pi * 0.88**2,
        "ring": np.pi * (0.92**2 - 0.54**2),
        "square": 1.52**2,
        "diamond": 2 * 0.66,
        "triangle": 0.87 * 1.57,
        "cross": 2 * 0.6 * 1.8 - 0.6**2,
        "hexagon": 1.5 * np.sqrt(3) * 0.88**2,
    }
    at = np.linspace(-1.3, 1.3, 1041, dtype=np.float32)
    u, v = np.meshgrid(at, -at)
    areas = {}
    for name, sdf in raster.SDFS.items():
        inside = sdf(u, v)
        assert inside.shape == u.shape and np.isfinite(inside).all()
        areas[name] = (inside >= 0).mean() * 2.6**2
        assert np.hypot(u, v)[inside >= 0].max() < 1.12, name
        # A distance: it changes by at most its step (a bound of 1 on the slope).
        assert np.abs(np.diff(inside, axis=0)).max() <= 0.0026, name
    for name, area in expected.items():
        assert abs(areas[name] - area) < 0.03, (name, areas[name], area)
    assert min(areas.values()) > 0.6


def test_shapes_look_different():
    at = np.linspace(-1.2, 1.2, 49, dtype=np.float32)
    u, v = np.meshgrid(at, -at)
    inside = np.stack([raster.SDFS[name](u, v) >= 0 for name in SHAPES]).reshape(len(SHAPES), -1)
    joint = (inside[:, None] & inside[None]).sum(-1) / (inside[:, None] | inside[None]).sum(-1)
    assert (joint - np.eye(len(SHAPES))).max() < 0.93


@pytest.mark.parametrize("name", DOMAINS)
def test_pictures_are_pure_per_scene_and_differ_by_seed_only_in_grain(name):
    s = sample(0, np.arange(70), domain(name, textures=("plain", "dotted"), materials=("matte", "shiny")))
    image = rgb.rgb(s, SIZE, seed=1, grain=0.02)
    assert image.dtype == np.uint8 and image.shape == (70, SIZE, SIZE, 3)
    rows = np.array([69, 5, 33])
    np.testing.assert_array_equal(rgb.rgb(take(s, rows), SIZE, seed=1, grain=0.02), image[rows])
    other = rgb.rgb(s, SIZE, seed=2, grain=0.02).astype(float) - image
    assert 3 < other.std() < 9
    clean = rgb.rgb(s, SIZE)
    np.testing.assert_array_equal(clean, rgb.rgb(s, SIZE, distance=raster.distance(s, SIZE)))
    assert 2 < (image.astype(float) - clean).std() < 7


def test_domains_look_as_they_are_called():
    clean, texture, night, line = (
        rgb.rgb(sample(0, np.arange(100), domain(d)), SIZE) / 255.0 for d in ("clean", "texture", "night", "line")
    )
    assert night.mean() < 0.2 < 0.7 < clean.mean() < line.mean()
    ground = [np.abs(np.diff(i[:, :4], axis=1)).mean() for i in (clean, texture)]
    assert ground[1] > 3 * ground[0]


def test_no_scenes_give_no_pictures():
    s = sample(0, np.arange(0), WorldSpec())
    assert rgb.rgb(s, SIZE).shape == (0, SIZE, SIZE, 3) and masks.instances(s, SIZE).shape == (0, SIZE, SIZE)
