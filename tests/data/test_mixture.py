import numpy as np
import pytest

from mmrep.data.mixture import Balanced, CoTraining, Group, Part
from mmrep.data.scenes.source import SceneData
from mmrep.errors import ConfigError

STREAMS = ("rgb", "depth", "caption")
SCENES = SceneData(400, 20, 20, size=16, sensors=("rgb", "caption"))


def test_each_record_belongs_to_one_data_set_by_its_number():
    groups = Group(STREAMS, 3.0), Group(("caption",), 1.0)
    records = CoTraining(SCENES, STREAMS, groups).open("train")
    present = np.stack([records[i]["present"] for i in range(400)])
    alone = (present == [0, 0, 1]).all(1)
    assert (alone | (present == 1).all(1)).all() and 0.17 < alone.mean() < 0.33
    again = CoTraining(SCENES, STREAMS, groups).open("train")
    np.testing.assert_array_equal(again.present, records.present)
    assert records[3]["rgb"].shape == (16, 16, 3)


def test_evaluation_owns_everything():
    records = CoTraining(SCENES, STREAMS, (Group(("caption",), 1.0),)).open("test")
    assert all((records[i]["present"] == 1).all() for i in range(20))


@pytest.mark.parametrize(
    ("groups", "sentence"),
    [((), "at least one"), ((Group(("rgb",), 0.0),), "positive"), ((Group(("rbg",), 1.0),), "own some"), ((Group((), 1.0),), "own some")],
)  # fmt: skip
def test_impossible_groups_are_refused(groups, sentence):
    with pytest.raises(ConfigError, match=sentence):
        CoTraining(SCENES, STREAMS, groups)


TASKS = (Part(("depth",), 30), Part(("caption",), 6))


def test_balanced_parts_come_alike_and_otherwise_by_their_sizes():
    by_size = Balanced(SCENES, STREAMS, TASKS, balance=False).open("train")
    alike = Balanced(SCENES, STREAMS, TASKS).open("train")
    assert len(by_size) == 36 and [(by_size.part == k).sum() for k in (0, 1)] == [30, 6]
    assert len(alike) == 60 and [(alike.part == k).sum() for k in (0, 1)] == [30, 30]
    for k in (0, 1):  # the same records, whatever the balance; no record has two parts
        assert {*by_size.at[by_size.part == k].tolist()} == {*alike.at[alike.part == k].tolist()}
    assert len({*by_size.at.tolist()}) == 36
    assert by_size[0]["present"].tolist() == [0, 1, 0] and alike[59]["present"].tolist() == [0, 0, 1]
    assert alike[0]["rgb"].shape == (16, 16, 3)
    assert all(Balanced(SCENES, STREAMS, TASKS).open("test")[i]["present"].all() for i in range(20))


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [((), "at least one"), ((Part(("rgb",), 0),), "at least 1 record"), ((Part(("rbg",), 3),), "own some"), ((Part(("rgb",), 401),), "401 records together")],
)  # fmt: skip
def test_impossible_parts_are_refused(parts, sentence):
    with pytest.raises(ConfigError, match=sentence):
        Balanced(SCENES, STREAMS, parts).open("train")
