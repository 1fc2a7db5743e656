"""Labels, captions and files of a table: every way to write them gives the same records, and one odd cell makes one bad record."""

import json
import unicodedata

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from files import EVERY, encoded, picture, write_table
from PIL import Image

from mmrep.data.sources import Table
from mmrep.errors import ConfigError, DataError


def labels(path, cells, **options):
    write_table(path, [["caption", "label"], *[[f"caption {i}", cell] for i, cell in enumerate(cells)]])
    records = Table(path, image=None, label="label", fractions=EVERY, **options).open("train")
    found = []
    for i in range(len(records)):
        try:
            found.append(records[i]["label"])
        except DataError as error:
            found.append(str(error).split(", label: ")[1])
    return records.class_names("label"), found


def test_labels_as_pandas_writes_them_are_the_same_numbers(tmp_path):
    """F2: 2.0 became 4 and 10.0 became 2, since the labels were sorted as text."""
    numbers = list(range(12))
    for spelled in (numbers, [f"{n}.0" for n in numbers], [f"{n}." for n in numbers], [f" {n} " for n in numbers]):
        assert labels(tmp_path / "t.csv", spelled) == ((), numbers)
    rows = [{"caption": f"c {n}", "label": float(n)} for n in numbers]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    records = Table(tmp_path / "t.jsonl", image=None, label="label", fractions=EVERY).open("train")
    assert [r["label"] for r in records] == numbers


@pytest.mark.parametrize("odd", ["unknown", "2.5", "", "nan", "1_0", "²", "-"])
def test_one_odd_label_is_one_bad_record(tmp_path, odd):
    names, found = labels(tmp_path / "t.csv", [*range(11), odd])
    assert names == () and found[:11] == list(range(11))
    assert found[11] == f"expected a whole number as in most rows, found {odd!r}: mend it, or name the classes"


def test_names_are_sorted_and_given_classes_keep_their_order(tmp_path):
    path = tmp_path / "t.csv"
    assert labels(path, ["dog", "cat", "dog", "7"]) == (("7", "cat", "dog"), [2, 1, 2, 0])
    assert labels(path, ["dog", "cat"], classes=("dog", "cat")) == (("dog", "cat"), [0, 1])
    assert labels(path, ["2.0", "1"], classes=("1", "2"))[1] == [1, 0]
    assert labels(path, ["cat", "emu"], classes=("cat", "dog"))[1] == [0, "no class 'emu'; choose from cat, dog"]
    with pytest.raises(ConfigError, match="names a class twice"):
        Table(path, classes=("a", "a"))


def test_rows_of_one_picture_agree_in_every_column_that_is_read(tmp_path):
    write_table(tmp_path / "t.csv", [["image", "caption", "age"], ["a.png", "one", 10], ["a.png", "two", 70]])
    with pytest.raises(DataError, match=r"lines 2 and 3 show the same image or sound with age '10' and '70'"):
        Table(tmp_path / "t.csv", extra=("age",), fractions=EVERY).open("train")
    assert len(Table(tmp_path / "t.csv", fractions=EVERY).open("train")) == 1


def test_a_path_is_found_in_every_spelling(tmp_path):
    """F22: a table written on one system and files unpacked on another differ in the normal form of é."""
    nfc, nfd = (unicodedata.normalize(f, "café/é.png") for f in ("NFC", "NFD"))
    picture(tmp_path / nfd, (7, 0, 0))
    for spelled in (nfc, nfd, nfc.replace("/", "\\"), f"./{nfc}", str(tmp_path / nfc)):
        write_table(tmp_path / "t.csv", [["image", "caption"], [spelled, "x"]])
        assert Table(tmp_path / "t.csv", fractions=EVERY).open("train")[0]["image"][0, 0, 0] == 7
    write_table(tmp_path / "t.csv", [["image", "caption"], [nfc, "x"], [nfd, "y"]])
    assert Table(tmp_path / "t.csv", fractions=EVERY).open("train")[0]["text"] == ("x", "y")


def test_a_table_is_found_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_table(tmp_path / "t.csv", [["caption"], ["x"]])
    assert len(Table("~/t.csv", image=None, fractions=EVERY).open("train")) == 1


def test_a_json_array_is_named(tmp_path):
    (tmp_path / "t.jsonl").write_text('[{"caption": "x"}]')
    with pytest.raises(DataError, match=r"t.jsonl line 1: expected an object, found list: write one object a line"):
        Table(tmp_path / "t.jsonl", image=None).open("train")


# --- Parquet ---


def parquet(path, **columns):
    pq.write_table(pa.table(columns), path)
    return path


def test_parquet_gives_the_records_of_the_same_csv(tmp_path):
    for i in range(3):
        picture(tmp_path / f"{i}.png", (i, 0, 0))
    columns = {
        "image": ["0.png", "1.png", "0.png", "2.png"],
        "caption": ["a", "b", "c", "d"],
        "label": [2.0, 10.0, 2.0, 0.0],
    }
    write_table(tmp_path / "t.csv", [list(columns), *zip(*columns.values())])
    parquet(tmp_path / "t.parquet", **columns, unread=[b"x"] * 4)
    csv_, parquet_ = (Table(tmp_path / f"t.{e}", label="label", fractions=EVERY) for e in ("csv", "parquet"))
    for a, b in zip(csv_.open("train"), parquet_.open("train"), strict=True):
        assert a["text"] == b["text"] and a["label"] == b["label"] and (a["image"] == b["image"]).all()
    assert parquet_.open("train")[1]["file"] == f"{tmp_path / 't.parquet'} row 2"
    assert list(csv_.texts("train")) == list(parquet_.texts("train"))
    assert csv_.open("train")[0]["label"] == 2


def test_parquet_with_lists_missing_cells_and_encoded_files(tmp_path):
    from PIL import Image

    files = [encoded(Image.new("RGB", (4, 4), (i, 0, 0))) for i in range(3)]
    path = parquet(
        tmp_path / "t.parquet",
        image=pa.array([{"bytes": f, "path": "x.png"} for f in files]), raw=pa.array(files),
        caption=pa.array([["a", "b"], None, ["c"]]), label=pa.array([1, None, 0]), vector=pa.array([[1.0, 2.0]] * 3),
    )  # fmt: skip
    for column in ("image", "raw"):
        records = Table(path, image=column, label="label", extra=("vector",), fractions=EVERY).open("train")
        assert len(records) == 3  # equal path hints of encoded files do not merge rows
        assert records[0]["text"] == ("a", "b") and records[2]["label"] == 0 and records[2]["image"][0, 0, 0] == 2
        assert records[0]["vector"].tolist() == [1, 2]
        with pytest.raises(DataError, match=r"t.parquet row 2, caption: there is no caption"):
            records[1]
    assert records.digest() != Table(path, image="raw", fractions=EVERY).open("train").digest()


def test_a_broken_parquet_is_one_sentence(tmp_path):
    path = parquet(tmp_path / "t.parquet", caption=["a"] * 50)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match="t.parquet is not a whole Parquet file") as error:
        Table(path, image=None).open("train")
    assert "\n" not in str(error.value)
    with pytest.raises(DataError, match=r"no column 'text' for text; choose from caption"):
        Table(parquet(tmp_path / "u.parquet", caption=["a"]), image=None, text="text").open("train")
    with pytest.raises(DataError, match="has no rows"):
        Table(parquet(tmp_path / "v.parquet", caption=pa.array([], pa.string())), image=None).open("train")


# --- drift ---


def test_the_digest_follows_every_cell_that_is_read(tmp_path):
    rows = [["image", "caption", "label", "note"], ["a.png", "one", 0, "x"], ["b.png", "two", 1, "y"]]

    def digest():
        write_table(tmp_path / "t.csv", rows)
        return Table(tmp_path / "t.csv", label="label", fractions=EVERY).open("train").digest()

    first = digest()
    assert digest() == first
    rows[1][3] = "not read"
    assert digest() == first
    found = {first}
    for cell, value in (((1, 1), "uno"), ((2, 0), "c.png"), ((2, 2), 0)):
        rows[cell[0]][cell[1]] = value
        found.add(digest())
    rows.append(["d.png", "three", 1, ""])
    assert len(found | {digest()}) == 5


def test_large_columns_cost_little(tmp_path):
    """A table's rows are columns of cells, not objects."""
    write_table(tmp_path / "t.csv", [["image", "caption"], *[[f"{i}.png", "a b"] for i in range(2000)]])
    records = Table(tmp_path / "t.csv", fractions=EVERY).open("train")
    assert len(records.items) == 2000 and all(len(rows) == 1 for rows in records.items)
    assert np.asarray(records.cells.lines)[[0, -1]].tolist() == [2, 2001]


def test_a_list_of_texts_in_an_extra_column_is_a_group(tmp_path):
    rows = [{"name": f"n{i}", "options": [f"a {i}", f"b {i}"]} for i in range(4)]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    table = Table(tmp_path / "t.jsonl", image=None, text="name", extra=("options",), fractions=EVERY)
    record = table.open("train")[0]
    assert table.view(record, np.random.default_rng(0))["options"] == record["options"] and len(record["options"]) == 2
    assert {record["name"] if "name" in record else record["text"][0], *record["options"]} < {*table.texts("train")}


def test_a_table_of_numbers_has_missing_cells(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"age": 3, "vitals": [1, null]}\n{"age": null, "vitals": null}\n')
    records = Table(tmp_path / "t.jsonl", image=None, text=None, extra=("age", "vitals"), fractions=EVERY).open("train")
    np.testing.assert_array_equal(records[0]["vitals"], [1, np.nan])
    assert records[0]["age"] == 3 and np.isnan(records[1]["age"]) and np.isnan(records[1]["vitals"])


def test_videos_are_folders_of_frames_animations_arrays_and_lists_of_pictures(tmp_path):
    shades = [10, 120, 240]
    frames = [Image.new("RGB", (6, 4), (s, s, s)) for s in shades]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    (tmp_path / "b").mkdir()
    for i, frame in enumerate(frames):
        frame.save(tmp_path / "b" / f"{i}.png")
    np.save(tmp_path / "c.npy", np.stack([np.asarray(f) for f in frames]))
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.gif").write_bytes(b"GIF89a")
    videos = ["a.gif", "b", "c.npy", ["b/0.png", "b/1.png", "b/2.png"], "empty", "broken.gif", "none.gif"]
    rows = [json.dumps({"video": v, "caption": f"row {i}", "split": "test"}) for i, v in enumerate(videos)]
    (tmp_path / "t.jsonl").write_text("\n".join(rows))
    records = Table(tmp_path / "t.jsonl", image=None, video="video").open("test")
    for i in range(4):
        assert [int(f[2, 3, 1]) for f in records[i]["video"]] == pytest.approx(shades, abs=1)
    for i, match in ((4, "has no pictures"), (5, "not a whole"), (6, "cannot be read")):
        with pytest.raises(DataError, match=match):
            records[i]
