"""The sensors that 4M-21 adds to the synthetic scenes: ranges, hand-made pictures and scenes, and that a scene's record is its own."""

import numpy as np
import pytest

from mmrep.config import Tokenizer
from mmrep.data import serialise, text
from mmrep.data.scenes import SceneData, WorldSpec, masks, metadata, palette, raster, relief
from mmrep.data.scenes import boxes as box_sensor
from mmrep.data.scenes import edges as edge_sensor
from mmrep.data.scenes.source import BLOCK, SENSORS
from mmrep.data.scenes.teacher import teacher
from mmrep.data.scenes.words import words
from mmrep.data.scenes.world import SHAPES, sample
from mmrep.data.serialise import PAPER

NEW = ("edges", "palette", "metadata", "detections", "pose", "teacher", "words")
WORLD = WorldSpec(n_objects=(1, 4), overlap=True)
DATA = SceneData(n_train=BLOCK + 30, n_val=40, sensors=("rgb", "caption", "instances", "boxes", *NEW), world=WORLD)
RECORDS = [*DATA.open("train")]
SCENES = DATA.scenes("train")


def equal(a, b, names):
    return all(np.array_equal(a[n], b[n]) for n in names)


def test_fields_have_the_documented_types():
    r = RECORDS[0]
    assert r["edges"].dtype == r["pose"].dtype == r["teacher"].dtype == np.float32
    assert r["edges"].shape == (32, 32, 1) and r["pose"].shape == (24,) and r["teacher"].shape == (64,)
    assert all(isinstance(r[n], str) for n in ("palette", "metadata", "detections"))


def test_a_scenes_record_depends_on_nothing_beside_it():
    alone = SceneData(n_train=BLOCK + 1, sensors=DATA.sensors, world=WORLD).open(
        "train"
    )  # the last block holds one scene
    assert equal(alone[BLOCK], RECORDS[BLOCK], DATA.sensors)
    again = DATA.open("train")
    assert all(equal(again[i], RECORDS[i], DATA.sensors) for i in (7, BLOCK + 3))
    for name in NEW:  # nor on the other sensors
        one = SceneData(n_train=9, sensors=(name,), world=WORLD).open("train")
        assert all(equal(one[i], RECORDS[i], [name]) for i in range(9)), name
    other = SceneData(n_train=9, sensors=DATA.sensors, world=WORLD, seed=1).open("train")
    assert not any(np.array_equal(other[0][n], RECORDS[0][n]) for n in NEW)


def test_edges_are_thin_outlines_on_the_nearer_object():
    maps, shown = np.stack([r["edges"][..., 0] for r in RECORDS]), np.stack([r["instances"] for r in RECORDS])
    assert maps.min() == 0 and maps.max() == 1 and 0.02 < (maps > 0).mean() < 0.25
    # The ground has none; every pixel of an object beside the ground has one.
    assert (maps[shown == 0] == 0).all()
    beside = (shown[:, :, :-1] > 0) & (shown[:, :, 1:] == 0)
    assert (maps[:, :, :-1][beside] == 1).all()
    hidden = np.where(np.diff(shown.astype(int), axis=1) != 0, np.maximum(maps[:, :-1], maps[:, 1:]), 1)
    assert (hidden == 1).all()  # each border has an edge on one side
    assert 0 < ((maps > 0) & (maps < 1)).mean() < 0.1


def test_an_edge_by_hand():
    scenes = sample(0, np.arange(1), WorldSpec(n_objects=(2, 2)))._replace(depth=np.array([[5.0, 2.0]]))
    shown = np.array([[[0, 1, 1, 2], [0, 1, 1, 2], [0, 0, 0, 0], [0, 0, 0, 0]]], np.uint8)
    depth = np.ones((1, 4, 4, 1), np.float32)
    # The second object is nearer: it has the border with the first, which has its own with the ground.
    expected = [[0, 1, 0, 1], [0, 1, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0]]
    np.testing.assert_array_equal(edge_sensor.edges(scenes, shown, depth)[0, ..., 0], expected)
    shown[:] = 1
    depth[:, :, 2:] -= np.float32(0.225)  # half way between no fold and a full one
    np.testing.assert_allclose(edge_sensor.edges(scenes, shown, depth)[0, ..., 0], [[0, 0, 0.5, 0]] * 4, atol=1e-5)


def picture(*parts):
    """[1, 32, 32, 3] of (rows, colour) bands."""
    return np.concatenate([np.broadcast_to(np.uint8(c), (rows, 32, 3)) for rows, c in parts])[None]


def test_palettes_by_hand():
    image = picture((16, (200, 10, 10)), (10, (10, 200, 10)), (6, (10, 10, 200)))
    np.testing.assert_allclose(palette.centres(image, np.array([3]))[0], [[200, 10, 10], [10, 200, 10], [10, 10, 200]])
    mean = image.reshape(-1, 3).mean(0)
    np.testing.assert_allclose(palette.centres(image, np.array([1]))[0, 0], mean, atol=8)
    # One colour gives copies, and each scene has its own number of colours.
    both = np.concatenate([picture((32, (7, 8, 9))), image])
    found = palette.centres(both, np.array([4, 2]))
    np.testing.assert_allclose(found[0], [[7, 8, 9]] * 4)
    one = palette.centres(image, np.array([2]))[0]
    np.testing.assert_array_equal(found[1, :2], one)


def test_palettes_are_near_the_best_k_means():
    image = np.stack([r["rgb"] for r in RECORDS[:12]])
    ours, rng = palette.centres(image, np.full(12, 3)), np.random.default_rng(0)

    def away(pixels, centre):
        return ((pixels[:, None] - centre) ** 2).sum(-1)

    for i in range(12):
        pixels, costs = image[i].reshape(-1, 3).astype(float), []
        for _ in range(6):  # from random starts, on all pixels
            centre = rng.permutation(pixels)[:3]
            for _ in range(15):
                owner = away(pixels, centre).argmin(1)
                centre = np.stack([pixels[owner == k].mean(0) if (owner == k).any() else centre[k] for k in range(3)])
            costs.append(away(pixels, centre).min(1).sum())
        assert away(pixels, ours[i]).min(1).sum() < 1.5 * min(costs)


def test_palettes_have_1_to_4_colours_of_the_picture():
    counts = []
    for r in RECORDS:
        found = serialise.parse_palette(r["palette"], DATA.serial)
        counts.append(len(found))
        assert r["palette"].startswith(f"v1={len(found)} ") and len(r["palette"].split()) == 1 + 3 * len(found)
        away = np.abs(found[:, None] - r["rgb"].reshape(1, -1, 3)).max(-1).min(1)
        assert len(found) < 3 or away.min() < 16
    assert np.bincount(counts, minlength=5)[1:].min() > 0.15 * len(counts) and max(counts) == 4
    seven = SceneData(n_train=200, sensors=("palette",), serial=PAPER).open("train")
    assert {r["palette"].split()[0] for r in seven} == {f"v1={i}" for i in range(1, 8)}


def test_measures_of_a_picture_by_hand():
    flat = metadata.of_picture(np.full((1, 8, 8, 3), 100, np.uint8))
    assert flat["brightness"][0] == pytest.approx(100, rel=1e-5)
    for name in ("contrast", "saturation", "entropy", "colourfulness"):
        assert flat[name][0] == pytest.approx(0, abs=1e-3)
    halves = metadata.of_picture(picture((16, (255, 255, 255)), (16, (0, 0, 0))))
    assert halves["contrast"][0] == pytest.approx(127.5) and halves["entropy"][0] == pytest.approx(1)
    red = metadata.of_picture(picture((16, (255, 0, 0)), (16, (0, 255, 0))))
    # red - green is +-255: deviation 255, mean 0; (red + green) / 2 - blue is 127.5 all over.
    assert red["colourfulness"][0] == pytest.approx(255 + 0.3 * 127.5, rel=1e-5)
    assert red["saturation"][0] == pytest.approx(255) and red["brightness"][0] == pytest.approx(
        255 * (0.299 + 0.587) / 2
    )


def test_measures_of_a_scene_by_hand():
    spec = WorldSpec(n_objects=(2, 2), distinct="none", shapes=("square",), rotation=0.0)
    scenes = sample(0, np.arange(2), spec)
    # Two squares, first apart, then the nearer one over the whole of the other.
    scenes = scenes._replace(
        x=np.array([[0.25, 0.75], [0.5, 0.5]]),
        y=np.full((2, 2), 0.5),
        radius=np.full((2, 2), 0.2),
        depth=np.array([[1.0, 2.0]] * 2),
    )
    inside = raster.distance(scenes, 64)
    shown = raster.front(scenes, inside)
    found = metadata.of_scene(scenes, shown, inside, relief.depth(scenes, 64, inside))
    area = (2 * 0.76 * 0.2) ** 2
    np.testing.assert_allclose(found["objectness"], [2 * area, area], atol=0.012)
    np.testing.assert_allclose(found["occlusion"], [0, 0.5], atol=1e-6)
    assert found["instances"].tolist() == [2, 1] and found["instance_diversity"].tolist() == [1, 1]
    assert found["semantic_diversity"].tolist() == [2, 2]
    assert (found["geometric_complexity"] > 0).all() and (found["geometric_complexity"] < 0.75).all()
    flat = metadata.of_scene(
        scenes, np.zeros_like(shown), np.full_like(inside, -9), np.ones((2, 64, 64, 1), np.float32)
    )
    assert flat["occlusion"].tolist() == [0, 0] and flat["instances"].tolist() == [0, 0]
    np.testing.assert_allclose(flat["geometric_complexity"], 0, atol=1e-6)


def test_metadata_tells_the_truth_in_whole_pairs():
    parsed = [serialise.parse_measures(r["metadata"], DATA.serial) for r in RECORDS]
    for r, values in zip(RECORDS, parsed):
        assert serialise.count_malformed(r["metadata"], DATA.serial) == (0, 11) and len(values) == 11
        assert values["instances"] == r["boxes_valid"].sum() == len({*np.unique(r["instances"])} - {0})
    measured = metadata.of_picture(np.stack([r["rgb"] for r in RECORDS]))
    for name, values in measured.items():
        low, high = serialise.RANGES[name]
        bins = [t[name] for t in parsed]
        assert bins == [int((min(max(v, low), high) - low) / (high - low) * 15) for v in values.tolist()]
        assert len({*bins}) > 1, name
    assert len({t["occlusion"] for t in parsed}) > 3 and len({t["geometric_complexity"] for t in parsed}) > 1


def test_training_shuffles_pairs_and_evaluation_does_not():
    r = RECORDS[0]
    assert DATA.view(r, None)["metadata"] == r["metadata"]
    views = [DATA.view(r, np.random.default_rng(i))["metadata"] for i in range(9)]
    assert len({*views}) == 9 and views[0] == DATA.view(r, np.random.default_rng(0))["metadata"]
    true = serialise.parse_measures(r["metadata"], DATA.serial)
    assert all(serialise.parse_measures(v, DATA.serial) == true for v in views)


def test_detections_are_the_boxes():
    shape = SCENES.shape
    for i, r in enumerate(RECORDS):
        found = serialise.parse_boxes(r["detections"], DATA.serial, SHAPES)
        assert len(found) == r["boxes_valid"].sum()
        corner = r["boxes"][:, 0] ** 2 + r["boxes"][:, 1] ** 2
        order = [k for k in np.argsort(corner, kind="stable") if r["boxes_valid"][k]]
        assert [b.name for b in found] == [SHAPES[shape[i, k]] for k in order]
        np.testing.assert_allclose(np.array([b[:4] for b in found]), r["boxes"][order], atol=0.5 / 31 + 1e-6)


def test_pose_holds_every_slot():
    for i in (0, 5, 100):
        slots, count = RECORDS[i]["pose"].reshape(4, 6), int(SCENES.valid[i].sum())
        assert slots[:, 0].tolist() == [1] * count + [0] * (4 - count) and (slots[count:] == 0).all()
        np.testing.assert_allclose(slots[:count, 1], SCENES.x[i, :count], rtol=1e-6)
        np.testing.assert_allclose(
            np.arctan2(slots[:count, 5], slots[:count, 4]), SCENES.rotation[i, :count], atol=1e-6
        )


def test_teacher_reads_what_is_in_the_scene():
    scenes = SCENES
    found = np.stack([r["teacher"] for r in RECORDS])
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(found, teacher(scenes))
    # The order of objects, the slots that are empty and every nuisance are nothing to it; a colour is.
    turned = scenes._replace(**{n: getattr(scenes, n)[:, ::-1] for n in ("valid", "shape", "colour", "size", "x", "y")})
    np.testing.assert_allclose(teacher(turned), found, atol=1e-6)
    np.testing.assert_array_equal(teacher(scenes._replace(rotation=scenes.rotation + 1, tint=scenes.tint * 0)), found)
    recoloured = teacher(scenes._replace(colour=(scenes.colour + 1) % 8))
    likeness = (recoloured * found).sum(1)
    assert likeness.max() < 0.999 and likeness.mean() > 0.3
    others = found @ found.T
    assert np.abs(others[~np.eye(len(found), dtype=bool)]).mean() < likeness.mean()
    # Frozen: these numbers may never move.
    np.testing.assert_allclose(found[0, :4], GOLDEN, atol=1e-5)


GOLDEN = [0.053482, 0.014594, -0.087327, -0.097423]


def test_a_words_embedding_is_its_own_among_the_words_beside_it():
    found = words(["a red cube", "a red ball", "", "red " * 30])
    assert found.dtype == np.float32 and found.shape == (4, 16, 32) and np.abs(found).max() <= 1
    np.testing.assert_array_equal((found != 0).any(-1).sum(1), [3, 3, 0, 16])
    np.testing.assert_array_equal(found[0, 0], found[1, 0])  # "a" stands before "red" in both
    assert np.abs(found[0, 1] - found[1, 1]).max() > 0.1  # "red" does not
    np.testing.assert_array_equal(words([RECORDS[3]["caption"]])[0], RECORDS[3]["words"])
    # Frozen: these numbers may never move.
    np.testing.assert_allclose(found[0, 1, :4], WORDS, atol=1e-5)


WORDS = [0.402232, -0.997441, 0.424586, -0.533812]


def test_one_small_vocabulary_says_it_all():
    config = Tokenizer(256, kind="word", symbols=serialise.symbols(DATA.serial))
    tokens = text.tokenizer(text.fit(DATA.texts("train"), config), config)
    assert tokens.vocab <= 256
    for r in RECORDS[:50]:
        for name in ("caption", "palette", "metadata", "detections"):
            row = tokens(r[name], 64)
            assert tokens.decode(row) == r[name] and (row > 0).sum() == len(r[name].split()) + 2
    assert {*WORLD.shapes} <= {*DATA.texts("val")}


def test_every_sensor_of_a_big_picture():
    data = SceneData(n_train=3, size=64, sensors=tuple(SENSORS), world=WORLD, serial=PAPER)
    r = data.open("train")[2]
    assert r["edges"].shape == (64, 64, 1)
    scenes = data.scenes("train")
    _, valid = box_sensor.boxes_of(masks.instances(scenes, 64), 4)
    assert len(serialise.parse_boxes(r["detections"], PAPER)) == valid[2].sum()
