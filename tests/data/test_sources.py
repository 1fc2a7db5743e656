import csv
import io
import json
import os
import pickle
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile
from files import EVERY, encoded, picture, sound, write_shard, write_table
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mmrep import modality, raw
from mmrep.config import Data, from_json, to_json
from mmrep.data import decode, pipeline, shards, splits
from mmrep.data.sources import TFDS, Folder, Limits, Shards, Table
from mmrep.errors import ConfigError, DataError

# --- decoding ---


@given(
    st.integers(1, 9), st.integers(1, 9), st.sampled_from([("RGB", 3), ("L", 1), ("RGBA", 4), ("LA", 2)]),
    st.sampled_from(["PNG", "TIFF", "WEBP"]), st.randoms(use_true_random=False),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_lossless_images_come_back_with_transparency_on_white(height, width, mode, kind, random):
    name, channels = mode
    if kind == "WEBP":
        name, channels = "RGB", 3
    values = np.array([[[random.randrange(256) for _ in range(channels)] for _ in range(width)] for _ in range(height)])
    pixels = values.astype(np.uint8)
    data = encoded(
        Image.fromarray(pixels[..., 0] if channels == 1 else pixels, name),
        kind,
        **({"lossless": True} if kind == "WEBP" else {}),
    )
    got = decode.image(data, "x")
    assert got.dtype == np.uint8 and got.shape == (height, width, 3)
    alpha = values[..., -1:] / 255.0 if name in ("RGBA", "LA") else 1.0
    colour = values[..., : 3 if channels >= 3 else 1]
    want = np.broadcast_to(colour * alpha + 255.0 * (1 - alpha), got.shape)
    assert np.abs(got.astype(float) - want).max() <= 1.0


def test_exif_rotation_is_applied():
    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[0, 0] = 255  # top left
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise
    got = decode.image(encoded(image, "PNG", exif=exif), "x")
    assert got.shape == (6, 4, 3)
    assert got[0, 3].tolist() == [255, 255, 255] and got[0, 0].tolist() == [0, 0, 0]


def test_sixteen_bit_grey_is_scaled_not_clipped():
    values = np.array([[0, 257 * 7, 65_535]], np.uint16)
    assert decode.image(encoded(Image.fromarray(values)), "x")[0, :, 1].tolist() == [0, 7, 255]


def test_palette_with_transparent_entry_is_white_there():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    got = decode.image(encoded(image, "PNG", transparency=0), "x")
    assert got[0].tolist() == [[255, 255, 255], [200, 100, 50]]


@given(st.binary(max_size=300))
@settings(max_examples=100, deadline=None)
def test_any_bytes_are_an_image_or_one_sentence(data):
    for decoder in (decode.image, lambda d, w: decode.audio(d, w, 16_000), decode.text):
        try:
            decoder(data, "file.x")
        except DataError as error:
            assert str(error).startswith("file.x") and "\n" not in str(error)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP"])
@given(share=st.floats(0.0, 0.9))
@settings(max_examples=15, deadline=None)
def test_truncated_images_are_refused(kind, share):
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    with pytest.raises(DataError, match=r"a\.jpg: not a whole image"):
        decode.image(data[: int(len(data) * share)], "a.jpg")


def test_bombs_are_refused_before_any_pixel_is_decoded():
    data = encoded(Image.new("L", (5000, 4000)))
    with pytest.raises(DataError, match=r"a\.png: the image has 5000 x 4000 pixels.*limits\.pixels"):
        decode.image(data, "a.png", Limits(pixels=1_000_000))
    header = encoded(Image.new("1", (1, 1)))
    bomb = header[:16] + (60_000).to_bytes(4, "big") * 2 + header[24:29]
    import zlib

    bomb += zlib.crc32(bomb[12:29]).to_bytes(4, "big") + header[33:]
    with pytest.raises(DataError, match=r"a\.png: the image is a decompression bomb"):
        decode.image(bomb, "a.png")


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3"])
def test_sound_is_mono_and_resampled(kind):
    wave = decode.audio(sound(44_100, 0.5, 2, kind), "x", 16_000)
    assert wave.dtype == np.float32 and wave.ndim == 1 and abs(len(wave) - 8000) < 1000
    middle = wave[2000:6000]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    assert abs(np.argmax(spectrum) * 16_000 / len(middle) - 440) < 8
    assert abs(np.sqrt(np.mean(middle**2)) - 0.5 / np.sqrt(2)) < 0.02


@given(st.sampled_from([8000, 11_025, 16_000, 22_050, 44_100, 48_000]), st.sampled_from([8000, 16_000, 24_000]))
@settings(max_examples=20, deadline=None)
def test_resampling_keeps_length_and_range(found, rate):
    wave = np.random.default_rng(found + rate).uniform(-1, 1, 1000).astype(np.float32)
    out = decode.resample(wave, found, rate, "x")
    assert len(out) == -(-1000 * rate // found) and np.abs(out).max() <= 1.0 and out.dtype == np.float32


def test_high_tones_do_not_alias():
    t = np.arange(44_100) / 44_100
    out = decode.resample(np.sin(2 * np.pi * 15_000 * t).astype(np.float32), 44_100, 16_000, "x")
    assert np.sqrt(np.mean(out[1000:-1000] ** 2)) < 0.02


def test_bad_sounds_are_named():
    whole = sound()
    for data, sentence in [
        (whole[:1000], "truncated"), (sound(kind="FLAC")[:300], r"truncated|not a whole sound"), (sound(seconds=0), "no samples"),
        (b"RIFFnonsense", "not a whole sound"), (b"", "not a whole sound"),
    ]:  # fmt: skip
        with pytest.raises(DataError, match=rf"a\.wav: .*({sentence})"):
            decode.audio(data, "a.wav", 16_000)
    with pytest.raises(DataError, match=r"lasts 2 s, more than the limit of 1"):
        decode.audio(sound(seconds=2), "a.wav", 16_000, Limits(seconds=1.0))
    bad = io.BytesIO()
    soundfile.write(bad, np.array([0.0, np.nan, 0.0]), 16_000, format="WAV", subtype="FLOAT")
    with pytest.raises(DataError, match="NaN"):
        decode.audio(bad.getvalue(), "a.wav", 16_000)


def test_texts():
    assert decode.text("\ufeffein Hund \n".encode(), "x") == "ein Hund"
    for data, sentence in [
        ("ä".encode("latin-1"), "byte 0 is not UTF-8"),
        (b" \n", "empty"),
        (b"a" * 100_001, "100,001 characters"),
    ]:
        with pytest.raises(DataError, match=f"a.txt: .*{sentence}"):
            decode.text(data, "a.txt")
    with pytest.raises(DataError, match="expected text, found int"):
        decode.caption(3, "a.txt")
    with pytest.raises(DataError, match="not UTF-8"):
        decode.caption("a\udcff", "a.txt")


# --- splits ---


@given(st.lists(st.text(min_size=1), unique=True, max_size=50), st.lists(st.text(min_size=1), max_size=50))
@settings(max_examples=30, deadline=None)
def test_hashed_splits_partition_and_never_move(keys, more):
    before = {k: splits.hashed(k) for k in keys}
    after = {k: splits.hashed(k) for k in [*more, *keys]}
    assert splits.hashed("e\u0301") == splits.hashed("é")
    assert all(after[k] == s and s in splits.NAMES for k, s in before.items())


def test_hashed_shares_and_pinned_values():
    found = [splits.hashed(f"item {i}") for i in range(5000)]
    assert [round(found.count(n) / 5000, 1) for n in splits.NAMES] == [0.8, 0.1, 0.1]
    # pinned: a change of the hash would move everybody's test items into training
    assert [i for i in range(40) if splits.hashed(f"item {i}") == "val"] == [6, 15, 16, 29]
    assert [i for i in range(40) if splits.hashed(f"item {i}") == "test"] == [0, 14, 22, 28]


# --- Folder ---


@pytest.fixture
def photos(tmp_path):
    for i, word in enumerate(["red", "green", "blue", "grey", "pink"]):
        picture(tmp_path / "photos" / f"{word}.png", (i, 0, 0))
        (tmp_path / "photos" / f"{word}.txt").write_text(f"a {word} square\nsomething {word}\n", encoding="utf-8")
    return tmp_path / "photos"


def test_folder_with_defaults(photos):
    (photos / "blue.WAV").write_bytes(sound(8000))
    (photos / "README.txt").write_text("about")
    (photos / ".hidden.png").write_bytes(b"no")
    source = Folder(photos)
    parts = {}
    for name in splits.NAMES:
        try:
            parts[name] = [r["file"] for r in source.open(name)]
        except DataError as error:
            assert f"split '{name}' is empty" in str(error)
    assert sorted(f for part in parts.values() for f in part) == sorted(str(p) for p in photos.glob("[a-z]*.png"))
    records = Folder(photos, fractions=EVERY).open("train")
    assert records.unused == (str(photos / "README.txt"),)
    blue = records[0]
    assert blue["image"].shape == (4, 6, 3) and blue["image"][0, 0].tolist() == [2, 0, 0]
    assert blue["text"] == ("a blue square", "something blue") and blue["audio"].shape == (1600,)
    assert "audio" not in records[1] and "label" not in blue


def test_folder_views_are_fixed_in_evaluation_and_drawn_in_training(photos):
    source = Folder(photos, fractions=EVERY)
    record = source.open("train")[0]
    assert source.view(record, None)["text"] == "a blue square"
    drawn = {source.view(record, np.random.default_rng(s))["text"] for s in range(20)}
    assert drawn == {"a blue square", "something blue"}
    assert len(list(source.texts("train"))) == 10
    whole = Folder(photos, fractions=EVERY, lines=False)
    assert whole.open("train")[0]["text"] == ("a blue square\nsomething blue",)


def test_class_folders_are_labels_and_captions_in_all_splits(tmp_path):
    for split, names in [("train", ["cat", "hot_dog"]), ("val", ["hot_dog"]), ("test", ["zebra"])]:
        for name in names:
            picture(tmp_path / split / name / "1.jpg")
    source = Folder(tmp_path)
    assert [(r["label"], r["text"]) for r in source.open("train")] == [(0, ("cat",)), (1, ("hot dog",))]
    assert [(r["label"], r["text"]) for r in source.open("val")] == [(1, ("hot dog",))]
    assert source.open("test")[0]["label"] == 2 and source.open("test").classes == ("cat", "hot_dog", "zebra")
    assert list(source.texts("train")) == ["cat", "hot dog"]


def test_group_keeps_records_together(tmp_path):
    for i in range(60):
        picture(tmp_path / f"p{i % 20}_{i}.png", size=(1, 1))
    where = {}
    for name in splits.NAMES:
        for record in Folder(tmp_path, group=r"(p\d+)_").open(name):
            where.setdefault(os.path.basename(record["file"]).split("_")[0], set()).add(name)
    assert len(where) == 20 and all(len(s) == 1 for s in where.values())
    with pytest.raises(DataError, match="no match of group"):
        Folder(tmp_path, group=r"(q\d+)").open("train")


def test_folder_without_images_is_of_sounds(tmp_path):
    (tmp_path / "a.wav").write_bytes(sound())
    (tmp_path / "a.txt").write_text("a tone")
    record = Folder(tmp_path, fractions=EVERY).open("train")[0]
    assert record["text"] == ("a tone",) and set(record) == {"file", "text", "audio"}


def test_folder_says_what_is_wrong(tmp_path, photos):
    source = Folder(photos, fractions=EVERY)
    cases = [
        (lambda: Folder("no/such").open("train"), "no/such is not a folder"),
        (lambda: source.open("trian"), "did you mean 'train'"),
        (lambda: source.open("val"), r"split 'val' is empty \(train 5, val 0, test 0\).*fractions"),
        (lambda: Folder(photos, text="folder").open("train"), "no class folders"),
    ]
    for call, sentence in cases:
        with pytest.raises(DataError, match=sentence):
            call()
    for bad in (
        lambda: Folder("x", group="("),
        lambda: Folder("x", group="p"),
        lambda: Folder("x", fractions=(1.0, 1.0, 0.0)),
    ):
        with pytest.raises(ConfigError, match=r"group|fractions"):
            bad()
    (photos / "blue.txt").unlink()
    with pytest.raises(DataError, match=r"blue\.png has no caption: write .*blue\.txt"):
        source.open("train")[0]
    assert len(list(source.texts("train"))) == 8
    (photos / "green.txt").write_bytes(b"a" * 10_000_000)
    with pytest.raises(DataError, match=r"green\.txt has 10,000,000 bytes"):
        source.open("train")[1]
    (photos / "grey.png").write_bytes((photos / "grey.png").read_bytes()[:40])
    with pytest.raises(DataError, match=r"grey\.png: not a whole image"):
        source.open("train")[2]
    picture(photos / "pink.jpg")
    with pytest.raises(DataError, match=r"pink\.(jpg|png) and pink\.(jpg|png) are both the image"):
        source.open("train")
    (photos / "pink.jpg").unlink()
    picture(photos / "train" / "x.png")
    with pytest.raises(DataError, match="is outside the folders train/"):
        source.open("train")


def test_linked_folders_are_followed_once(tmp_path):
    picture(tmp_path / "real" / "a.png")
    (tmp_path / "real" / "loop").symlink_to(tmp_path / "real")
    (tmp_path / "set").symlink_to(tmp_path / "real")
    assert len(Folder(tmp_path / "set", fractions=EVERY).open("train")) == 1


# --- Table ---


@pytest.fixture
def pairs(tmp_path):
    for i in range(3):
        picture(tmp_path / "img" / f"{i}.png", (i, 0, 0))
    rows = [
        ["image", "caption"],
        ["img/0.png", 'a "red", square'],
        ["img/1.png", "zwei\nZeilen"],
        ["img/0.png", "again"],
        ["img/2.png", "x"],
    ]
    write_table(tmp_path / "pairs.csv", rows)
    return tmp_path / "pairs.csv"


def test_table_with_defaults_merges_rows_of_one_image(pairs):
    records = Table(pairs, fractions=EVERY).open("train")
    assert [r["text"] for r in records] == [('a "red", square', "again"), ("zwei\nZeilen",), ("x",)]
    assert [int(r["image"][0, 0, 0]) for r in records] == [0, 1, 2]
    assert records[1]["file"] == f"{pairs} line 3" and records[2]["file"] == f"{pairs} line 6"
    assert list(Table(pairs, fractions=EVERY).texts("train")) == ['a "red", square', "again", "zwei\nZeilen", "x"]


def test_table_formats_agree(tmp_path):
    rows = [("a.png", "ein Bär", 1), ("b.png", "zwei", 0)]
    for name in "ab":
        picture(tmp_path / f"{name}.png")
    (tmp_path / "t.jsonl").write_text(
        "\n".join(json.dumps({"image": i, "caption": c, "y": y}) for i, c, y in rows) + "\n\n"
    )
    (tmp_path / "t.tsv").write_text(
        "image\tcaption\ty\n" + "".join(f"{i}\t{c}\t{y}\n" for i, c, y in rows), "utf-8-sig"
    )
    write_table(tmp_path / "t.csv", [("image", "caption", "y"), *rows])
    got = [
        [
            (r["text"], r["label"], r["y"])
            for r in Table(tmp_path / f"t.{e}", label="y", extra=("y",), fractions=EVERY).open("train")
        ]
        for e in ("jsonl", "tsv", "csv")
    ]
    assert got[0] == got[1] == got[2] == [(("ein Bär",), 1, 1), (("zwei",), 0, 0)]


def test_table_columns(tmp_path):
    (tmp_path / "a.wav").write_bytes(sound(8000))
    rows = [
        {"en": ["dog", "a dog"], "de": "Hund", "sound": "a.wav", "kind": "pet", "vec": [1, 2.5], "split": "train"},
        {"en": "wolf", "de": "Wolf", "sound": "a2.wav", "kind": "wild", "vec": [0, 0], "split": "validation"},
    ]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = Table(
        tmp_path / "t.jsonl", image=None, text=("en", "de"), audio="sound", label="kind", extra=("vec",), rate=8000
    )
    record = source.open("train")[0]
    assert record["text"] == ("dog", "a dog", "Hund") and record["de"] == ("Hund",) and record["label"] == 0
    assert record["vec"].tolist() == [1.0, 2.5] and record["audio"].shape == (800,)
    assert source.view(record, None)["en"] == "dog"
    assert source.open("val").classes == ("pet", "wild")
    with pytest.raises(DataError, match=r"t\.jsonl line 2, sound: .*a2\.wav cannot be read"):
        source.open("val")[0]


def test_table_says_what_is_wrong_with_the_table(tmp_path, pairs):
    cases = [
        (lambda: Table("none.csv").open("train"), r"none\.csv cannot be read"),
        (lambda: Table(pairs, text="captoin").open("train"), r"no column 'captoin' for text \(did you mean 'caption'"),
        (lambda: Table(pairs, split="part").open("train"), "no column 'part' for split"),
        (lambda: Table(pairs, fractions=EVERY).open("test"), r"split 'test' is empty \(train 3"),
    ]
    for name, text, sentence in [
        ("semi.csv", "image;caption\na;b\n", "set delimiter"), ("empty.csv", "", "has no rows"),
        ("twice.csv", "image,caption,caption\na,b,c\n", "'caption' twice"), ("q.csv", 'image,caption\na,"b\nc,d\n', "line 2: .*quotes"),
        ("split.csv", "image,caption,split\na,b,tset\n", "line 2: split 'tset' is no split .*'test'"),
        ("two.csv", "image,caption,split\na,b,test\na,c,train\n", "lines 2 and 3 .*split 'test' and 'train'"),
    ]:  # fmt: skip
        (tmp_path / name).write_text(text)
        cases.append((lambda name=name: Table(tmp_path / name).open("train"), sentence))
    (tmp_path / "wide.csv").write_text("image,caption\na,b\n", "utf-16")
    cases.append((lambda: Table(tmp_path / "wide.csv").open("train"), "UTF-16"))
    (tmp_path / "leak.csv").write_text("image,caption,split,who\na,b,test,ann\nc,d,train,ann\n")
    cases.append(
        (lambda: Table(tmp_path / "leak.csv", group="who").open("train"), "who 'ann' is in split 'test'.*'train'")
    )
    (tmp_path / "label.csv").write_text("image,caption,y\na,b,1\na,d,2\n")
    cases.append((lambda: Table(tmp_path / "label.csv", label="y").open("train"), "lines 2 and 3 .*label '1' and '2'"))
    for call, sentence in cases:
        with pytest.raises(DataError, match=sentence):
            call()
    for bad in (
        lambda: Table("a.xlsx"),
        lambda: Table("a.csv", image=None, text=None),
        lambda: Table("a.csv", delimiter="::"),
    ):
        with pytest.raises(ConfigError, match=r"path|all empty|delimiter"):
            bad()


def test_bad_rows_are_single_bad_records(tmp_path):
    picture(tmp_path / "a.png")
    lines = [
        {"image": "a.png", "caption": "fine"}, {"image": 7, "caption": "b"}, {"image": "a.png", "caption": 3, "n": 1},
        {"image": "https://x.y/z.png", "caption": "c"}, {"caption": "d"}, {"image": "b.png"}, {"image": "c.png", "caption": "x" * 100_001},
    ]  # fmt: skip
    text = "\n".join(map(json.dumps, lines)) + "\nnot json\n[1]\n"
    (tmp_path / "t.jsonl").write_text(text)
    records = Table(tmp_path / "t.jsonl", fractions=EVERY).open("train")
    sentences = {}
    for i in range(len(records)):
        with pytest.raises(DataError) as error:
            records[i]
        sentences[i] = str(error.value)
    sentences = [sentences[i].split("t.jsonl ")[1] for i in sentences]
    for sentence, starts in zip(
        sentences,
        ["line 3, caption: expected text, found int", "line 2, image: expected the path", "line 4, image: https", "line 5, image: expected",
         "line 6, caption: there is no caption", "line 7, caption: the text has 100,001", "line 8: not JSON", "line 9: expected an object"],
    ):  # fmt: skip
        assert sentence.startswith(starts), sentence


def test_ragged_and_huge_csv_rows_do_not_end_the_table(tmp_path):
    picture(tmp_path / "a.png")
    (tmp_path / "t.csv").write_text(f"image,caption\na.png,fine\nb.png,one, two\nc.png\nd.png,{'x' * 10_000_000}\n")
    before = csv.field_size_limit()
    records = Table(tmp_path / "t.csv", fractions=EVERY).open("train")
    assert csv.field_size_limit() == before and len(records) == 4 and records[0]["text"] == ("fine",)
    for i, sentence in [
        (1, "line 3: the row has 3 cells, the header 2"),
        (2, "line 4: the row has 1"),
        (3, "line 5.*10,000,000 characters"),
    ]:
        with pytest.raises(DataError, match=sentence):
            records[i]
    assert list(Table(tmp_path / "t.csv", fractions=EVERY).texts("train")) == ["fine"]


@given(
    st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1).filter(lambda t: not raw.blank(t)),
        min_size=1,
        max_size=8,
    )
)
@settings(max_examples=30, deadline=None)
def test_any_caption_survives_csv_and_jsonl(tmp_path_factory, captions):
    folder = tmp_path_factory.mktemp("any")
    write_table(folder / "t.csv", [["caption"], *[[c] for c in captions]])
    (folder / "t.jsonl").write_text("".join(json.dumps({"caption": c}) + "\n" for c in captions))
    for name in ("t.csv", "t.jsonl"):
        records = Table(folder / name, image=None, fractions=EVERY).open("train")
        assert [r["text"] for r in records] == [(c.strip(),) for c in captions]


# --- Shards ---


def sample(key, colour, caption):
    return [
        (f"{key}.png", encoded(Image.new("RGB", (4, 3), colour))),
        (f"{key}.txt", caption.encode()),
        (f"{key}.cls", b"3"),
    ]


@pytest.fixture
def tars(tmp_path):
    for s in range(3):
        members = [m for i in range(4) for m in sample(f"./d/{s}{i}", (s, i, 0), f"shard {s} item {i}")]
        write_shard(tmp_path / f"data-{s:03d}.tar", members)
    return tmp_path


def test_shards_give_random_access(tars):
    source = Shards(str(tars / "data-{000..002}.tar"), fractions=EVERY)
    records = source.open("train")
    assert len(records) == 12
    for i in (11, 0, 6):
        record = records[i]
        assert record["image"][0, 0].tolist() == [i // 4, i % 4, 0] and record["label"] == 3
        assert source.view(record, None)["text"] == f"shard {i // 4} item {i % 4}"
        assert record["file"] == f"{tars}/data-{i // 4:03d}.tar record d/{i // 4}{i % 4}"
    assert len(list(source.texts("train"))) == 12
    assert len(Shards(str(tars / "*.tar"), fractions=EVERY).open("train")) == 12
    mapped = Shards({"train": str(tars / "data-{000,002}.tar"), "val": str(tars / "data-001.tar")})
    assert len(mapped.open("train")) == 8 and mapped.open("val")[0]["text"] == ("shard 1 item 0",)
    with pytest.raises(DataError, match="no split 'test': it has train, val"):
        mapped.open("test")


def test_shards_are_read_by_threads(tars):
    records = Shards(str(tars / "*.tar"), fractions=EVERY).open("train")
    got = {}
    threads = [threading.Thread(target=lambda i=i: got.update({i: records[i]["text"][0]})) for i in range(12)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert got == {i: f"shard {i // 4} item {i % 4}" for i in range(12)}


def test_index_is_built_once_and_again_when_the_shard_changes(tars, monkeypatch):
    path = tars / "data-000.tar"
    built = []
    build = shards._build
    monkeypatch.setattr(shards, "_build", lambda p: built.append(p) or build(p))
    source = Shards(str(path), fractions=EVERY)
    source.open("train")
    source.open("train")
    assert len(built) == 1 and (tars / "data-000.tar.index.npz").exists()
    write_shard(path, sample("new", (9, 9, 9), "new"))
    os.utime(path, ns=(1, 1))
    assert source.open("train")[0]["text"] == ("new",) and len(built) == 2
    os.utime(path, ns=(2, 2))  # same size, another time
    source.open("train")
    assert len(built) == 3
    (tars / "data-000.tar.index.npz").write_bytes(b"PK\x03\x04 cut short")
    assert len(source.open("train")) == 1 and len(built) == 4
    elsewhere = Shards(str(path), fractions=EVERY, index=str(tars / "cache"))
    elsewhere.open("train")
    assert len(list((tars / "cache").glob("*.index.npz"))) == 1


def test_members_apart_are_gathered_and_endings_are_read(tmp_path):
    emb = io.BytesIO()
    np.save(emb, np.arange(3.0))
    about = json.dumps({"captions": ["one", "two"], "age": 7}).encode()
    write_shard(
        tmp_path / "a.tar",
        [("a/x.jpg", encoded(Image.new("RGB", (2, 2)), "JPEG")), ("._x.jpg", b"mac"), ("a/y.jpg", b"bad"), ("a/x.json", about),
         ("a/x.emb.npy", emb.getvalue()), ("a/y.json", b"{}"), ("a/x.WAV", sound()), ("note", b"no ending")],
    )  # fmt: skip
    records = Shards(
        str(tmp_path / "a.tar"), text=("txt", "json:captions"), extra=("emb.npy", "json:age"), fractions=EVERY
    ).open("train")
    assert len(records) == 2
    record = records[0]
    assert (
        record["text"] == ("one", "two")
        and record["emb"].tolist() == [0, 1, 2]
        and record["age"] == 7
        and len(record["audio"]) == 1600
    )
    with pytest.raises(DataError, match=r"a\.tar record a/y has no caption"):
        records[1]


def test_nothing_is_unpickled(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "pwned"),)

    evil = pickle.dumps(Evil())
    array = io.BytesIO()
    np.save(array, np.array([Evil()], dtype=object), allow_pickle=True)
    write_shard(
        tmp_path / "a.tar",
        [*sample("x", (1, 1, 1), "x"), ("x.pyd", evil), ("x.pkl", evil), ("x.npy", array.getvalue())],
    )
    pattern = str(tmp_path / "a.tar")
    assert Shards(pattern, fractions=EVERY).open("train")[0]["text"] == ("x",)
    with pytest.raises(DataError, match=r"record x\.npy: not an array file"):
        Shards(pattern, extra=("npy",), fractions=EVERY).open("train")[0]
    for ending in ("pyd", "pkl", "emb.pth"):
        with pytest.raises(ConfigError, match="never read"):
            Shards(pattern, extra=(ending,))
    (tmp_path / "a.tar.index.npz").write_bytes(evil)
    assert len(Shards(pattern, fractions=EVERY).open("train")) == 1 and not (tmp_path / "pwned").exists()


def test_shards_say_what_is_wrong(tmp_path, tars):
    whole = (tars / "data-000.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[: 512 + 40])
    (tmp_path / "empty.tar").write_bytes(b"")
    (tmp_path / "noise.tar").write_bytes(b"x" * 2000)
    (tmp_path / "z.tar.gz").write_bytes(b"x")
    write_shard(tmp_path / "dup.tar", [*sample("x", (0, 0, 0), "x"), ("x.txt", b"again")])
    write_shard(tmp_path / "cls.tar", [("x.png", sample("x", (0, 0, 0), "x")[0][1]), ("x.cls", b"cat")])
    cases = [
        ("data-{000..003}.tar", r"data-003\.tar is missing"), ("no-*.tar", "no shard matches"), ("{5..3}.tar", "counts from 5 down"),
        ("cut.tar", r"cut\.tar is (cut short|not a whole)"), ("empty.tar", "not a whole tar"), ("noise.tar", "not a whole tar"),
        ("z.tar.gz", "compressed"),
    ]  # fmt: skip
    for name, sentence in cases:
        with pytest.raises(DataError, match=sentence):
            Shards(str(tmp_path / name), fractions=EVERY).open("train")
    with pytest.raises(DataError, match=r"dup\.tar record x: it has two members \.txt"):
        Shards(str(tmp_path / "dup.tar"), fractions=EVERY).open("train")[0]
    with pytest.raises(DataError, match=r"record x\.cls: expected a whole number, found 'cat'"):
        Shards(str(tmp_path / "cls.tar"), fractions=EVERY).open("train")[0]
    with pytest.raises(ConfigError, match="no split 'trian'"):
        Shards({"trian": "a.tar"})


@given(
    st.dictionaries(
        st.from_regex(r"[a-z]{1,3}(/[a-z]{1,3})?", fullmatch=True),
        st.binary(min_size=1, max_size=700),
        min_size=1,
        max_size=9,
    )
)
@settings(max_examples=30, deadline=None)
def test_offsets_find_the_members(tmp_path_factory, contents):
    path = str(tmp_path_factory.mktemp("tar") / "x.tar")
    write_shard(path, [(f"{k}.bin", v) for k, v in contents.items()])
    built, stored = shards.index(path), shards.index(path)
    data = Path(path).read_bytes()
    for found in (built, stored):
        got = {}
        for i in range(len(found.first) - 1):
            [(ending, offset, size)] = found.members(i)
            got[found.key(i)] = data[offset : offset + size]
        assert got == contents and ending == "bin"


# --- TFDS ---


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    import tensorflow_datasets as tfds

    class TinySet(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        __module__ = "nowhere"  # a module of a package would make TFDS ask for importlib_resources

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
                "mask": tfds.features.Image(shape=(None, None, 1), encoding_format="png"),
                "captions": tfds.features.Sequence({"text": tfds.features.Text(), "id": np.int64}),
                "title": tfds.features.Text(),
                "label": tfds.features.ClassLabel(names=["cat", "dog"]),
                "sound": tfds.features.Tensor(shape=(None,), dtype=np.int16),
            }
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(10), "validation": self._generate_examples(2)}

        def _generate_examples(self, n):
            for i in range(n):
                yield i, {
                    "image": io.BytesIO(encoded(Image.new("RGB", (8, 6), (i, 0, 0)))),
                    "mask": io.BytesIO(encoded(Image.new("L", (8, 6), i))),
                    "captions": [{"text": f"caption {i}", "id": 1}, {"text": "Bär", "id": 2}],
                    "title": f"title {i}", "label": i % 2, "sound": np.full(80, 16_384, np.int16),
                }  # fmt: skip

    folder = str(tmp_path_factory.mktemp("tfds"))
    TinySet(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder


def test_tfds_reads_without_tensorflow(prepared):
    fields = {
        "image": "image",
        "mask": "mask",
        "text": "captions/text",
        "name": "label:name",
        "label": "label",
        "sound": "sound",
    }
    source = TFDS("tiny_set", fields, data_dir=prepared, audio=("sound",), stored_rate=8000)
    records = source.open("train")
    assert len(records) == 10
    seen = set()
    for record in records:
        i = int(record["image"][0, 0, 0])
        seen.add(i)
        assert record["image"].shape == (6, 8, 3) and record["mask"].shape == (6, 8, 1) and record["mask"][0, 0, 0] == i
        assert (
            record["text"] == (f"caption {i}", "Bär")
            and record["label"] == i % 2
            and record["name"] == ["cat", "dog"][i % 2]
        )
        assert record["sound"].dtype == np.float32 and len(record["sound"]) == 160
        assert abs(float(record["sound"][80]) - 0.5) < 0.02
    assert seen == set(range(10)) and "tensorflow" not in sys.modules
    assert len(source.open("val")) == 2 and "caption 3" in list(source.texts("train"))
    assert set(TFDS("tiny_set", data_dir=prepared).open("val")[0]) == {
        "file",
        "image",
        "mask",
        "captions",
        "title",
        "label",
        "sound",
    }


def test_tfds_splits_and_sentences(prepared):
    halves = TFDS("tiny_set", splits={"train": "train[:80%]", "test": "train[80%:]"}, data_dir=prepared)
    assert len(halves.open("train")) == 8 and len(halves.open("test")) == 2
    by_path = TFDS(os.path.join(prepared, "tiny_set", "1.0.0"))
    assert len(by_path.open("val")) == 2
    cases = [
        (
            lambda: TFDS("tiny_set", data_dir=prepared).open("test"),
            "no split for 'test', only train, validation: give slices",
        ),
        (lambda: halves.open("val"), "no 'val': it has train, test"),
        (lambda: TFDS("tiny_set", splits={"train": "trian"}, data_dir=prepared).open("train"), "did you mean 'train'"),
        (
            lambda: TFDS("tiny_set", {"text": "captions/txt"}, data_dir=prepared).open("train"),
            "no feature 'txt' inside captions .*'text'",
        ),
        (lambda: TFDS("tiny_set", {"text": "titel"}, data_dir=prepared).open("train"), "did you mean 'title'"),
        (lambda: TFDS("tiny_set", {"text": "title:name"}, data_dir=prepared).open("train"), "only labels"),
        (lambda: TFDS("mnist", data_dir=prepared).open("train"), "mnist is not prepared in .*download_and_prepare"),
        (lambda: TFDS("no_such_set", data_dir=prepared).open("train"), "no_such_set is not prepared"),
    ]
    for call, sentence in cases:
        with pytest.raises(DataError, match=sentence) as error:
            call()
        assert "\n" not in str(error.value)


def test_tfds_sounds_are_named_and_its_classes_known(prepared):
    """F5: a sound that `audio` does not name has no stated rate."""
    fields = {"sound": "sound", "label": "label", "name": "label:name"}
    data = Data(TFDS("tiny_set", fields, data_dir=prepared), (modality.audio("sound", 80),))
    with pytest.raises(ConfigError, match=r"the field 'sound' is read as sound: name it in audio=\('sound',\)"):
        pipeline.open_split(data, None, "train")
    source = TFDS("tiny_set", fields, data_dir=prepared, audio=("sound",), stored_rate=16_000)
    split = pipeline.open_split(Data(source, data.modalities), None, "train")
    np.testing.assert_allclose(split.entry(0)["sound"], 0.5, atol=1e-4)
    assert split.class_names("label") == ("cat", "dog") and split.class_names("name") == ()
    digests = {source.open(s).digest() for s in ("train", "val", "train")}
    assert len(digests) == 2
    assert "no field of its 10 records is a text (sound, label)" in (
        TFDS("tiny_set", {"sound": "sound", "label": "label"}, data_dir=prepared).open("train").without_text()
    )


# --- all ---


def test_sources_are_values():
    for source in (
        Folder("photos"), Table("a.csv", text=("en", "de")), Shards({"train": "a.tar"}, text=("json:caption",)),
        TFDS("mnist", {"text": "label:name"}, {"train": "train[:90%]"}),
    ):  # fmt: skip
        again = from_json(json.loads(json.dumps(to_json(source))))
        assert again == source and hash(again) == hash(source) and repr(again) == repr(source)
