"""Coded maps: what a patch, its neighbours, its sign and another sensor tell of its class."""

from dataclasses import replace

import numpy as np
import pytest

from mmrep.data.coded import STEP, CodedData
from mmrep.errors import ConfigError

CODED = CodedData(200, 20, 20, kinds=4, noise=0.0)


def patches(column, patch=4):
    x = np.stack([(np.asarray(v, np.float32) / 255 - 0.5) / STEP for v in column])
    n, h, w, c = x.shape
    return x.reshape(n, h // patch, patch, w // patch, patch, c).transpose(0, 1, 3, 2, 4, 5)


def test_blocks_have_one_class_and_signs_are_common_to_the_sensors():
    columns = CODED.open("train").columns
    classes = columns["classes"]
    assert (classes[:, ::2, ::2] == classes[:, 1::2, 1::2]).all() and classes.max() == 3
    signs = []
    for i, (name, _) in enumerate(CODED.sensors):
        shown, pattern = patches(columns[name]), CODED.patterns(i)[classes]
        sign = (shown * pattern).mean((3, 4, 5))
        np.testing.assert_allclose(np.abs(sign), 1.0, atol=0.02)
        signs.append(np.sign(sign))
    assert (signs[0] == signs[1]).all() and abs(signs[0].mean()) < 0.05
    assert 0.45 < (signs[0][:, 0, 0] == signs[0][:, 0, 1]).mean() < 0.6  # a neighbour does not give the sign


def test_a_sign_of_one_sensor_alone():
    columns = replace(CODED, signed=("rgb",)).open("train").columns
    signs = [
        np.sign((patches(columns[name]) * CODED.patterns(i)[columns["classes"]]).mean((3, 4, 5)))
        for i, (name, _) in enumerate(CODED.sensors)
    ]
    assert abs(signs[0].mean()) < 0.05 and (signs[1] == 1).all()
    with pytest.raises(ConfigError, match="signed has heat: name some of depth, rgb"):
        replace(CODED, signed=("heat",))


def test_means_of_pixels_and_squares_do_not_tell_the_class():
    columns = replace(CODED, n_train=2000, noise=0.5).open("train").columns
    x, kind = patches(columns["rgb"]).reshape(-1, 48), columns["classes"].reshape(-1)
    for power in (1, 2):
        means = np.stack([(x[kind == k] ** power).mean(0) for k in range(4)])
        assert np.abs(means - means.mean(0)).max() < 0.1
    np.testing.assert_allclose(columns["shares"].sum(1), 1.0, rtol=1e-6)


def test_captions_name_the_shown_kinds_and_where_they_are():
    source = CodedData(30, 5, 5, sensors=(("image", 3),), grid=4, kinds=12, block=1, signed=False, shown=5)
    for record in source.open("train"):
        words, slots = record["caption"].split(), record["instances"][::4, ::4]
        for word, slot in zip(words, record["caption_objects"]):
            assert record["classes"][slots == slot + 1].tolist() == [int(word[1:])]
        assert len({*words}) == 5 and (slots == 0).sum() == 11
        assert (record["classes"][slots == 0] == 12).all()
    assert len(list(source.texts("val"))) == 5


def test_splits_differ_and_repeat():
    one, two = (CODED.open(s).columns["rgb"][:20] for s in ("train", "val"))
    assert (one != two).any() and (CODED.open("val").columns["rgb"] == two).all()


@pytest.mark.parametrize("field", [{"shown": 3}, {"shown": 40, "block": 1}, {"grid": 5}])
def test_impossible_fields_are_named(field):
    with pytest.raises(ConfigError, match=("block", "shown")["block" in field]):
        CodedData(**field)
