import numpy as np

from mmrep.data.scenes import masks, relief
from mmrep.data.scenes.source import SceneData
from mmrep.data.scenes.world import SHAPES, WorldSpec, sample

SIZE = 32


def test_depth_is_the_ground_where_no_object_is_and_nearer_elsewhere():
    s = sample(0, np.arange(60), WorldSpec(n_objects=(1, 3), shapes=SHAPES, overlap=True))
    depth, shown = relief.depth(s, SIZE)[..., 0], masks.instances(s, SIZE)
    assert depth.dtype == np.float32 and depth.min() >= 0
    assert (depth[shown == 0] == relief.GROUND).all() and (depth[shown > 0] < relief.GROUND + 1e-6).all()
    assert (depth[shown > 0] < relief.GROUND).mean() > 0.9


def test_a_circle_is_a_dome_as_thick_as_its_radius_says():
    s = sample(1, np.arange(1), WorldSpec(n_objects=(1, 1), shapes=("circle",)))
    depth = relief.depth(s, 64)[0, ..., 0]
    y, x = int(s.y[0, 0] * 64), int(s.x[0, 0] * 64)
    np.testing.assert_allclose(1 - depth[y, x], min(1.0, relief.THICKNESS * s.radius[0, 0]), atol=0.02)
    row = depth[y]
    edge = np.nonzero(row < 1)[0]
    assert row[edge[0]] > row[x] and row[edge[-1]] > row[x]


def test_normals_are_unit_and_face_the_camera_on_the_ground():
    s = sample(2, np.arange(20), WorldSpec(n_objects=(1, 2)))
    n = relief.normals(s, SIZE).astype(np.float32) / 127.5 - 1
    np.testing.assert_allclose(np.linalg.norm(n, axis=-1), 1, atol=0.02)
    flat = np.pad(masks.instances(s, SIZE) == 0, ((0, 0), (1, 1), (1, 1)), constant_values=True)
    inner = flat[:, 1:-1, 1:-1] & flat[:, :-2, 1:-1] & flat[:, 2:, 1:-1] & flat[:, 1:-1, :-2] & flat[:, 1:-1, 2:]
    np.testing.assert_allclose(n[inner], np.broadcast_to([0, 0, 1], n[inner].shape), atol=0.01)


def test_colour_says_nothing_about_the_relief():
    spec = WorldSpec(n_objects=(1, 2))
    s = sample(3, np.arange(20), spec)
    np.testing.assert_array_equal(relief.depth(s, SIZE), relief.depth(s._replace(colour=s.colour[::-1]), SIZE))


def test_the_source_gives_both():
    record = SceneData(4, 2, 2, size=16, sensors=("rgb", "depth", "normals", "semseg")).open("train")[0]
    assert record["depth"].shape == (16, 16, 1) and record["normals"].shape == (16, 16, 3)
