"""Folders and shards as people have them: every ending is read or named, every spelling of a name is the same name."""

import io
import json
import os
import tarfile
import unicodedata
from importlib.util import find_spec

import numpy as np
import pytest
from files import EVERY, encoded, picture, sound, write_shard
from PIL import Image, features

from mmrep import modality
from mmrep.config import Data, Tokenizer
from mmrep.data import decode, pipeline, shards
from mmrep.data.sources import Folder, Shards
from mmrep.errors import ConfigError, DataError

ODD = "a red\u2028circle\u2029on\u0085a\vtable"
NFC, NFD = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


def one(source):
    records = source.open("train")
    return [records[i] for i in range(len(records))]


# --- F15: endings ---

WRITERS = {".jpg": "JPEG", ".JPG": "JPEG", ".jpe": "JPEG", ".jfif": "JPEG", ".png": "PNG", ".apng": "PNG", ".webp": "WEBP", ".bmp": "BMP",
           ".dib": "BMP", ".gif": "GIF", ".tif": "TIFF", ".tiff": "TIFF", ".jp2": "JPEG2000", ".ppm": "PPM", ".pgm": "PPM", ".tga": "TGA"}  # fmt: skip
if features.check("avif"):
    WRITERS[".avif"] = "AVIF"


def test_pictures_of_every_ending_are_read_in_folders_and_shards(tmp_path):
    image = Image.new("RGB", (16, 16), (200, 100, 40))
    members = []
    for i, (ending, kind) in enumerate(WRITERS.items()):
        data = encoded(image, kind)
        (tmp_path / f"{i}{ending}").write_bytes(data)
        members.append((f"{i}{ending}", data))
    write_shard(tmp_path / "a.tar", members)
    (tmp_path / "shards").mkdir()
    (tmp_path / "a.tar").rename(tmp_path / "shards" / "a.tar")
    for source in (
        Folder(tmp_path, fractions=EVERY),
        Shards(str(tmp_path / "shards" / "a.tar"), text=(), fractions=EVERY),
    ):
        records = one(source)
        assert len(records) == len(WRITERS)
        for record in records:
            np.testing.assert_allclose(record["image"].mean((0, 1)), (200, 100, 40), atol=4, err_msg=record["file"])


@pytest.mark.parametrize("ending", [".wav", ".flac", ".ogg", ".mp3", ".aiff", ".au", ".caf"])
def test_sounds_of_every_ending_are_read(tmp_path, ending):
    kind = {".aiff": "AIFF"}.get(ending, ending[1:].upper())
    (tmp_path / f"a{ending}").write_bytes(sound(kind=kind))
    (record,) = one(Folder(tmp_path, fractions=EVERY))
    assert abs(np.sqrt(np.mean(record["audio"] ** 2)) - 0.5 / np.sqrt(2)) < 0.02


def test_no_file_is_dropped_unsaid(tmp_path):
    """Records used + files named as unused = files given."""
    picture(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("a")
    for name in ("b.heic.x", "c.txt", "d.m4a", "e.JXL", "f", "sub/g.caption", "Thumbs.db", ".DS_Store"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    records = Folder(tmp_path, fractions=EVERY).open("train")
    given = {str(p) for p in tmp_path.rglob("*") if p.is_file()}
    used = {records.items[0].image, records.items[0].text}
    assert used | {*records.unused} == given - {str(tmp_path / "Thumbs.db"), str(tmp_path / ".DS_Store")}
    explained = records.leftovers()
    assert "6 files belong to no record (" in explained and "1 .m4a" in explained and "1 without ending" in explained
    assert ("for .m4a: pip install av" in explained) == (find_spec("av") is None) and "; save .jxl as .png" in explained


def test_a_folder_of_unread_endings_says_which(tmp_path):
    for i in range(3):
        (tmp_path / f"{i}.jxl").write_bytes(b"x")
    with pytest.raises(
        DataError, match=r"has no image, clip or sound; it has 3 \.jxl; save \.jxl as \.png; the endings read are"
    ):
        Folder(tmp_path).open("train")


def test_members_that_no_record_reads_are_named(tmp_path):
    write_shard(
        tmp_path / "a.tar",
        [("x.png", b"1"), ("x.json", b"{}"), ("x.caption", b"1"), ("README", b"1"), ("._x.png", b"")],
    )
    records = Shards(str(tmp_path / "a.tar"), fractions=EVERY).open("train")
    assert records.leftovers().endswith(
        "a.tar: members .caption, .json are not read; 1 members are no files of the form key.ending"
    )
    assert (
        Shards(str(tmp_path / "a.tar"), text=("json:c", "caption"), fractions=EVERY)
        .open("train")
        .leftovers()
        .count("not read")
        == 0
    )


# --- F13: lines ---


def test_captions_hold_every_line_separator_but_newlines(tmp_path):
    picture(tmp_path / "a.png")
    (tmp_path / "a.txt").write_bytes(f"{ODD}\r\nsecond\rthird\n".encode())
    write_shard(
        tmp_path / "s.tar", [("a.png", (tmp_path / "a.png").read_bytes()), ("a.txt", (tmp_path / "a.txt").read_bytes())]
    )
    for source in (Folder(tmp_path, fractions=EVERY), Shards(str(tmp_path / "s.tar"), fractions=EVERY)):
        assert one(source)[0]["text"] == (ODD, "second", "third")


# --- F22: normal forms ---


@pytest.mark.parametrize(("image", "text"), [(NFC, NFD), (NFD, NFC), (NFD, NFD)])
def test_names_meet_in_every_normal_form(tmp_path, image, text):
    picture(tmp_path / f"{image}.png")
    (tmp_path / f"{text}.txt").write_text("x")
    folder = Folder(tmp_path, fractions=EVERY)
    assert one(folder)[0]["text"] == ("x",) and not folder.open("train").unused
    write_shard(tmp_path / "s.tar", [(f"{image}.png", (tmp_path / f"{image}.png").read_bytes()), (f"{text}.txt", b"x")])
    records = one(Shards(str(tmp_path / "s.tar"), fractions=EVERY))
    assert len(records) == 1 and records[0]["text"] == ("x",) and "image" in records[0]


def test_a_class_is_one_class_in_both_normal_forms(tmp_path):
    picture(tmp_path / "train" / NFC / "1.png")
    picture(tmp_path / "train" / "zebra" / "1.png")
    picture(tmp_path / "test" / NFD / "1.png")
    source = Folder(tmp_path)
    assert source.open("test").class_names("label") == (NFC, "zebra") and source.open("test")[0]["label"] == 0


# --- F23: paths and links ---


@pytest.mark.parametrize("name", ["dir [v2]", "{a}", "{a,b}", "dir (1) ü", "what?", "star*", NFC, "100% #1", "a b"])
def test_folders_of_any_name_hold_data(tmp_path, name):
    here = tmp_path / name
    picture(here / "pictures [x]" / "a.png")
    for i in range(2):
        write_shard(here / f"s-{i:03d}.tar", [(f"{i}.png", b"1")])
    assert len(Folder(here / "pictures [x]", fractions=EVERY).open("train")) == 1
    for pattern in ("s-{000..001}.tar", "s-*.tar", "s-00[01].tar", "s-00?.tar"):
        assert shards.expand(str(here / pattern)) == tuple(str(here / f"s-00{i}.tar") for i in range(2)), pattern
    assert shards.expand(str(here / "s-000.tar")) == (str(here / "s-000.tar"),)


def test_patterns_of_shards(tmp_path, monkeypatch):
    for name in ("a/1.tar", "a/2.tar", "b/1.tar", "[c]/1.tar"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_shard(tmp_path / name, [(name.replace("/", "_").replace(".tar", ".png"), b"1")])

    def found(pattern):
        return [os.path.relpath(p, tmp_path) for p in shards.expand(pattern)]

    root = str(tmp_path)
    assert found(f"{root}/*/2.tar") == ["a/2.tar"]  # b and [c] have none: what is looked up may be absent
    assert found(f"{root}/{{a/2,b/1}}.tar") == ["a/2.tar", "b/1.tar"]
    assert found(f"{root}/[c]/1.tar") == ["[c]/1.tar"] and found(f"{root}/[ab]/1.tar") == ["a/1.tar", "b/1.tar"]
    assert found((f"{root}/b/1.tar", f"{root}/a/*.tar", f"{root}/b/1.tar")) == ["b/1.tar", "a/1.tar", "a/2.tar"]
    monkeypatch.setenv("HOME", root)
    assert found("~/b/1.tar") == ["b/1.tar"]
    with pytest.raises(DataError, match=r"b/2.tar is missing: check the pattern"):
        found(f"{root}/{{a,b}}/2.tar")
    for address in ("https://x.y/a.tar", "hdfs://b/{000..003}.tar", "pipe:cat a.tar"):
        with pytest.raises(DataError, match="is an address: download the shards and give their path"):
            Shards(address).open("train")


def test_lists_of_shards_are_taken(tmp_path):
    for name in "ab":
        write_shard(tmp_path / f"{name}.tar", [(f"{name}.png", b"1")])
    both = [str(tmp_path / "a.tar"), tmp_path / "b.tar"]
    source = Shards(both, fractions=EVERY)
    assert len(source.open("train")) == 2 and hash(source) == hash(Shards(tuple(map(str, both)), fractions=EVERY))
    mapped = Shards({"train": both, "val": str(tmp_path / "b.tar")})
    assert len(mapped.open("train")) == 2 and len(mapped.open("val")) == 1
    for bad in ([], [1], 3.0, {"train": 1}):
        with pytest.raises((ConfigError, TypeError)):
            Shards(bad)


def test_links_in_a_shard_stand_for_the_member_that_they_name(tmp_path):
    """F23: the second name of a file vanished from archives of GNU tar."""
    picture(tmp_path / "d" / "a.png", (9, 0, 0))
    os.link(tmp_path / "d" / "a.png", tmp_path / "d" / "b.png")
    os.symlink("a.png", tmp_path / "d" / "c.png")
    os.symlink("gone.png", tmp_path / "d" / "e.png")
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        tar.add(tmp_path / "d", "d")
    source = Shards(str(tmp_path / "s.tar"), text=(), fractions=EVERY)
    assert [r["image"][0, 0, 0] for r in one(source)] == [9, 9, 9]
    assert "1 members are no files" in source.open("train").leftovers()


def test_a_compressed_shard_is_called_so(tmp_path):
    import gzip

    write_shard(tmp_path / "a.tar", [("x.png", b"1")])
    (tmp_path / "b.tar").write_bytes(gzip.compress((tmp_path / "a.tar").read_bytes()))
    with pytest.raises(DataError, match="b.tar is compressed"):
        Shards(str(tmp_path / "b.tar")).open("train")


def test_labels_of_shards_may_be_whole_floats(tmp_path):
    write_shard(tmp_path / "a.tar", [("x.cls", b"2.0\n"), ("y.cls", b"10"), ("z.cls", b"2.5")])
    records = Shards(str(tmp_path / "a.tar"), text=(), fractions=EVERY).open("train")
    assert [records[i]["label"] for i in range(2)] == [2, 10]
    with pytest.raises(DataError, match=r"z.cls: expected a whole number, found '2.5'"):
        records[2]


# --- F27: the six faults that ended in "data.tokenizer has no text" ---


def why(source):
    data = Data(source, (modality.text("text", 8, 300),), Tokenizer(300))
    with pytest.raises(DataError) as error:
        pipeline.fit_tokenizer(data, [source], None)
    assert "\n" not in str(error.value) and "data.tokenizer" not in str(error.value)
    return str(error.value)


def test_a_folder_without_captions_says_what_it_has(tmp_path):
    for i in range(3):
        picture(tmp_path / f"{i}.jpg")
    assert why(Folder(tmp_path, fractions=EVERY)).endswith(
        "has 3 training images and no caption: write 0.txt beside 0.jpg, or sort them into class folders"
    )
    for i in range(3):
        (tmp_path / f"{i}.caption").write_text("x")
    assert "3 training images and no caption (but 3 .caption)" in why(Folder(tmp_path, fractions=EVERY))
    for i in range(3):
        (tmp_path / f"{i}.jpg.txt").write_text("x")
    assert "captions are named 0.jpg.txt: rename them to 0.txt" in why(Folder(tmp_path, fractions=EVERY))
    for i in range(3):
        (tmp_path / f"{i}.txt").write_bytes("grün".encode("latin-1"))
    assert "none of the 3 training records has a usable caption; the first: " in (
        explained := why(Folder(tmp_path, fractions=EVERY))
    )
    assert "0.txt: byte 2 is not UTF-8" in explained


def test_shards_without_captions_say_what_they_have(tmp_path):
    png = encoded(Image.new("RGB", (2, 2)))

    def explained(*members):
        write_shard(tmp_path / "a.tar", members)
        os.utime(
            tmp_path / "a.tar", ns=(len(members), 10**9 * np.random.default_rng(len(str(members))).integers(1, 10**9))
        )
        return why(Shards(str(tmp_path / "a.tar"), fractions=EVERY))

    about = json.dumps({"caption": "x", "id": 3}).encode()
    assert explained(("0.png", png), ("0.json", about)).endswith(
        "record 0 has no caption; its members end in .png, .json: set text=('json:KEY',) with one of its keys caption, id"
    )
    assert explained(("0.png", png)).endswith("its members end in .png: name the ending in text=('txt',)")
    assert "the key of a record ends at the first dot of the file name, so write other dots as _" in explained(
        ("photo.2020.0001.png", png), ("photo.2020.0001.txt", b"x")
    )
    assert "none of the 1 training records has a usable caption; the first: " in explained(
        ("0.png", png), ("0.txt", b" ")
    )


def test_a_table_without_captions_says_why(tmp_path):
    from files import write_table

    from mmrep.data.sources import Table

    write_table(tmp_path / "t.csv", [["image", "caption"], ["a.png", ""], ["b.png", " "]])
    explained = why(Table(tmp_path / "t.csv", fractions=EVERY))
    assert (
        "none of the 2 training records has a usable caption; the first: " in explained
        and "the text is empty" in explained
    )
    assert "text is None, so no record has a caption" in why(Table(tmp_path / "t.csv", text=None, fractions=EVERY))


# --- drift ---


@pytest.mark.parametrize("make", ["folder", "shards"])
def test_the_digest_follows_names_sizes_and_captions_not_the_place(tmp_path, make):
    def digest(place, **changed):
        files = {"a.png": encoded(Image.new("RGB", (2, 2))), "a.txt": b"one", "b.png": b"12", "b.txt": b"two"} | changed
        files = {k: v for k, v in files.items() if v is not None}
        (tmp_path / place).mkdir()
        if make == "folder":
            for name, data in files.items():
                (tmp_path / place / name).write_bytes(data)
            return Folder(tmp_path / place, fractions=EVERY).open("train").digest()
        write_shard(tmp_path / place / "x.tar", files.items())
        return Shards(str(tmp_path / place / "x.tar"), fractions=EVERY).open("train").digest()

    first = digest("0")
    assert digest("1") == first
    changes = [{"c.png": b"1", "c.txt": b"x"}, {"b.txt": b"three"}, {"b.png": b"123"}, {"b.png": None, "b.txt": None}]
    changes += [{"b.txt": b"owt"}] if make == "folder" else []  # an edit that keeps the size
    assert len({first, *(digest(str(i + 2), **c) for i, c in enumerate(changes))}) == len(changes) + 1


# --- sounds have one rate ---


def test_a_sound_of_another_rate_than_its_modality_is_refused(tmp_path):
    (tmp_path / "a.wav").write_bytes(sound())
    data = Data(Folder(tmp_path, rate=8000, fractions=EVERY), (modality.audio("audio", 400),))
    with pytest.raises(ConfigError, match="modality 'audio' has rate 16000, the data source gives rate 8000"):
        pipeline.open_split(data, None, "train")
    same = Data(Folder(tmp_path, rate=8000, fractions=EVERY), (modality.audio("audio", 400, rate=8000),))
    assert pipeline.open_split(same, None, "train").entry(0)["audio_length"] == 400


def test_decode_names_what_is_beside(tmp_path):
    assert decode.by_ending(["a.JFIF", "b.jfif", "c", "x/d.txt"]) == "2 .jfif, 1 without ending, 1 .txt"
    many = decode.by_ending([f"a.e{i}" for i in range(12)])
    assert many.endswith(" and 4 other endings")
    content = io.BytesIO(b"not a picture")
    with pytest.raises(DataError, match="x.heic: not a whole image"):
        decode.image(content.getvalue(), "x.heic")
