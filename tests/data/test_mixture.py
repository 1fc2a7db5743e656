import numpy as np
import pytest

from mmrep.data.mixture import CoTraining, Group
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
