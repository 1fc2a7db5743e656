"""Rows of JSON lines as records of triples: what is missing, how many hard negatives, and pictures."""

import json

import numpy as np
import pytest

from mmrep.data.triples import NOTHING, Triples, fields
from mmrep.errors import ConfigError, DataError

ROW = {"instruction": "find", "query_text": "a", "query_image": None, "target_text": "b", "target_image": [[1, 2]], "negative_text": ["c"], "negative_image": []}  # fmt: skip
BLANK = np.zeros((1, 2), np.float32)
WHOLE = (1.0, 0.0, 0.0)


def write(path, rows):
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return str(path)


def test_what_a_row_lacks_is_marked():
    record = fields(ROW, 3, BLANK, lambda x: np.asarray(x, np.float32))
    assert record["query_has"].tolist() == [1, 0] and record["target_has"].tolist() == [1, 1]
    assert record["negative_has"].tolist() == [[1, 0], [0, 0], [0, 0]] and record["negative_text"] == [
        "c",
        NOTHING,
        NOTHING,
    ]
    assert (
        record["target_image"].tolist() == [[1, 2]]
        and not record["query_image"].any()
        and record["negative_image"].shape == (3, 1, 2)
    )
    assert len(fields(ROW | {"negative_text": list("cdefg")}, 2, BLANK, np.asarray)["negative_text"]) == 2


def test_records_of_codes_and_their_errors(tmp_path):
    path = write(
        tmp_path / "pairs.jsonl",
        [ROW, ROW | {"instruction": ""}, ROW | {"target_text": "", "target_image": None}, ROW | {"target_image": [1]}],
    )
    records = Triples(path, shape=(1, 2), fractions=WHOLE).open("train")
    assert len(records) == 4 and records[0]["target_text"] == "b" and records[0]["file"].endswith("line 1")
    for i, words in ((1, "no instruction"), (2, "neither text nor picture"), (3, "shape")):
        with pytest.raises(DataError, match=words):
            records[i]
    source = Triples(path, shape=(1, 2), fractions=WHOLE)
    assert {"find", "a", "b", "c", NOTHING} <= {*source.texts("train")}


def test_pictures_are_beside_the_file(tmp_path):
    from PIL import Image

    Image.fromarray(np.full((8, 6, 3), 200, np.uint8)).save(tmp_path / "x.png")
    row = ROW | {"target_image": "x.png", "query_image": "x.png", "negative_image": ["x.png"]}
    path = write(tmp_path / "pairs.jsonl", [row, row | {"query_image": 3}])
    records = Triples(path, negatives=2, size=(4, 4), fractions=WHOLE).open("train")
    record = records[0]
    assert record["query_image"].shape == (4, 4, 3) and (record["query_image"] == 200).all()
    assert record["negative_image"].shape == (2, 4, 4, 3) and record["negative_has"].tolist() == [[1, 1], [0, 0]]
    with pytest.raises(DataError, match="path"):
        records[1]
    with pytest.raises(ConfigError, match="negatives"):
        Triples(path, negatives=0)
