import json

import numpy as np
import pytest

from mmrep.config import from_json, to_json
from mmrep.data.arrays import Arrays
from mmrep.errors import DataError


def few():
    return {"x": np.arange(6.0).reshape(3, 2), "text": ["a", ("b", "c"), ["d", "e"]]}


def test_arrays_are_records():
    source = Arrays(few(), test=few)
    assert len(source.open("train")) == 3 and source.open("test")[1]["x"].tolist() == [2, 3]
    assert list(source.texts("train")) == [*"abcde"]
    assert source.view(source.open("train")[1], None)["text"] == "b"
    with pytest.raises(DataError, match=r"Arrays.val was not given: give \{field: array\}$"):
        source.open("val")
    with pytest.raises(DataError, match="columns of one length, found 3 of x, 2 of y"):
        Arrays({"x": np.zeros(3), "y": np.zeros(2)}).open("train")


def test_a_stored_config_holds_functions_by_name_and_arrays_by_a_digest():
    named = from_json(json.loads(json.dumps(to_json(Arrays(few)))))
    assert named.train is few and to_json(named) == to_json(Arrays(few))
    stored = json.loads(json.dumps(to_json(Arrays(few()))))
    assert stored == to_json(Arrays(few())) != to_json(Arrays(few() | {"x": np.zeros(3)}))
    with pytest.raises(DataError, match="a stored config does not hold arrays: give them again"):
        from_json(stored).open("train")
    assert to_json(from_json(stored)) == stored
