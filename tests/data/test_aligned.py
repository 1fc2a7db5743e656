"""Joint crops and flips of aligned maps, and records that lack some."""

from dataclasses import dataclass

import numpy as np
import pytest

from mmrep import modality
from mmrep.config import Data
from mmrep.data import pipeline
from mmrep.data.aligned import Aligned, Incomplete, cut
from mmrep.data.scenes.source import SceneData
from mmrep.errors import ConfigError, DataError

SCENES = SceneData(24, 8, 8, size=32, sensors=("rgb", "depth", "semseg"), grain=0.0)


@dataclass(frozen=True)
class Ramp:
    """Where a pixel is: its column and row as numbers, at three sizes and kinds, and its place as an id."""

    def open(self, split):
        y, x = np.mgrid[:32, :32].astype(np.float32)
        # Centres of the coarse pixels, in fine pixels.
        cy, cx = (np.mgrid[:8, :8] * 4 + 1.5).astype(np.float32)
        rgb = np.stack([x * 8, y * 8, x * 0], -1).astype(np.uint8)
        return [
            {
                "rgb": rgb,
                "depth": np.stack([x, y], -1),
                "coarse": np.stack([cx, cy], -1),
                "ids": (y * 32 + x).astype(np.int32),
            }
        ]

    def view(self, record, rng):
        return record


def test_all_maps_get_the_same_crop_and_flip():
    source = Aligned(Ramp(), ("depth", "rgb", "coarse"), ("ids",))
    record, mirrored = source.open("train")[0], 0
    for seed in range(20):
        seen = source.view(record, np.random.default_rng(seed))
        x, y = seen["depth"].transpose(2, 0, 1)
        assert all(seen[k].shape == record[k].shape and seen[k].dtype == record[k].dtype for k in record)
        np.testing.assert_allclose(seen["rgb"][..., 0] / 8, x, atol=0.26)  # whole numbers of 1/8 pixel
        np.testing.assert_allclose(seen["rgb"][..., 1] / 8, y, atol=0.26)
        assert np.abs(seen["ids"] % 32 - x).max() <= 0.51 and np.abs(seen["ids"] // 32 - y).max() <= 0.51
        # Means of 4 x 4 fine pixels are the coarse ones, away from the border where bilinear values are held.
        inner = seen["coarse"][2:-2, 2:-2, 0]
        np.testing.assert_allclose(inner, x.reshape(8, 4, 8, 4).mean((1, 3))[2:-2, 2:-2], atol=0.5)
        mirrored += x[0, 0] > x[0, -1]
    assert 4 <= mirrored <= 16


def test_crops_keep_the_asked_for_share_and_ratio():
    source, rng = Aligned(Ramp(), ("depth",), (), ratio=(0.5, 2.0), crop=(0.2, 0.45)), np.random.default_rng(0)
    boxes = np.array([source.draw(rng)[0] for _ in range(2000)])
    assert boxes.min() >= 0 and boxes.max() <= 1 + 1e-9
    w, h = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert 0.2 <= (w * h).min() < 0.205 and 0.445 < (w * h).max() <= 0.45
    assert 0.5 <= (w / h).min() < 0.51 and 1.96 < (w / h).max() <= 2.0


def test_a_whole_crop_changes_nothing_and_a_flip_mirrors():
    value = np.random.default_rng(0).random((6, 9, 2)).astype(np.float32)
    np.testing.assert_array_equal(cut(value, (0.0, 0.0, 1.0, 1.0), False, False), value)
    np.testing.assert_array_equal(cut(value, (0.0, 0.0, 1.0, 1.0), True, False), value[:, ::-1])
    ids = np.arange(54, dtype=np.uint8).reshape(6, 9)
    np.testing.assert_array_equal(
        cut(ids, (0.0, 0.0, 1 / 3, 1 / 3), False, True), np.kron(ids[:2, :3], np.ones((3, 3), np.uint8))
    )


def test_evaluation_is_untouched_and_training_depends_on_the_key_alone():
    source = Aligned(SCENES)
    record = source.open("train")[3]
    assert source.view(record, None)["rgb"] is record["rgb"]
    a, b, c = (source.view(record, np.random.default_rng(s)) for s in (1, 1, 2))
    assert all(np.array_equal(a[k], b[k]) for k in ("rgb", "depth", "semseg"))
    assert not np.array_equal(a["rgb"], c["rgb"])
    # Depth below the ground exactly where there is a thing, whatever the crop: but for the interpolated outline.
    assert ((a["depth"][..., 0] < 0.98) == (a["semseg"] > 0)).mean() > 0.85
    assert {*np.unique(a["semseg"])} <= {*np.unique(record["semseg"])}


def test_an_incomplete_source_says_what_is_there():
    source = Incomplete(SCENES, missing=0.5)
    whole, records = SCENES.open("train"), source.open("train")
    present = np.stack([r["present"] for r in records])
    assert present.dtype == np.float32 and present.max(1).min() == 1 and 0.4 < present.mean() < 0.8
    for i in range(24):
        for name, here in zip(source.fields, present[i]):
            expected = whole[i][name] if here else np.zeros_like(whole[i][name])
            np.testing.assert_array_equal(records[i][name], expected)
    np.testing.assert_array_equal(records[5]["present"], source.open("train")[5]["present"])
    assert all(r["present"].all() for r in source.open("val"))
    parts = (
        *(modality.image(n, 32, c) for n, c in (("rgb", 3), ("depth", 1))),
        modality.label_map("semseg", 8, 13),
        modality.vector("present", 3),
    )
    data = Data(Aligned(source), parts, batch_size=8)
    batch = next(pipeline.train_batches(pipeline.open_split(data, None, "train"), 8, 0))
    assert batch["semseg"].shape == (8, 8, 8) and batch["present"].shape == (8, 3)
    assert not batch["depth"][batch["present"][:, 1] == 0].any()


def test_what_cannot_work_is_told():
    with pytest.raises(ConfigError, match="crop"):
        Aligned(SCENES, crop=(0.0, 1.0))
    with pytest.raises(ConfigError, match="at least one"):
        Aligned(SCENES, (), ())
    with pytest.raises(ConfigError, match="missing"):
        Incomplete(SCENES, missing=1.0)
    record = SCENES.open("train")[0]
    with pytest.raises(DataError, match="normals"):
        Aligned(SCENES, ("normals",)).view(record, np.random.default_rng(0))
    with pytest.raises(DataError, match="whole numbers"):
        Aligned(SCENES, ("rgb",), ("depth",)).view(record, np.random.default_rng(0))
